"""The guard of an answer: what it may write is what the reader finds. No model."""

import json
import logging
import re
import time

import pytest

from create_data import parse_args
from distill.guard import LABEL, around_group, group_span, written_shapes
from distill.labels.inputs import scan_inputs
from distill.labels.journal import Journal
from distill.labels.run import header_of
from distill.locks import own_journal
from distill.task import NoAnswer, guard_problem, load_task
from distill.teacher.check import check_guard
from helpers import fails, python, write_task

# Each expression with the text of its one group.
GROUPS = {
    "at the end": (r"Final answer: (\w+)", r"(\w+)"),
    "in the middle": (r"<(a|b)>", "(a|b)"),
    "all of it": ("(.*)", "(.*)"),
    "after a group that does not capture": (r"(?:so|thus): (\w\w)\.?", r"(\w\w)"),
    "around groups that do not capture": (
        "it is ((?:very )?(?:good|bad))!",
        "((?:very )?(?:good|bad))",
    ),
    "inside of one that does not": ("(?:label (x|y))+", "(x|y)"),
    "after escaped parentheses": (r"\(see\) (ok)", "(ok)"),
    "with parentheses in classes": ("[()]([^)(]+)[)]", "([^)(]+)"),
    "after a closing bracket in a class": ("[])](a)", "(a)"),
    "with a name": ("is (?P<label>a|b)", "(?P<label>a|b)"),
}


@pytest.mark.parametrize(("pattern", "group"), GROUPS.values(), ids=GROUPS)
def test_the_group_of_an_answer_is_found(pattern, group):
    start, end = group_span(pattern)
    assert pattern[start:end] == group
    assert around_group(pattern, "LABEL") == pattern.replace(group, "LABEL")


@pytest.mark.parametrize("pattern", ["", "no group", r"\(a\)", "[(a)]", "(?:a)", "(a"])
def test_an_expression_without_a_group_is_refused(pattern):
    with pytest.raises(ValueError, match="no group"):
        group_span(pattern)


def test_without_an_expression_the_label_is_the_answer():
    assert around_group("", "LABEL") == "LABEL"


TASKS = {
    "a group that ends at a space": (
        r"Final Answer: (\S+)",
        ["very good", "very bad"],
        "in 'Final Answer: very good' it finds 'very' and not the label 'very good'",
    ),
    "a label that begins as another": (
        r"Answer: (\w+)",
        ["C", "C++", "C#", "en", "en-US"],
        "in 'Answer: C++' it finds 'C' and not the label 'C++'",
    ),
    "anchors that the guard spells": (
        r"\AAnswer: (\S+)\Z",
        ["en", "fr"],
        "it finds 'nothing' and not the label 'en'; leave out \\A and",
    ),
    "an end that the guard spells": (
        r"Answer: (.+)\Z",
        ["en", "fr"],
        "in 'Answer: enZ' it finds 'enZ'",
    ),
    "a group of other labels": (
        r"Answer: (en|fr)",
        ["en", "fr", "de"],
        "in 'Answer: de' it finds 'nothing'",
    ),
    "one letter of two": (
        r"Answer: (\w)",
        ["en", "e"],
        "in 'Answer: en' it finds 'e' and not the label 'en'",
    ),
    "a label over two lines": (
        r"Answer: (.+)",
        ["a", "a\nb"],
        r"'Answer: a\nb' it finds 'a' and not",
    ),
    "the whole line": (r"Final Answer: (.+)", ["very good", "C++", "C#", "C"], None),
    "anchors of a line": (r"^Final Answer: (\S+)$", ["en", "fr"], None),
    "anchors of each line": (r"(?m)^Final Answer: (\S+)$", ["en", "fr"], None),
    "optional parts": (r"(?:Final )?Answer[:：]?\s*\**(.+?)\**\.?$", ["en", "very good"], None),
    "text before": (r".*Answer: (\S+)", ["en", "fr"], None),
    "an end tag": (r"<answer>(.*?)</answer>", ["en", "a > b"], None),
    "a look-ahead, which the guard refuses": (r"Answer: (\S+)(?=\s|$)", ["en"], None),
    "a word boundary, which the guard refuses": (r"\bAnswer: (\S+)\b", ["en"], None),
    "an alternative without a label": (r"none|Answer: (\S+)", ["en"], None),
    "lines before": ("\n\n(\\S+)", ["en"], None),
    "no expression": ("", ["very good", "C++", '"', "。"], None),
}


