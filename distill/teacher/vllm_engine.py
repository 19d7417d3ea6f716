"""The teacher on this machine: vLLM's engine, whose batch is kept full.

`engine.py` starts and ends the engine. Here requests go into it and completions come out.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from distill.model_tokenizer import ids_or_reason
from distill.teacher.base import Completion, Loop, Prompt, Request, Sampling, Teacher, TeacherEnded
from distill.teacher.engine import why_ended
from distill.teacher.worker_methods import WORKER_METHODS
from distill.teacher.written import text_of, thinking_tokens
from distill.tokens import decode, think_end_id

# Settings of an engine whose completions have the model's own log-probabilities, whatever the flags
# say, and logits within giving_logits().
LOGPROBS = {"logprobs_mode": "raw_logprobs", "worker_extension_cls": WORKER_METHODS}
WINDOW = 512  # requests handed to the engine at a time, at least; memory stays constant
LOOKED_AT = 128  # tokens after which a running request is looked at, for a loop


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
class Running:
    """A request that the engine has.

    Whose it is, what it has written so far, and when that counts as a loop.
    """

    job: object
    tokens: list[int]
    loop: Loop | None


class VLLMTeacher(Teacher):
    """One continuous batch.

    Requests go in while others are still running, results come out as they finish. One request
    whose answer must follow a grammar, or that is sampled with top_p and top_k, slows each step
    of the whole batch. Such requests can be gathered and asked together: the others are slowed
    for a short time, not always.

    `thinks`: completions say how long their thought was. `lora_request` is vLLM's, of the adapter
    that answers.
    """

    def __init__(
        self,
        engine,
        thinks: bool = False,
        lora_request=None,
        window: int | None = None,
        together: int | None = None,
    ):
        at_once = engine.vllm_config.scheduler_config.max_num_seqs
        self.engine = engine
        self.tokenizer = engine.get_tokenizer()
        self.think_end = think_end_id(self.tokenizer) if thinks else None
        self.lora_request = lora_request
        # twice what the engine runs at once, so that it never waits for us
        self.window = window or max(WINDOW, 2 * at_once)
        # as many as fill the engine's batch;
        # what waits is not journalled yet, so it must not be too many
        self.together = together or at_once
        self.running: dict[str, Running] = {}
        self.waiting: list[Request] = []
        self.count = 0

    def prepare(self, chats: list[list[dict]]) -> list[Prompt]:
        """Each chat as token ids.

        One that the template refuses, or that fills the context, has a problem.
        """
        longest = self.engine.model_config.max_model_len
        prompts = []
        for chat in chats:
            ids, problem = ids_or_reason(self.tokenizer, chat, longest)
            prompts.append(Prompt(ids, len(ids), longest - len(ids), problem))
        return prompts

    def gather(self, request: Request) -> None:
        """Queue one request that may wait until there are enough like it.

        Or until there is nothing else to ask.
        """
        self.waiting.append(request)

    def ask(self, requests: Iterable[Request | None] = ()) -> Iterator[tuple[object, Completion]]:
        """Feed requests through a window; yield (job, completion) as they finish.

        Raises TeacherEnded. Whoever reads the results may gather() meanwhile.
        """
        with self._told_why():
            yield from self._run(iter(requests))

    def forget(self) -> None:
        """Empty the prefix cache. Raises TeacherEnded."""
        with self._told_why():
            self.engine.reset_prefix_cache()

    @contextlib.contextmanager
    def giving_logits(self):
        """Meanwhile completions have logits where else they have log-probabilities.

        The engine must have been started with LOGPROBS and nothing may be running.
        """
        self.engine.collective_rpc("report_as", args=("raw_logits",))
        try:
            yield
        finally:
            self.engine.collective_rpc("report_as", args=("raw_logprobs",))

    def spell(self, token_ids: list[int]) -> str:
        """The text of tokens."""
        return decode(self.tokenizer, token_ids)

    @contextlib.contextmanager
    def _told_why(self):
        """Raise TeacherEnded with the reason where the engine has ended."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            yield
        except EngineDeadError:
            raise TeacherEnded(why_ended(self.engine)) from None

    def _run(self, requests: Iterator[Request | None]) -> Iterator[tuple[object, Completion]]:
        while True:
            nothing_else = self._fill(requests)
            if nothing_else or len(self.waiting) >= self.together:
                self._ask_gathered()
            if not self.running:
                return
            for output in self.engine.step():
                if self._ended(output):
                    job = self.running.pop(output.request_id).job
                    yield job, self._completion(output)

    def _fill(self, requests: Iterator[Request | None]) -> bool:
        """Add requests up to the window; whether there were none left to add."""
        while len(self.running) < self.window:
            request = next(requests, None)
            if request is None:
                return True
            self._add(request)
        return False

    def _ask_gathered(self) -> None:
        gathered = self.waiting
        self.waiting = []
        for request in gathered:
            self._add(request)

    def _add(self, request: Request) -> None:
        """Hand one request to the engine.

        vLLM would look for loops after each token, in the scheduler, which caps the engine's speed.
        We look every LOOKED_AT tokens.
        """
        from vllm.inputs.engine import tokens_input

        self.count += 1
        name = str(self.count)
        self.running[name] = Running(request.job, [], request.sampling.loop)
        prompt = tokens_input(request.prompt.content)
        self.engine.add_request(
            name, prompt, vllm_sampling(request.sampling), lora_request=self.lora_request
        )

    def _ended(self, output) -> bool:
        """Take in what a request has written since the last time.

        Whether it has finished, or was ended for a loop.
        """
        running = self.running[output.request_id]
        completion = output.outputs[0]
        running.tokens.extend(completion.token_ids)
        completion.token_ids = running.tokens
        if output.finished:
            return True
        if not ends_in_loop(running.tokens, running.loop):
            return False
        self.engine.abort_request([output.request_id])
        completion.finish_reason = "repetition"
        return True

    def _completion(self, output) -> Completion:
        written = output.outputs[0]
        thought = None
        if self.think_end is not None:
            thought = thinking_tokens(written.token_ids, self.think_end)
        return Completion(
            # at once, now that it is finished; vLLM would write it token by token meanwhile
            text=text_of(self.tokenizer, written.token_ids, written.finish_reason),
            finish_reason=written.finish_reason,
            token_ids=written.token_ids,
            cached_tokens=output.num_cached_tokens or 0,
            thinking_tokens=thought,
            logprobs=plain_logprobs(written.logprobs),
        )


def vllm_sampling(sampling: Sampling):
    """vLLM's SamplingParams; a completion comes back whole, and without text."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    settings = {"detokenize": False, "output_kind": RequestOutputKind.FINAL_ONLY}
    if sampling.loop:
        settings["output_kind"] = RequestOutputKind.DELTA
        settings["stream_interval"] = LOOKED_AT
    if sampling.guard is not None:
        settings["structured_outputs"] = StructuredOutputsParams(regex=sampling.guard)
    if sampling.json_schema is not None:
        settings["structured_outputs"] = StructuredOutputsParams(json=sampling.json_schema)
    if sampling.thinking_budget is not None:
        settings["thinking_token_budget"] = sampling.thinking_budget
    for name in ("temperature", "max_tokens", "top_p", "top_k", "logprobs"):
        value = getattr(sampling, name)
        if value is not None:
            settings[name] = value
    return SamplingParams(**settings)


def plain_logprobs(places) -> list[dict[int, float]] | None:
    """vLLM's log-probabilities as plain numbers; None where none were asked for."""
    if places is None:
        return None
    found = []
    for place in places:
        found.append({token: entry.logprob for token, entry in place.items()})
    return found
