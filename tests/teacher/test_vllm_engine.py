"""The stream of requests through vLLM's own front end, without a model: loops, gathered requests,
and what it costs.
"""

import random
from itertools import islice
from types import SimpleNamespace

import pytest

from distill.teacher.attempts import LOOP_FROM, LOOP_TO
from distill.teacher.base import Loop, Prompt, Request, Sampling
from distill.teacher.vllm_engine import LOOKED_AT, VLLMTeacher, ends_in_loop
from distill.teacher.written import text_of
from helpers import ROOT, qwen_tokenizer

PATTERNS = {"min_pattern_size": LOOP_FROM, "max_pattern_size": LOOP_TO}
LOOP = Loop(LOOP_FROM, LOOP_TO, 4)
PROMPT = Prompt([2], tokens=1)


def request(job, loop: Loop | None = None, guard: str | None = None) -> Request:
    return Request(job, PROMPT, Sampling(temperature=0, max_tokens=4096, loop=loop, guard=guard))


@pytest.fixture
def front_end(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import front_end

    return front_end


def looping(period: int, before: int, rng) -> list[int]:
    """Text that falls into a loop of `period` tokens after `before` of them, and does not end by
    itself.
    """
    text = [rng.randrange(2, 4096) for _ in range(before)]
    pattern = [rng.randrange(2, 4096) for _ in range(period)]
    return text + pattern * (1000 // period)


@pytest.mark.parametrize("repeats", [2, 4])
def test_what_counts_as_a_loop_is_vllms_rule(repeats):
    from vllm.sampling_params import RepetitionDetectionParams
    from vllm.v1.core.sched.utils import check_sequence_repetition

    rng = random.Random(0)
    found = set()
    vllms = RepetitionDetectionParams(**PATTERNS, min_count=repeats)
    ours = Loop(**PATTERNS, min_count=repeats)
    for period in range(1, 70):
        tokens = looping(period, rng.randrange(100), rng)
        for end in range(1, 600, 7):
            expected = check_sequence_repetition(tokens[:end], vllms)
            assert ends_in_loop(tokens[:end], ours) == expected, (period, end)
            found.add((period, expected))
    assert found >= {(period, True) for period in range(1, 64)} and (69, True) not in found
    almost = looping(40, 0, rng)[:400]
    almost[5 - 40 * repeats] = 5000  # one other token within the last patterns
    assert not ends_in_loop(almost, ours) and not check_sequence_repetition(almost, vllms)


def test_a_loop_is_ended_soon_after_vllm_would_end_it(front_end):
    """Each loop that vLLM finds is found, at most LOOKED_AT tokens later.

    What ends by itself is left alone.
    """
    from vllm.sampling_params import RepetitionDetectionParams
    from vllm.v1.core.sched.utils import check_sequence_repetition

    rng = random.Random(1)
    vllms = RepetitionDetectionParams(**PATTERNS, min_count=4)
    loops = [looping(period, rng.randrange(300), rng) for period in range(1, 64)]
    endings = front_end.scripts_of(10, 700)
    engine = front_end.ScriptedEngine(loops + endings, 100)
    asked = [request(i, LOOP) for i in range(len(loops + endings))]
    results = dict(VLLMTeacher(engine).ask(asked))
    for i, tokens in enumerate(loops):
        completion = results[i]
        written = len(completion.token_ids)
        first = next(
            end for end in range(len(tokens)) if check_sequence_repetition(tokens[:end], vllms)
        )
        assert completion.finish_reason == "repetition" and completion.token_ids == tokens[:written]
        assert first <= written <= first + LOOKED_AT, i
        assert completion.text == " ".join(map(str, tokens[:written]))
    for i, tokens in enumerate(endings, len(loops)):
        completion = results[i]
        assert (completion.finish_reason, completion.token_ids) == ("stop", tokens)
        assert completion.text == " ".join(map(str, tokens[:-1]))  # without the end of turn


def test_without_the_rule_a_loop_runs_to_its_end(front_end):
    script = looping(32, 0, random.Random(2))
    engine = front_end.ScriptedEngine([script], 1)
    [(_, completion)] = VLLMTeacher(engine).ask([request("job")])
    assert (completion.finish_reason, completion.token_ids) == ("length", script)


def test_looking_for_loops_costs_less_than_a_microsecond_a_token(front_end):
    """At 700 tokens, where vLLM's own search takes more than ten.

    The cheapest of five, for a machine may be busy.
    """
    scripts = front_end.scripts_of(64, 700)
    tokens = 64 * 700
    without = min(front_end.front_end(scripts, None, False) for _ in range(5))
    looked_for = min(front_end.front_end(scripts, LOOP, False) for _ in range(5))
    assert 1e6 * (looked_for - without) / tokens < 1


def test_gathered_requests_are_asked_together(front_end):
    """They wait until as many as fill the batch are there.

    The last ones until there is nothing else to ask.
    """
    rng = random.Random(3)
    lengths = [rng.randrange(5, 50) for _ in range(400)]
    scripts = [[7] * length for length in lengths] + [[7] * 5] * 100
    engine = front_end.ScriptedEngine(scripts, max_num_seqs=16)
    teacher = VLLMTeacher(engine, window=32, together=16)
    first = (request(i) for i in range(400))
    done = []
    for job, _ in teacher.ask(first):
        done.append(job)
        if isinstance(job, int) and job % 10 == 0:
            teacher.gather(request(f"again {job}", guard="a|b"))
    assert sorted(map(str, done)) == sorted(
        [*map(str, range(400)), *(f"again {i}" for i in range(0, 400, 10))]
    )
    grammars = [step for step, params in engine.asked if params.structured_outputs]
    assert len(grammars) == 40 and grammars == sorted(grammars)
    waves = {step: grammars.count(step) for step in grammars}
    assert list(waves.values())[:2] == [16, 16]
    plain = [step for step, params in engine.asked if not params.structured_outputs]
    # of the rest none went before the last of the others
    assert all(step >= max(plain) for step in list(waves)[2:])


@pytest.mark.parametrize("pause", [True, False])
def test_gathered_requests_do_not_wait_for_others_where_there_are_none(front_end, pause):
    """Where no request is there at the moment, or none any more, what was gathered is asked at
    once.
    """
    engine = front_end.ScriptedEngine([[7] * 5] * 4, max_num_seqs=16)
    teacher = VLLMTeacher(engine)

    def arriving():
        yield request("one")
        while pause and "again" not in done:
            yield None  # nothing there at the moment, as a replica's queue says
        yield request("two")

    done = []
    for job, _ in teacher.ask(arriving()):
        done.append(job)
        if job == "one":
            teacher.gather(request("again", guard="a"))
    assert sorted(done) == ["again", "one", "two"]
    assert done.index("again") < done.index("two") or not pause


def test_the_window_bounds_what_the_engine_has(front_end):
    engine = front_end.ScriptedEngine([[7] * 3] * 50, max_num_seqs=4)
    teacher = VLLMTeacher(engine, window=8)
    most = 0
    for _ in islice(teacher.ask(request(i) for i in range(50)), 50):
        most = max(most, len(engine.running))
    assert most <= 8 and len(engine.asked) == 50


@pytest.mark.parametrize("reason", ["stop", "length"])
@pytest.mark.parametrize(
    "text",
    ["Letters: Thai.\n</think>\n\nFinal Answer: ot", "ไม่ 👩‍👩‍👧 é", " a  b\n", "<|im_start|>x", ""],
)
def test_a_finished_responses_text_is_what_vllm_writes_token_by_token(text, reason):
    from vllm import SamplingParams
    from vllm.v1.engine.detokenizer import IncrementalDetokenizer

    tokenizer = qwen_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = [*tokenizer(text)["input_ids"], end]
    if reason == "length":
        ids.pop()
    written = text_of(tokenizer, ids, reason)
    request = SimpleNamespace(
        sampling_params=SamplingParams(), request_id="1", prompt_token_ids=[end]
    )
    vllms = IncrementalDetokenizer.from_new_request(tokenizer, request)
    for i, token in enumerate(ids, 1):
        vllms.update([token], stop_terminated=reason == "stop" and i == len(ids))
    assert written == vllms.get_next_output_text(finished=True, delta=False)
    assert written == text.replace("<|im_start|>", "")
