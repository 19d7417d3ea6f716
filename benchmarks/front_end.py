"""What a token costs beside the model: front end, statistics, and the search for loops.

    python benchmarks/front_end.py --sequences 1024 --tokens 700

There is no model: the tokens are known in advance and go through vLLM's own scheduler check and
output processor and through our VLLMTeacher, one for each sequence in each step, as with a full
batch. Microseconds of one core a token.
"""

import random
import sys
import time
from types import SimpleNamespace

from figures import finish, in_turn, parser_of, show, spread
from vllm.sampling_params import RepetitionDetectionParams, SamplingParams
from vllm.v1.core.sched.utils import check_stop
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.output_processor import OutputProcessor
from vllm.v1.metrics.stats import IterationStats
from vllm.v1.request import Request as SchedulerRequest

from distill.teacher.attempts import LOOP_FROM, LOOP_TO
from distill.teacher.base import Loop, Prompt, Request, Sampling
from distill.teacher.vllm_engine import VLLMTeacher

REPEATS = 4  # default of --max_repeats
VOCABULARY = 4096
END = 1  # the token that ends a turn
NO_LIMIT = 1 << 20  # tokens, more than any script has


class Numbers:
    """A tokenizer whose text of a token is its number."""

    added_tokens_decoder = {}

    def decode(self, ids: list[int], **_) -> str:
        return " ".join(map(str, ids))


class ScriptedEngine:
    """vLLM's front end with the tokens of each request given: what LLMEngine does without a model.

    `scripts` are the tokens that each request writes, in the order in which requests are added,
    one in each step.
    """

    def __init__(self, scripts: list[list[int]], max_num_seqs: int, log_stats: bool = False):
        self.scripts = scripts
        scheduler_config = SimpleNamespace(max_num_seqs=max_num_seqs)
        self.vllm_config = SimpleNamespace(scheduler_config=scheduler_config)
        self.log_stats = log_stats
        self.processor = OutputProcessor(None, log_stats=log_stats)
        self.running: dict[str, list[int]] = {}  # what a request has still to write
        self.asked: list[
            tuple[int, SamplingParams]
        ] = []  # the step and the sampling of each request
        self.steps = 0

    def get_tokenizer(self):
        return Numbers()

    def add_request(self, name, prompt, params, lora_request=None):
        script = self.scripts[len(self.asked)]
        self.asked.append((self.steps, params))
        self.running[name] = list(reversed(script))
        request = EngineCoreRequest(
            request_id=name,
            external_req_id=name,
            prompt_token_ids=prompt["prompt_token_ids"],
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            arrival_time=0.0,
            lora_request=lora_request,
            cache_salt=None,
            data_parallel_rank=None,
        )
        self.processor.add_request(request, None)

    def abort_request(self, names):
        self.processor.abort_requests(names, internal=False)
        for name in names:
            del self.running[name]

    def step(self):
        """The next token of each request."""
        outputs = []
        for name, left in list(self.running.items()):
            token = left.pop()
            reason = None
            if not left:
                reason = FinishReason.STOP if token == END else FinishReason.LENGTH
                del self.running[name]
            output = EngineCoreOutput(
                request_id=name,
                new_token_ids=[token],
                finish_reason=reason,
            )
            outputs.append(output)
        self.steps += 1
        stats = IterationStats() if self.log_stats else None
        return self.processor.process_outputs(outputs, 0.0, stats).request_outputs


def scripts_of(sequences: int, tokens: int) -> list[list[int]]:
    """Random tokens without a loop."""
    rng = random.Random(0)
    scripts = []
    for _ in range(sequences):
        script = [rng.randrange(2, VOCABULARY) for _ in range(tokens - 1)]
        scripts.append([*script, END])
    return scripts


def front_end(scripts: list[list[int]], loop: Loop | None, log_stats: bool) -> float:
    """Seconds that a full batch takes in vLLM's output processor and in VLLMTeacher."""
    engine = ScriptedEngine(scripts, len(scripts), log_stats)
    teacher = VLLMTeacher(engine, window=len(scripts))
    prompt = Prompt([2], tokens=1)
    sampling = Sampling(temperature=0, max_tokens=NO_LIMIT, loop=loop)
    requests = (Request(i, prompt, sampling) for i in range(len(scripts)))
    start = time.process_time()
    finished = sum(1 for _ in teacher.ask(requests))
    seconds = time.process_time() - start
    if finished != len(scripts):
        raise RuntimeError(f"{finished} of {len(scripts)} sequences have ended")
    return seconds


def scheduler(scripts: list[list[int]], detection: RepetitionDetectionParams | None) -> float:
    """Seconds that vLLM's scheduler takes to see after each token whether its sequence ends."""
    params = SamplingParams(max_tokens=NO_LIMIT, repetition_detection=detection)
    requests = [SchedulerRequest(str(i), [2], params, None) for i in range(len(scripts))]
    start = time.process_time()
    for tokens in zip(*scripts, strict=True):
        for request, token in zip(requests, tokens, strict=True):
            request.append_output_token_ids(token)
            check_stop(request, NO_LIMIT)
    return time.process_time() - start


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--sequences", type=int, default=1024, help="of a batch")
    parser.add_argument("--tokens", type=int, default=700, help="of each sequence")
    parser.add_argument("--repeats", type=int, default=3, help="of each way, taken in turn")
    args = parser.parse_args()
    scripts = scripts_of(args.sequences, args.tokens)
    loop = Loop(LOOP_FROM, LOOP_TO, REPEATS)
    vllms_loop = RepetitionDetectionParams(
        min_pattern_size=LOOP_FROM,
        max_pattern_size=LOOP_TO,
        min_count=REPEATS,
    )
    ways = {
        "front end": lambda: front_end(scripts, None, False),
        "front end, loops looked for": lambda: front_end(scripts, loop, False),
        "front end, statistics": lambda: front_end(scripts, None, True),
        "scheduler": lambda: scheduler(scripts, None),
        "scheduler, loops looked for by vLLM": lambda: scheduler(scripts, vllms_loop),
    }
    found = in_turn(ways, args.repeats)
    tokens = args.sequences * args.tokens
    micro = {}  # microseconds a token of each repeat
    for way, runs in found.items():
        micro[way] = [1e6 * seconds / tokens for seconds in runs]

    rows = []
    spreads = {}
    for way, values in micro.items():
        base = micro["scheduler" if way.startswith("scheduler") else "front end"]
        more = [value - other for value, other in zip(values, base, strict=True)]
        spreads[way] = spread(values)
        rows.append([way, show(spreads[way], 2), show(spread(more), 2)])
    note = (
        f"{args.sequences:,} sequences of {args.tokens} tokens, "
        f"median of {args.repeats} (lowest to highest)."
    )
    header = ["", "a token", "more than without"]
    title = "Microseconds a token beside the model"
    return finish(title, header, rows, [note], {"front_end": spreads})


if __name__ == "__main__":
    sys.exit(main())