@pytest.mark.parametrize(("answer", "labels", "refused"), TASKS.values(), ids=TASKS)
def test_what_the_guard_may_write_is_read_back_or_no_attempt_is_guarded(
    answer, labels, refused, tmp_path
):
    path = write_task(tmp_path / "task.yaml", labels, answer)
    task = load_task(path)
    assert task.labels == tuple(labels)
    if refused is None:
        assert guard_problem(path, task) == ""
        return
    problem = guard_problem(path, task)
    assert (
        problem.startswith(f"{path}: key 'answer': ") and refused in problem and "\n" not in problem
    )


GUARDS = {
    "by default": ([], True),
    "always": (["--structured_outputs", "always", "--max_retries", "0"], True),
    "never": (["--structured_outputs", "never"], False),
    "no second attempt": (["--max_retries", "0"], False),
}


@pytest.mark.parametrize(("flags", "guards"), GUARDS.values(), ids=GUARDS)
def test_a_task_is_refused_only_where_an_attempt_may_be_guarded(flags, guards, tmp_path, caplog):
    """Elsewhere it is said once, and a run that was begun before tasks were checked goes on."""
    path = write_task(tmp_path / "task.yaml", ["very good", "very bad"], r"Final Answer: (\S+)")
    asked = parse_args(["--task", str(path), *flags]).settings.guards
    said = (
        f"{path}: key 'answer': in 'Final Answer: very good' it finds 'very' "
        "and not the label 'very good'"
    )
    if guards:
        with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
            check_guard(str(path), load_task(path), asked)
        return
    with caplog.at_level(logging.INFO):
        check_guard(str(path), load_task(path), asked)
    assert [
        record.getMessage().startswith(f"create_data.py: {said}") for record in caplog.records
    ] == [True]
    caplog.clear()
    fine = write_task(tmp_path / "fine.yaml", ["very good", "very bad"], r"Final Answer: (.+)")
    check_guard(str(fine), load_task(fine), asked)
    assert caplog.records == []


def begin(output, run):
    """A journal in which one of two inputs is decided."""
    inputs = scan_inputs(str(output.parent / "in.txt"))
    journal = Journal(output, {**run, "inputs": inputs.sha256}, inputs)
    journal.open()
    journal.start()
    attempt = {
        "answer": "good",
        "prompt_tokens": 1,
        "cached_tokens": 0,
        "output_tokens": 1,
        "response": "good",
    }
    journal.record(0, answer="good", reason=None, agreement=1.0, attempts=[attempt], seconds=1.0)
    journal.file.close()


@pytest.mark.parametrize("guard", ["never", "retry"])
def test_a_half_finished_journal_of_such_a_task_goes_on_where_nothing_is_guarded(guard, tmp_path):
    """Up to where the teacher's tokenizer is loaded, which is missing here."""
    path = write_task(tmp_path / "task.yaml", ["good", "very good"], r"Final Answer: (\S+)")
    (tmp_path / "in.txt").write_text("a\nb\n")
    (tmp_path / "config.json").write_text("{}")
    output = tmp_path / "out.jsonl"
    flags = [
        "--input_file",
        tmp_path / "in.txt",
        "--output_file",
        output,
        "--model_name",
        tmp_path,
        "--task",
        path,
    ]
    flags = [str(flag) for flag in [*flags, "--structured_outputs", guard]]
    choices = parse_args(flags)
    begin(output, header_of(choices, load_task(path), scan_inputs(choices.input_file)))
    before = own_journal(output).read_bytes()
    said = (
        "key 'answer': in 'Final Answer: very good' it finds 'very' and not the label 'very good'"
    )
    if guard == "retry":
        assert said in fails("create_data.py", *flags)
    else:
        lines = python("create_data.py", *flags, code=2).stderr.splitlines()
        assert said in lines[0] and "no tokenizer" in lines[1] and len(lines) == 2
    assert own_journal(output).read_bytes() == before


