"""What a process imports of which the tests fork scripts: the libraries, which take longest."""

import atexit
import gc
import importlib
import sys

LIBRARIES = [
    "fastapi",
    "matplotlib.backends.backend_agg",
    "openai.resources.chat",
    "peft.peft_model",
    "trl.trainer.sft_trainer",
    "uvicorn",
    "vllm.model_executor.layers.quantization.online.base",
    "vllm.model_executor.models.qwen3_moe",
    "vllm.reasoning.qwen3_engine_reasoning_parser",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
]

# vLLM would import it, and it reads its environment once, which each script is given its own
sys.modules["ray"] = None
for name in LIBRARIES:
    importlib.import_module(name)
del sys.modules["ray"]

# vLLM looks for garbage in all that is there when an engine ends, which takes longest of what it
# does for a tiny model: what was imported never is
gc.collect()
gc.freeze()
atexit.register(gc.unfreeze)  # some libraries would report what is frozen at the exit as leaked
gc.unfreeze = lambda: None  # which vLLM would call
