"""vLLM's engine as steps 1 and 3 use it: its arguments, its start and end, and a stream of requests through it."""

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
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import resource_tracker
from pathlib import Path

from distill.cli import one_line
from distill.revisions import check_loaded
from distill.system import driver_problem, end_with_parent, nvidia_driver
from distill.tokens import decode
from engine_log import EngineLog, print_to_engine_log, root_cause

log = logging.getLogger("engine")
WINDOW = 512  # requests handed to the engine at a time, at least; memory stays constant
LOOKED_AT = 128  # tokens after which a running request is looked at, for a loop

# seconds that the engine's processes have to end; with several GPUs vLLM gives its workers 9 before it kills them
GRACE = 10
CUDA_DIRECTORY = "/usr/local/cuda"  # where FlashInfer looks for the compiler if nothing else names one
QUIET_TRACKER = "ignore:resource_tracker"  # as python -W takes it
CANNOT_START = "the engine cannot start"
SILENT_END = "one of its processes ended without saying why, as when the kernel kills it because memory ran out"


class EngineFailed(ValueError):
    """The engine cannot start: why, in one line, and the file that holds all that it said, if it is more than that."""

    def __init__(self, reason: str, log_file: str | None = None):
        super().__init__(reason, log_file)  # as it is sent from one process to another
        self.reason = reason
        self.log_file = log_file

    def __str__(self):
        further = f" (its log: {self.log_file})" if self.log_file else ""
        return f"{CANNOT_START}: {self.reason}{further}"


def parse_engine_flags(model_name: str, engine_flags: list[str]) -> argparse.Namespace:
    """vLLM's own command-line flags and --log_stats; an unknown one ends with exit code 2."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for the result
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB; only read on a machine without a GPU
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # else each guarded request starts a thread to compile its expression again; create_data.py has checked the task's
    os.environ.setdefault("VLLM_REGEX_COMPILATION_TIMEOUT_S", "0")
    quiet_resource_tracker()
    logging.getLogger("vllm.triton_utils").setLevel(logging.ERROR)  # a CPU has none, which is no news
    from vllm import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class OneLineParser(FlexibleArgumentParser):
        def error(self, message):
            self.exit(2, f"{Path(sys.argv[0]).name}: {message} (see --help)\n")

    parser = EngineArgs.add_cli_args(OneLineParser())
    # vLLM's own flag can only switch them off, which they should be: each token costs the front end four times as much
    parser.add_argument("--log-stats", action="store_true", help="vLLM's statistics, shown by VLLM_LOGGING_LEVEL=INFO")
    return parser.parse_args([*engine_flags, "--model", model_name])


def engine_arguments(model_name: str, engine_flags: list[str] = (), **settings):
    """vLLM's EngineArgs from its own flags, `settings` and what suits the machine."""
    flags = parse_engine_flags(model_name, engine_flags)
    import torch
    from vllm import EngineArgs
    from vllm.platforms import current_platform

    for name, value in settings.items():  # before EngineArgs, which looks for the model as soon as it is made
        setattr(flags, name, value)
    if flags.tokenizer_mode == "auto":
        flags.tokenizer_mode = "hf"  # the class that step 2 loads, also where Mistral's own format lies beside it
    engine_args = EngineArgs.from_cli_args(flags)
    engine_args.disable_log_stats = not flags.log_stats
    if engine_args.max_model_len is None:
        engine_args.max_model_len = -1  # vLLM's "auto": the model's context, or as much of it as fits the memory
    problem = driver_problem(torch.version.cuda, nvidia_driver())
    if problem:
        log.warning(problem)
    if current_platform.is_cuda():
        sample_without_nvcc()
    if current_platform.is_cpu():
        engine_args.enforce_eager = True  # compiling takes longer than a small model's whole run
        engine_args.block_size = engine_args.block_size or 32  # with vLLM's 128 up to 127 tokens miss the cache
        if engine_args.dtype == "auto" and torch.backends.cpu.get_cpu_capability() == "AVX2":
            engine_args.dtype = "float32"  # bfloat16 is emulated there, at two thirds of the speed
        if engine_args.tensor_parallel_size == engine_args.pipeline_parallel_size == 1:
            # in this process an engine starts in half of the time, and no core waits for another process
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    return engine_args