@pytest.mark.parametrize(
    ("systems", "warned"), [("teacher,student", True), ("base,student", False)]
)
def test_step_3_reads_answers_under_such_a_task_and_says_it_once(systems, warned, tmp_path):
    path = write_task(tmp_path / "task.yaml", ["good", "very good"], r"Final Answer: (\S+)")
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "very good"}]
    (tmp_path / "test.jsonl").write_text(json.dumps({"messages": chat}))
    flags = ["--task", path, "--test_file", tmp_path / "test.jsonl", "--adapter", tmp_path / "none"]
    flags += [
        "--teacher_model",
        "some/teacher",
        "--student_model",
        "some/student",
        "--systems",
        systems,
    ]
    said = python("evaluate.py", *flags, code=2).stderr.splitlines()
    assert "none: no adapter here" in said[-1]
    assert [
        f"{path}: key 'answer': in 'Final Answer: very good' it finds" in line for line in said[:-1]
    ] == [True] * warned


def test_the_guard_lets_the_examples_through_of_which_tasks_are_judged(tmp_path):
    """xgrammar's word for it, since it reads an expression otherwise than Python."""
    import xgrammar
    from xgrammar.testing import _is_grammar_accept_string

    judged = 0
    for answer, labels, _ in TASKS.values():
        if "(?" in answer.replace("(?:", "") or r"\b" in answer:
            continue  # xgrammar refuses them, and create_data.py says so
        task = load_task(write_task(tmp_path / "task.yaml", ["en"]))
        grammar = xgrammar.Grammar.from_regex(
            type(task)("", tuple(labels), answer, "").constraint()
        )
        for shape in written_shapes(answer):
            written = shape.replace(LABEL, labels[0])
            assert _is_grammar_accept_string(grammar, written), (answer, written)
            judged += 1
    assert judged > 30


def test_the_guards_dot_does_not_take_the_end_of_a_line(tmp_path):
    import xgrammar
    from xgrammar.testing import _is_grammar_accept_string

    task = load_task(write_task(tmp_path / "task.yaml", ["en"], r"Answer.[.]\. (\S+).*"))
    grammar = xgrammar.Grammar.from_regex(task.constraint())
    found = [
        _is_grammar_accept_string(grammar, text)
        for text in ("Answer:.. en!", "Answer\n.. en", "Answer:.x en")
    ]
    assert found == [True, False, False]


def test_empty_lines_after_the_thinking_do_not_hide_an_anchored_answer(tmp_path):
    task = load_task(write_task(tmp_path / "task.yaml", ["en", "fr"], r"^Answer: (\S+)$"))
    assert task.read_answer("Thought.</think>\n\nAnswer: fr\n") == "fr"
    with pytest.raises(NoAnswer, match="no_answer"):
        task.read_answer("Thought.</think>\n\nI say\nAnswer: fr")


def test_many_labels_load_in_about_a_second(tmp_path):
    path = write_task(
        tmp_path / "task.yaml", [f"label {i}" for i in range(5000)], r"Final Answer:\s*(.+)"
    )
    start = time.perf_counter()
    task = load_task(path)
    assert task.read_content("Final Answer: LABEL 4999") == "label 4999"
    assert guard_problem(path, task) == ""
    # 0.6 s on an idle machine; a second look at all labels for each takes 30 s
    assert time.perf_counter() - start < 20
