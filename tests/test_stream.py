"""The stream of requests through vLLM's own front end, without a model: loops, gathered requests, and what it costs."""

import random
from itertools import islice

import pytest

from conftest import ROOT
from distill.labels.labelling import LOOP
from distill.teacher.vllm_engine import LOOKED_AT, Loop, Stream, ends_in_loop

LOOPING = {"repetition_detection": {**LOOP, "min_count": 4}}


@pytest.fixture
def front_end(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import front_end

    return front_end


def looping(period: int, before: int, rng) -> list[int]:
    """Text that falls into a loop of `period` tokens after `before` of them, and does not end by itself."""
    text = [rng.randrange(2, 4096) for _ in range(before)]
    pattern = [rng.randrange(2, 4096) for _ in range(period)]
    return text + pattern * (1000 // period)


@pytest.mark.parametrize("repeats", [2, 4])
def test_what_counts_as_a_loop_is_vllms_rule(repeats):
    from vllm.sampling_params import RepetitionDetectionParams
    from vllm.v1.core.sched.utils import check_sequence_repetition

    rng, found = random.Random(0), set()
    vllms = RepetitionDetectionParams(**LOOP, min_count=repeats)
    ours = Loop(**LOOP, min_count=repeats)
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
    """Each loop that vLLM finds is found, at most LOOKED_AT tokens later; what ends by itself is left alone."""
    from vllm.sampling_params import RepetitionDetectionParams
    from vllm.v1.core.sched.utils import check_sequence_repetition

    rng = random.Random(1)
    vllms = RepetitionDetectionParams(**LOOP, min_count=4)
    loops = [looping(period, rng.randrange(300), rng) for period in range(1, 64)]
    endings = front_end.scripts_of(10, 700)
    engine = front_end.ScriptedEngine(loops + endings, 100)
    asked = [(i, [2], LOOPING) for i in range(len(loops + endings))]
    results = dict(Stream(engine).run(iter(asked)))
    for i, tokens in enumerate(loops):
        completion = results[i].outputs[0]
        written = len(completion.token_ids)
        first = next(end for end in range(len(tokens)) if check_sequence_repetition(tokens[:end], vllms))
        assert completion.finish_reason == "repetition" and completion.token_ids == tokens[:written]
        assert first <= written <= first + LOOKED_AT, i
        assert completion.text == " ".join(map(str, tokens[:written]))
    for i, tokens in enumerate(endings, len(loops)):
        completion = results[i].outputs[0]
        assert (completion.finish_reason, completion.token_ids) == ("stop", tokens)
        assert completion.text == " ".join(map(str, tokens[:-1]))  # without the end of turn


def test_without_the_rule_a_loop_runs_to_its_end(front_end):
    script = looping(32, 0, random.Random(2))
    engine = front_end.ScriptedEngine([script], 1)
    [(_, output)] = Stream(engine).run(iter([("job", [2], {})]))
    assert (output.outputs[0].finish_reason, output.outputs[0].token_ids) == ("length", script)


def test_looking_for_loops_costs_less_than_a_microsecond_a_token(front_end):
    """At 700 tokens, where vLLM's own search takes more than ten; the cheapest of five, for a machine may be busy."""
    scripts = front_end.scripts_of(64, 700)
    tokens = 64 * 700
    without = min(front_end.front_end(scripts, {}, False) for _ in range(5))
    looked_for = min(front_end.front_end(scripts, LOOPING, False) for _ in range(5))
    assert 1e6 * (looked_for - without) / tokens < 1


def guarded(text: str) -> dict:
    return {"structured_outputs": text}


def test_gathered_requests_are_asked_together(front_end):
    """They wait until as many as fill the batch are there; the last ones until there is nothing else to ask."""
    rng = random.Random(3)
    lengths = [rng.randrange(5, 50) for _ in range(400)]
    scripts = [[7] * length for length in lengths] + [[7] * 5] * 100
    engine = front_end.ScriptedEngine(scripts, max_num_seqs=16)
    stream = Stream(engine, window=32, together=16)
    first = ((i, [2], {}) for i in range(400))
    done = []
    for job, _ in stream.run(first):
        done.append(job)
        if isinstance(job, int) and job % 10 == 0:
            stream.gather(f"again {job}", [2], guarded("a|b"))
    assert sorted(map(str, done)) == sorted([*map(str, range(400)), *(f"again {i}" for i in range(0, 400, 10))])
    grammars = [step for step, params in engine.asked if params.structured_outputs]
    assert len(grammars) == 40 and grammars == sorted(grammars)
    waves = {step: grammars.count(step) for step in grammars}
    assert list(waves.values())[:2] == [16, 16]
    plain = [step for step, params in engine.asked if not params.structured_outputs]
    assert all(step >= max(plain) for step in list(waves)[2:])  # of the rest none went before the last of the others


@pytest.mark.parametrize("pause", [True, False])
def test_gathered_requests_do_not_wait_for_others_where_there_are_none(front_end, pause):
    """Where no request is there at the moment, or none any more, what was gathered is asked at once."""
    engine = front_end.ScriptedEngine([[7] * 5] * 4, max_num_seqs=16)
    stream = Stream(engine)

    def arriving():
        yield "one", [2], {}
        while pause and "again" not in done:
            yield None  # nothing there at the moment, as a replica's queue says
        yield "two", [2], {}

    done = []
    for job, _ in stream.run(arriving()):
        done.append(job)
        if job == "one":
            stream.gather("again", [2], guarded("a"))
    assert sorted(done) == ["again", "one", "two"]
    assert done.index("again") < done.index("two") or not pause


def test_the_window_bounds_what_the_engine_has(front_end):
    engine = front_end.ScriptedEngine([[7] * 3] * 50, max_num_seqs=4)
    stream, most = Stream(engine, window=8), 0
    for _ in islice(stream.run((i, [2], {}) for i in range(50)), 50):
        most = max(most, len(engine.running))
    assert most <= 8 and len(engine.asked) == 50
