"""train_sft_trl.py with FSDP2 on CPU processes, for tests: TRAIN_SCRIPT=tests/cpu_fsdp.py bash
train_trl_fsdp.sh ...

accelerate 1.15 ignores an FSDP plugin where there is no accelerator, so its state is told that this
is FSDP after all.
"""

import runpy
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

ROOT = Path(__file__).resolve().parent.parent
construct = AcceleratorState.__init__


def construct_with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
    construct(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is None or self.distributed_type != DistributedType.MULTI_CPU:
        return
    if self.mixed_precision != "no":
        fsdp_plugin.set_mixed_precision(self.mixed_precision)
    self.fsdp_plugin = fsdp_plugin
    self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    self.device = PartialState._shared_state["device"] = torch.device("cpu")


AcceleratorState.__init__ = construct_with_fsdp
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    runpy.run_path(str(ROOT / "train_sft_trl.py"), run_name="__main__")
