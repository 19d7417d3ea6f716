"""train_sft_trl.py on GPUs on paper, for tests: TRAIN_SCRIPT=tests/fake_gpus.py FAKE_GPUS=8 bash
train_trl.sh ...

PyTorch's own reading of CUDA_VISIBLE_DEVICES decides how many of them a process sees. Nothing can
run on them.
"""

import os
import runpy
import sys
from pathlib import Path

from torch import cuda

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import train_sft_trl  # noqa: E402, F401 -- the libraries look for GPUs when they are imported, too

cuda._raw_device_count_nvml = lambda: int(os.environ["FAKE_GPUS"])
cuda.device_count = cuda._device_count_nvml
cuda.is_available = lambda: cuda.device_count() > 0
cuda.is_bf16_supported = lambda *args, **kwargs: True
cuda.set_device = lambda device: None
cuda.get_device_name = lambda device: "a GPU on paper"
runpy.run_path(str(ROOT / "train_sft_trl.py"), run_name="__main__")
