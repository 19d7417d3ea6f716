"""vLLM's engine as a stream of requests."""

from dataclasses import dataclass

from distill.tokens import decode

WINDOW = 512  # requests handed to the engine at a time, at least; memory stays constant
LOOKED_AT = 128  # tokens after which a running request is looked at, for a loop


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
