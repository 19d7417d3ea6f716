"""How many answers were forced: counts, shares and warnings, in the manifest and over shards.

No engine.
"""

import pytest

from distill.labels.forced import Forced
from distill.labels.inputs import scan_inputs
from distill.labels.journal import Journal

PLAIN = {"temperature": 0.15}
GUARDED = {"temperature": 0.6, "structured_outputs": "(en|de)"}


def attempt(answer, sampling, **more):
    tokens = {"prompt_tokens": 9, "cached_tokens": 8, "output_tokens": 3}
    return {"response": "x", "answer": answer, "sampling": sampling, **tokens, **more}


FIRST_TRY = [attempt("en", PLAIN, thinking_cut=False)]
FORCED = [attempt(None, PLAIN), attempt("en", GUARDED, thinking_cut=True)]
REJECTED = [attempt(None, PLAIN, thinking_cut=True), attempt(None, GUARDED, thinking_cut=True)]


def counted(rows, mode="retry"):
    forced = Forced()
    for attempts in rows:
        forced.count(attempts, mode)
    return forced


def test_only_answers_are_counted():
    forced = counted([FIRST_TRY, FORCED, REJECTED, [*FIRST_TRY, *FORCED]])
    assert forced.counts() == {"answers": 4, "guarded_answers": 2, "cut_thoughts": 2}
    assert forced.shares() == {"guarded_share": 0.5, "cut_share": 0.5}
    assert forced.shown() == "guarded 50.0%, cut 50.0%"


def test_nothing_answered_is_no_share():
    assert counted([REJECTED]).shares() == {"guarded_share": 0.0, "cut_share": 0.0}


def test_old_journals_without_these_keys_are_read():
    assert (
        counted([[{"response": "x", "answer": "en", "sampling": PLAIN}]]).counts()["answers"] == 1
    )


def test_above_a_tenth_it_is_a_warning():
    tenth = [FORCED] + [FIRST_TRY] * 9
    assert counted(tenth).warnings("retry") == []
    guarded, cut = counted([FORCED, *tenth]).warnings("retry")
    assert guarded.startswith("2 of 11 answers were guarded after a failed attempt")
    assert cut.startswith("2 of 11 answers followed a thought that was cut; raise --max_tokens")


def test_who_asks_for_guarded_answers_is_not_warned():
    always = counted([[attempt("en", GUARDED, thinking_cut=True)]] * 9, "always")
    assert always.counts() == {"answers": 9, "guarded_answers": 0, "cut_thoughts": 9}
    assert always.warnings("always") == []


@pytest.mark.parametrize("again", [False, True])
def test_counts_of_shards_add_up_to_the_manifest(tmp_path, again):
    """Also where a shard was stopped and goes on."""
    (tmp_path / "in.txt").write_text("a\nb\nc\nd\na\n")
    inputs = scan_inputs(tmp_path / "in.txt")
    rows = [FIRST_TRY, FORCED, FORCED, REJECTED]
    run = {"structured_outputs": "retry"}
    total = Forced()
    for shard in (0, 1):
        journal = Journal(tmp_path / "out.jsonl", run, inputs, shard, 2)
        journal.open()
        journal.start()
        for number, index in enumerate(journal.missing().nonzero()[0].tolist()):
            if again and number == 1:
                journal.file.close()
                journal = Journal(tmp_path / "out.jsonl", run, inputs, shard, 2)
                journal.open()
                journal.start()
            answer = rows[index][-1]["answer"]
            reason = None if answer else "not_a_label"
            journal.record(index, answer=answer, reason=reason, seconds=1.0, attempts=rows[index])
        journal.file.close()
        total.answers += journal.forced.answers
        total.guarded += journal.forced.guarded
        total.cut += journal.forced.cut
    whole = Journal(tmp_path / "out.jsonl", run, inputs)
    whole.open()
    manifest = whole.write_outputs(True)
    assert (manifest["rows"], manifest["accepted"], manifest["unique_rows"]) == (5, 4, 4)
    assert total.counts() == {"answers": 3, "guarded_answers": 2, "cut_thoughts": 2}
    assert total.counts().items() <= manifest.items()
    assert (manifest["guarded_share"], manifest["cut_share"]) == (0.6667, 0.6667)
