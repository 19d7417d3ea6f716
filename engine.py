"""vLLM's engine as steps 1 and 3 use it: its arguments, its start and end, and a stream of requests through it."""

import atexit
import contextlib
import gc
import logging
import multiprocessing.connection
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from journal import end_with_parent

WINDOW = 512  # requests handed to the engine at a time, at least; memory stays constant
LOOKED_AT = 64  # tokens after which a running request is looked at, for a loop


def engine_arguments(model_name: str, engine_flags: list[str] = (), **settings):
    """vLLM's EngineArgs from its own command-line flags; one that it does not know ends with exit code 2."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for the result
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB; only read on a machine without a GPU
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # else each guarded request starts a thread to compile its expression again; create_data.py has checked the task's
    os.environ.setdefault("VLLM_REGEX_COMPILATION_TIMEOUT_S", "0")
    logging.getLogger("vllm.triton_utils").setLevel(logging.ERROR)  # a CPU has none, which is no news
    import torch
    from vllm import EngineArgs
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class OneLineParser(FlexibleArgumentParser):
        def error(self, message):
            self.exit(2, f"{Path(sys.argv[0]).name}: {message} (see --help)\n")

    parser = EngineArgs.add_cli_args(OneLineParser())
    engine_args = EngineArgs.from_cli_args(parser.parse_args([*engine_flags, "--model", model_name]))
    for name, value in settings.items():
        setattr(engine_args, name, value)
    if engine_args.max_model_len is None:
        engine_args.max_model_len = -1  # vLLM's "auto": the model's context, or as much of it as fits the memory
    if current_platform.is_cpu():
        engine_args.enforce_eager = True  # compiling takes longer than a small model's whole run
        engine_args.block_size = engine_args.block_size or 32  # with vLLM's 128 up to 127 tokens miss the cache
        if engine_args.dtype == "auto" and torch.backends.cpu.get_cpu_capability() == "AVX2":
            engine_args.dtype = "float32"  # bfloat16 is emulated there, at two thirds of the speed
        if engine_args.tensor_parallel_size == engine_args.pipeline_parallel_size == 1:
            # in this process an engine starts in half of the time, and no core waits for another process
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    return engine_args


def start_engine(engine_args):
    """vLLM's engine; whoever starts it calls stop_engine(), or this process waits for the engine's at its exit."""
    from vllm import LLMEngine
    from vllm.usage.usage_lib import UsageContext

    os.register_at_fork(after_in_child=lambda: (end_with_parent(), os.setpgid(0, 0)))  # Ctrl-C is for us alone
    gc.collect()  # what is garbage now, such as a model that was merged, must not be frozen
    gc.freeze()  # vLLM collects garbage several times while it starts; what the imports left need not be searched
    atexit.register(gc.unfreeze)  # some libraries would report what is frozen at the exit as leaked
    engine = LLMEngine.from_engine_args(engine_args, usage_context=UsageContext.LLM_CLASS)
    if hasattr(engine.engine_core, "outputs_queue"):  # not when VLLM_ENABLE_V1_MULTIPROCESSING=0 keeps it in here
        threading.Thread(target=report_death, args=[engine.engine_core], daemon=True).start()
    return engine


def stop_engine(engine):
    """End the engine's process, which may have ended by itself; a second is enough, since nothing is running in it."""
    with contextlib.suppress(Exception):
        engine.engine_core.shutdown(timeout=1)


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
        completion.text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