def check_engine_flags(model_name: str, engine_flags: list[str], revision: str | None) -> None:
    """Refuse what engine_arguments() refuses, for whoever has no use for its result in this process."""
    engine_arguments(model_name, engine_flags, revision=revision)


def quiet_resource_tracker() -> None:
    """To be called before Python starts its tracker, which would say at the end what it tidies up behind an engine."""
    if QUIET_TRACKER not in sys.warnoptions:
        sys.warnoptions.append(QUIET_TRACKER)


def find_nvcc() -> str | None:
    """The CUDA compiler that FlashInfer would run; None if it would find none."""
    cuda_home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if cuda_home:
        return shutil.which("nvcc", path=f"{cuda_home}/bin")
    return shutil.which("nvcc") or shutil.which("nvcc", path=f"{CUDA_DIRECTORY}/bin")


def sample_without_nvcc() -> None:
    """Let PyTorch sample where FlashInfer, vLLM's choice on most GPUs, could not compile its kernels and would fail."""
    if "VLLM_USE_FLASHINFER_SAMPLER" in os.environ or find_nvcc() or find_spec("flashinfer_jit_cache"):
        return
    os.environ["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    log.warning("no nvcc in CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda: PyTorch samples instead of FlashInfer")


def start_engine(engine_args):
    """vLLM's engine; whoever starts it calls stop_engine(), or this process waits for the engine's at its exit.

    Raises EngineFailed if it cannot start, with the reason that the engine's processes gave.
    """
    from vllm import LLMEngine
    from vllm.usage.usage_lib import UsageContext

    # it tidies up /dev/shm, and one that a killed engine has started would be killed with it
    resource_tracker.ensure_running()
    os.register_at_fork(after_in_child=begin_child)
    gc.collect()  # what is garbage now, such as a model that was merged, must not be frozen
    gc.freeze()  # vLLM collects garbage several times while it starts; what the imports left need not be searched
    atexit.register(gc.unfreeze)  # some libraries would report what is frozen at the exit as leaked
    engine_log = EngineLog()
    try:
        with engine_log.named_to_children():
            engine = LLMEngine.from_engine_args(engine_args, usage_context=UsageContext.LLM_CLASS)
    except (ValueError, OSError) as error:  # an argument or a file that vLLM refuses before it starts a process
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
    if hasattr(engine.engine_core, "outputs_queue"):  # not when VLLM_ENABLE_V1_MULTIPROCESSING=0 keeps it in here
        threading.Thread(target=report_death, args=[engine.engine_core], daemon=True).start()
    return engine


def begin_child() -> None:
    """What a process of a script does first; where an engine has started it, Ctrl-C is for the script alone."""
    end_with_parent()
    if print_to_engine_log():
        os.setpgid(0, 0)
        atexit.register(end_quickly)


def end_quickly() -> None:
    """The last thing that an engine's spawned process does: it leaves without a search for garbage, of seconds.

    Some libraries would then report as leaked what nobody has collected. What had to be said is said by now.
    """
    gc.freeze()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)


def why_ended(engine) -> str:
    """What an engine said when it ended while it ran, in one line."""
    reason = root_cause(engine.log_of_processes.said_lately()) or SILENT_END
    return f"the engine has ended: {reason}"


def stop_engine(engine):
    """End the engine's processes, which may have ended by themselves; returns as soon as they have."""
    with contextlib.suppress(Exception):
        engine.engine_core.shutdown(timeout=GRACE)
    engine.log_of_processes.close()


def report_death(client):
    """vLLM's synchronous client would wait for ever for an engine that the kernel has killed; this wakes it up."""
    from vllm.v1.engine.exceptions import EngineDeadError

    multiprocessing.connection.wait([process.sentinel for process in client.resources.engine_manager.processes])
    client.outputs_queue.put(EngineDeadError())


@dataclass
class Loop:
    """What counts as a loop: a pattern of so many tokens that came `min_count` times in a row, up to the last token."""

    min_pattern_size: int
    max_pattern_size: int
    min_count: int


def ends_in_loop(tokens: list[int], loop: Loop) -> bool:
    """Whether the last tokens repeat themselves; the same rule as vLLM's `repetition_detection`."""
    for size in range(loop.min_pattern_size, loop.max_pattern_size + 1):
        length = size * loop.min_count
        if length > len(tokens):
            return False
        if tokens[-1] != tokens[-1 - size]:
            continue  # two tokens tell nearly all sizes apart
        tail = tokens[-length:]
        if tail[size:] == tail[:-size]:
            return True
    return False


