"""How often a teacher is asked for one answer, how each attempt is sampled, and how it is read.

Step 1 asks so for its labels, and serve.py for what is handed over. No torch, no vLLM.
"""

from dataclasses import asdict, dataclass

from distill.guard import is_guarded
from distill.task import NoAnswer, Task
from distill.teacher.base import Completion, Loop, Prompt, Sampling

# What Qwen3's thinking model card recommends; a row that failed is asked again with it.
RETRY_TEMPERATURE = 0.6
RETRY_TOP_P = 0.95
RETRY_TOP_K = 20
# Tokens that come again and again in a loop; every shorter period has a multiple in this range.
LOOP_FROM = 32
LOOP_TO = 63
# defaults of step 1, and of whoever asks as it does
MAX_RETRIES = 3
MAX_REPEATS = 4


@dataclass(frozen=True)
class AttemptSettings:
    """How one answer is asked for."""

    reasoning_parser: str  # none: the teacher does not think
    temperature: float  # of the first attempt
    max_tokens: int  # of an attempt, thinking and answer together
    max_retries: int
    max_repeats: int  # a first attempt that loops so many times is ended; 0: never
    structured_outputs: str  # retry, always or never: which attempts are guarded
    thinking_token_budget: int  # of guarded attempts

    @property
    def thinks(self) -> bool:
        """Whether the teacher thinks before it answers."""
        return self.reasoning_parser != "none"

    @property
    def guards(self) -> str:
        """Which attempts are guarded; never where there is none that would be."""
        # the last attempt is, if any is
        if is_guarded(self.structured_outputs, self.max_retries):
            return self.structured_outputs
        return "never"


def default_thinking_budget(max_tokens: int) -> int:
    """Tokens for a thought of a guarded attempt; the others are left for the answer."""
    room = max(max_tokens // 8, min(64, max_tokens // 2))
    return max_tokens - room


def sampling_of(
    settings: AttemptSettings, task: Task, guard: str, prompt: Prompt, failures: int
) -> Sampling:
    """How the attempt after so many `failures` is sampled.

    It is warmer after a failure, and guarded so that a thought ends and a label, or JSON of the
    task's schema, follows. `guard` is the task's constraint(), which takes a moment to make.
    """
    guarded = is_guarded(settings.structured_outputs, failures)
    loop = None
    # an input that repeats itself may be quoted in the next attempt
    if settings.max_repeats and not failures:
        loop = Loop(LOOP_FROM, LOOP_TO, settings.max_repeats)
    return Sampling(
        temperature=(
            max(settings.temperature, RETRY_TEMPERATURE) if failures else settings.temperature
        ),
        max_tokens=prompt.within_room(settings.max_tokens),
        loop=loop,
        top_p=RETRY_TOP_P if failures else None,
        top_k=RETRY_TOP_K if failures else None,
        thinking_budget=settings.thinking_token_budget if guarded and settings.thinks else None,
        guard=guard if guarded and guard else None,
        json_schema=task.schema if guarded and task.schema else None,
    )


@dataclass
class Attempt:
    """One completion for a row and what was read from it.

    Its token ids, which may be many, are left out.
    """

    response: str
    finish_reason: str
    answer: str | None
    reason: str | None  # why there is no answer
    sampling: Sampling
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    thinking_tokens: int | None  # None: the teacher does not think, or nobody counts it
    served_by: str | None = None  # as a server calls the model that has answered
    charged: float | None = None  # what it has cost, where a server counts no tokens

    def recorded(self, settings: AttemptSettings) -> dict:
        """What the journal keeps of it."""
        found = {
            "response": self.response,
            "finish_reason": self.finish_reason,
            "answer": self.answer,
            "reason": self.reason,
            "sampling": recorded_sampling(self.sampling),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
        }
        if self.thinking_tokens is not None:
            # a label after such a thought was forced;
            # vLLM counts the newline after <think> in the prompt too
            budget = self.sampling.thinking_budget
            if budget is None:
                budget = settings.max_tokens
            found["thinking_tokens"] = self.thinking_tokens
            found["thinking_cut"] = self.thinking_tokens >= budget - 1
        if self.served_by is not None:
            found["served_by"] = self.served_by
        if self.charged:
            found["charged"] = self.charged
        return found


def read_attempt(
    completion: Completion, prompt: Prompt, sampling: Sampling, task: Task, thinks: bool
) -> Attempt:
    """What a completion says, or why it says nothing."""
    answer = None
    reason = completion.problem
    if not completion.problem:
        try:
            answer = task.read_answer(completion.text, completion.finish_reason, thinks)
        except NoAnswer as error:
            reason = error.reason
    prompt_tokens = completion.prompt_tokens
    if prompt_tokens is None:
        prompt_tokens = prompt.tokens
    return Attempt(
        response=completion.text,
        finish_reason=completion.finish_reason,
        answer=answer,
        reason=reason,
        sampling=sampling,
        prompt_tokens=prompt_tokens,
        cached_tokens=completion.cached_tokens,
        output_tokens=completion.output_tokens,
        thinking_tokens=completion.thinking_tokens,
        served_by=completion.served_by,
        charged=completion.charged,
    )


def recorded_sampling(sampling: Sampling) -> dict:
    """A sampling as the journal has it.

    Names and order are those that it has had from the beginning: vLLM's.
    """
    found = {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens}
    if sampling.loop:
        found["repetition_detection"] = asdict(sampling.loop)
    further = {
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "thinking_token_budget": sampling.thinking_budget,
        "structured_outputs": sampling.json_schema or sampling.guard,
    }
    for name, value in further.items():
        if value is not None:
            found[name] = value
    return found
