"""vLLM's engine as steps 1 and 3 use it: its arguments, its start and its end."""

import argparse
import atexit
import contextlib
import gc
import logging
import multiprocessing.connection
import os
import shutil
import sys
import threading
import traceback
from importlib.util import find_spec
from multiprocessing import resource_tracker
from pathlib import Path

from distill.cli import one_line
from distill.quiet import leave_out_noise
from distill.revisions import check_loaded
from distill.system import driver_problem, find_own_programs, nvidia_driver
from distill.teacher.child import begin_child
from distill.teacher.engine_log import EngineLog, root_cause

log = logging.getLogger("engine")

# seconds that the engine's processes have to end;
# with several GPUs vLLM gives its workers 9 before it kills them
GRACE = 10
# where FlashInfer looks for the compiler if nothing else names one
CUDA_DIRECTORY = "/usr/local/cuda"
# GiB of keys and values without a GPU, and vLLM's variable for it, which wins over its flag
CACHE_ON_CPU = 2
CACHE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
CANNOT_START = "the engine cannot start"
SILENT_END = (
    "one of its processes ended without saying why, "
    "as when the kernel kills it because memory ran out"
)


class EngineFailed(ValueError):
    """The engine cannot start: why, in one line.

    With the file that holds all that it said, if it is more than that.
    """

    def __init__(self, reason: str, log_file: str | None = None):
        super().__init__(reason, log_file)  # as it is sent from one process to another
        self.reason = reason
        self.log_file = log_file

    def __str__(self):
        further = f" (its log: {self.log_file})" if self.log_file else ""
        return f"{CANNOT_START}: {self.reason}{further}"


def set_environment() -> None:
    """What vLLM reads when it is imported; what the user has set stays."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for the result
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # else each guarded request starts a thread to compile its expression again;
    # create_data.py has checked the task's
    os.environ.setdefault("VLLM_REGEX_COMPILATION_TIMEOUT_S", "0")
    find_own_programs()  # it compiles with ninja, where it finds it
    leave_out_noise()


def engine_parser() -> argparse.ArgumentParser:
    """The parser of vLLM's own command-line flags and --log_stats."""
    set_environment()
    from vllm import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class OneLineParser(FlexibleArgumentParser):
        def error(self, message):
            self.exit(2, f"{Path(sys.argv[0]).name}: {message} (see --help)\n")

    parser = EngineArgs.add_cli_args(OneLineParser())
    # vLLM's own flag can only switch them off, which they should be:
    # each token costs the front end four times as much
    parser.add_argument(
        "--log-stats",
        action="store_true",
        help="vLLM's statistics, shown by VLLM_LOGGING_LEVEL=INFO",
    )
    return parser


def parse_engine_flags(model_name: str, engine_flags: list[str]) -> argparse.Namespace:
    """The engine's flags of a command; an unknown one ends with exit code 2."""
    return engine_parser().parse_args([*engine_flags, "--model", model_name])


def engine_arguments(model_name: str, engine_flags: list[str] = (), **settings):
    """vLLM's EngineArgs from its own flags, `settings` and what suits the machine."""
    flags = parse_engine_flags(model_name, engine_flags)
    import torch
    from vllm import EngineArgs
    from vllm.platforms import current_platform

    # before EngineArgs, which looks for the model as soon as it is made
    for name, value in settings.items():
        setattr(flags, name, value)
    if flags.tokenizer_mode == "auto":
        # the class that step 2 loads, also where Mistral's own format lies beside it
        flags.tokenizer_mode = "hf"
    engine_args = EngineArgs.from_cli_args(flags)
    engine_args.disable_log_stats = not flags.log_stats
    if engine_args.max_model_len is None:
        # vLLM's "auto": the model's context, or as much of it as fits the memory
        engine_args.max_model_len = -1
    problem = driver_problem(torch.version.cuda, nvidia_driver())
    if problem:
        log.warning(problem)
    if current_platform.is_cuda():
        sample_without_nvcc()
    if current_platform.is_cpu():
        engine_args.enforce_eager = True  # compiling takes longer than a small model's whole run
        # with vLLM's 128 up to 127 tokens miss the cache
        engine_args.block_size = engine_args.block_size or 32
        if engine_args.kv_cache_memory_bytes is not None:
            os.environ.pop(CACHE_VARIABLE, None)  # what the command says counts
        elif not os.environ.get(CACHE_VARIABLE):
            engine_args.kv_cache_memory_bytes = CACHE_ON_CPU << 30
        if engine_args.dtype == "auto" and torch.backends.cpu.get_cpu_capability() == "AVX2":
            engine_args.dtype = "float32"  # bfloat16 is emulated there, at two thirds of the speed
        if engine_args.tensor_parallel_size == engine_args.pipeline_parallel_size == 1:
            # in this process an engine starts in half of the time,
            # and no core waits for another process
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    return engine_args