@dataclass
class Request:
    """A request that the engine has: whose it is, what it has written so far, and when that counts as a loop."""

    job: object
    tokens: list[int]
    loop: Loop | None


class Stream:
    """One continuous batch: requests go in while others are still running, results come out as they finish.

    One request whose answer must follow a grammar, or that is sampled with top_p and top_k, slows each step of the
    whole batch. Such requests can be gathered and asked together: the others are slowed for a short time, not always.
    """

    def __init__(self, engine, window: int | None = None, together: int | None = None):
        at_once = engine.vllm_config.scheduler_config.max_num_seqs
        self.engine = engine
        self.tokenizer = engine.get_tokenizer()
        # twice what the engine runs at once, so that it never waits for us
        self.window = window or max(WINDOW, 2 * at_once)
        # as many as fill the engine's batch; what waits is not journalled yet, so it must not be too many
        self.together = together or at_once
        self.running: dict[str, Request] = {}
        self.waiting: list[tuple] = []  # gathered requests, add()'s arguments
        self.count = 0

    def add(self, job, token_ids: list[int], sampling: dict, lora_request=None):
        """Queue one request; `job` comes back with its result.

        `sampling` is vLLM's, but structured_outputs is a regular expression, and repetition_detection has the fields of
        Loop: vLLM would look for loops after each token, in the scheduler, which caps the engine's speed. We look every
        LOOKED_AT tokens.
        """
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        settings = {**sampling, "detokenize": False, "output_kind": RequestOutputKind.FINAL_ONLY}
        loop = None
        if "repetition_detection" in settings:
            loop = Loop(**settings.pop("repetition_detection"))
            settings["output_kind"] = RequestOutputKind.DELTA
            settings["stream_interval"] = LOOKED_AT
        if "structured_outputs" in settings:
            settings["structured_outputs"] = StructuredOutputsParams(regex=settings["structured_outputs"])
        self.count += 1
        name = str(self.count)
        self.running[name] = Request(job, [], loop)
        self.engine.add_request(name, tokens_input(token_ids), SamplingParams(**settings), lora_request=lora_request)

    def gather(self, *request):
        """Queue one request, add()'s arguments, that may wait until there are enough like it or nothing else to ask."""
        self.waiting.append(request)

    def run(self, requests=()):
        """Feed `requests`, add()'s arguments, through a window; yield (job, vLLM RequestOutput) as they finish.

        Whoever reads the results may add() to the running batch meanwhile, or gather(). A request that was ended for a
        loop has the finish reason "repetition".
        """
        requests = iter(requests)
        while True:
            nothing_else = self._fill(requests)
            if nothing_else or len(self.waiting) >= self.together:
                self._ask_gathered()
            if not self.running:
                return
            for output in self.engine.step():
                if self._ended(output):
                    self.decode(output.outputs[0])
                    yield self.running.pop(output.request_id).job, output

    def _fill(self, requests) -> bool:
        """Add requests up to the window; whether there were none left to add."""
        while len(self.running) < self.window:
            request = next(requests, None)
            if request is None:
                return True
            self.add(*request)
        return False

    def _ask_gathered(self):
        gathered = self.waiting
        self.waiting = []
        for request in gathered:
            self.add(*request)

    def _ended(self, output) -> bool:
        """Take in what a request has written since the last time; whether it has finished, or was ended for a loop."""
        request = self.running[output.request_id]
        completion = output.outputs[0]
        request.tokens.extend(completion.token_ids)
        completion.token_ids = request.tokens
        if output.finished:
            return True
        if not ends_in_loop(request.tokens, request.loop):
            return False
        self.engine.abort_request([output.request_id])
        completion.finish_reason = "repetition"
        return True

    def decode(self, completion):
        """Fill in a completion's text, at once when it is finished; vLLM would do it token by token meanwhile."""
        stopped = completion.finish_reason == "stop"  # the last token is then the end of turn, which is no text
        ids = completion.token_ids[: len(completion.token_ids) - stopped]
        completion.text = decode(self.tokenizer, ids)
