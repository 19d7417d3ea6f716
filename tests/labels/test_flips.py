"""Changed labels: when two answers are the same, and what is said of those that are not."""

from collections import Counter

from distill.json_schema import schema_text
from distill.labels.flips import SHOWN, Flips, lines_of, same_answer
from distill.task import Task
from list_teacher import says
from rounds import Rounds

LABELS = Task("Which?", ("a", "b"), "", "1")
KIND_AND_FEE = {"properties": {"kind": {"type": "string"}, "fee": {"type": "number"}}}
FEE_AND_KIND = {"properties": {"fee": {"type": "number"}, "kind": {"type": "string"}}}


def test_answers_are_the_same_as_values():
    assert same_answer("a", "a", LABELS) and not same_answer("a", "A", LABELS)
    assert same_answer(None, None, LABELS)
    assert not same_answer(None, "a", LABELS) and not same_answer("a", None, LABELS)
    facts = Task("Which?", (), "", "1", schema_text(FEE_AND_KIND))
    old = '{"kind": "gas", "fee": 2}'  # in the order of the schema before
    assert same_answer(old, '{"fee": 2, "kind": "gas"}', facts)
    assert not same_answer(old, '{"fee": 3, "kind": "gas"}', facts)
    assert not same_answer("no JSON, of a task before", '{"fee": 2}', facts)


def test_what_is_said():
    assert lines_of(Flips("f", compared=0)) == ["create_data.py: 0 of 0 labels have changed"]
    none = lines_of(Flips("f", compared=1000))
    assert none == [
        "create_data.py: 0 of 1,000 labels have changed (0.0 %, 95 % interval 0.0 % to 0.4 %)"
    ]
    kinds = Counter({("billing", "other"): 1200, ("(rejected)", "billing"): 3})
    found = lines_of(Flips("out.flips.jsonl", compared=2406, changed=1203, kinds=kinds))
    assert found[0].endswith("to 52.0 %), see out.flips.jsonl")
    assert found[1:] == ["  1,200  billing    -> other", "      3  (rejected) -> billing"]
    many = Counter({(str(i), "x"): 1 for i in range(SHOWN + 2)})
    found = lines_of(Flips("f", compared=50, changed=SHOWN + 2, kinds=many))
    assert len(found) == SHOWN + 2 and found[-1].endswith("and 2 other kinds of changes")


def test_rows_of_which_one_run_has_no_answer(tmp_path, caplog):
    """And inputs that are new are not compared."""
    caplog.set_level("INFO")
    rounds = Rounds(tmp_path)
    rounds.write_inputs("a", "b")
    nothing = ["</think>I cannot say."] * 4
    rounds.go({"a": [says("en")], "b": nothing})
    rounds.write_inputs("b", "c", "a")
    rounds.write_task(prompt="Name it.")
    rounds.go({"a": nothing, "b": [says("fr")], "c": [says("de")]}, "--reuse", "changed")
    assert "2 of 2 labels have changed" in caplog.text
    assert "(rejected) -> fr" in caplog.text and "en         -> (rejected)" in caplog.text


def test_free_texts_have_no_table(tmp_path, caplog):
    caplog.set_level("INFO")
    rounds = Rounds(tmp_path)
    rounds.write_task(labels=[], answer="")
    rounds.write_inputs("a", "b")
    rounds.go({"a": ["</think>It rains."], "b": ["</think>It snows."]})
    now = {"a": ["</think>It rains."], "b": ["</think>It is cold."]}
    rounds.go(now, "--temperature", 0.5, "--reuse", "changed")
    assert "1 of 2 labels have changed" in caplog.text and "It snows" not in caplog.text