def check_engine_flags(model_name: str, engine_flags: list[str], revision: str | None) -> None:
    """Refuse what engine_arguments() refuses.

    It is for whoever has no use for its result in this process.
    """
    engine_arguments(model_name, engine_flags, revision=revision)


def find_nvcc() -> str | None:
    """The CUDA compiler that FlashInfer would run; None if it would find none."""
    cuda_home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if cuda_home:
        return shutil.which("nvcc", path=f"{cuda_home}/bin")
    return shutil.which("nvcc") or shutil.which("nvcc", path=f"{CUDA_DIRECTORY}/bin")


def sample_without_nvcc() -> None:
    """Let PyTorch sample where FlashInfer could not compile its kernels.

    FlashInfer, vLLM's choice on most GPUs, would fail.
    """
    if (
        "VLLM_USE_FLASHINFER_SAMPLER" in os.environ
        or find_nvcc()
        or find_spec("flashinfer_jit_cache")
    ):
        return
    os.environ["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    log.warning(
        "no nvcc in CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda: "
        "PyTorch samples instead of FlashInfer"
    )


def start_engine(engine_args):
    """vLLM's engine.

    Whoever starts it calls stop_engine(), or this process waits for the engine's at its exit.
    Raises EngineFailed if it cannot start, with the reason that the engine's processes gave.
    """
    from vllm import LLMEngine
    from vllm.usage.usage_lib import UsageContext

    # it tidies up /dev/shm, and one that a killed engine has started would be killed with it
    resource_tracker.ensure_running()
    os.register_at_fork(after_in_child=begin_child)
    gc.collect()  # what is garbage now, such as a model that was merged, must not be frozen
    # vLLM collects garbage several times while it starts;
    # what the imports left need not be searched
    gc.freeze()
    atexit.register(gc.unfreeze)  # some libraries would report what is frozen at the exit as leaked
    engine_log = EngineLog()
    try:
        with engine_log.named_to_children():
            engine = LLMEngine.from_engine_args(engine_args, usage_context=UsageContext.LLM_CLASS)
    except (ValueError, OSError) as error:
        # an argument or a file that vLLM refuses before it starts a process
        engine_log.pass_on_everything()
        engine_log.close()
        raise EngineFailed(one_line(error)) from error
    except Exception as error:
        ours = traceback.format_exc()
        reason = root_cause(engine_log.said() + ours) or SILENT_END
        log_file = engine_log.keep(ours)
        engine_log.close()
        raise EngineFailed(reason, log_file) from error
    except BaseException:  # we are stopped, so nobody will say what is held back
        engine_log.pass_on_everything()
        engine_log.close()
        raise
    engine_log.pass_on_everything()
    engine.log_of_processes = engine_log
    try:
        check_loaded(engine_args.model, engine_args.revision, engine.model_config.hf_config)
    except ValueError as error:
        stop_engine(engine)
        raise EngineFailed(str(error)) from error
    # not when VLLM_ENABLE_V1_MULTIPROCESSING=0 keeps it in here
    if hasattr(engine.engine_core, "outputs_queue"):
        threading.Thread(target=report_death, args=[engine.engine_core], daemon=True).start()
    return engine


def why_ended(engine) -> str:
    """What an engine said when it ended while it ran, in one line."""
    reason = root_cause(engine.log_of_processes.said_lately()) or SILENT_END
    return f"the engine has ended: {reason}"


def stop_engine(engine):
    """End the engine's processes, which may have ended by themselves.

    Returns as soon as they have.
    """
    with contextlib.suppress(Exception):
        engine.engine_core.shutdown(timeout=GRACE)
    engine.log_of_processes.close()


def report_death(client):
    """vLLM's synchronous client would wait for ever for an engine that the kernel has killed.

    This wakes it up.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    multiprocessing.connection.wait(
        [process.sentinel for process in client.resources.engine_manager.processes]
    )
    client.outputs_queue.put(EngineDeadError())
