"""Labels as they are written: what the guard may write is what the reader finds, in every form of
Unicode. No model.
"""

import json
import logging
import re
import time

import pytest

from create_data import parse_args
from distill.guard import LABEL, written_shapes
from distill.labels.inputs import scan_inputs
from distill.labels.journal import Journal
from distill.labels.run import header_of
from distill.locks import own_journal
from distill.same_text import comparable, folded
from distill.task import NoAnswer, guard_problem, load_task
from distill.teacher.check import check_guard
from helpers import fails, python

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


def write_task(path, labels, answer=""):
    path.write_text(
        json.dumps({"prompt": "Choose.", "labels": labels, "answer": answer}), encoding="utf-8"
    )
    return path


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
    args, _ = parse_args(["--task", str(path), *flags])
    said = (
        f"{path}: key 'answer': in 'Final Answer: very good' it finds 'very' "
        "and not the label 'very good'"
    )
    if guards:
        with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
            check_guard(args, load_task(path))
        return
    with caplog.at_level(logging.INFO):
        check_guard(args, load_task(path))
    assert [
        record.getMessage().startswith(f"create_data.py: {said}") for record in caplog.records
    ] == [True]
    caplog.clear()
    fine = write_task(tmp_path / "fine.yaml", ["very good", "very bad"], r"Final Answer: (.+)")
    check_guard(args, load_task(fine))
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
    args, _ = parse_args(flags)
    begin(output, header_of(args, load_task(path), scan_inputs(args.input_file)))
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
    assert time.perf_counter() - start < 5


# Unicode

SAME = {
    "decomposed": ("café", "cafe\u0301"),
    "decomposed, other case": ("Thé", "THE\u0301"),
    "full-width stop": ("体育", "体育。"),
    "full-width markup": ("体育", "＊＊体育＊＊"),
    "corner brackets": ("体育", "「体育」"),
    "curly quotes": ("news", "„News“"),
    "guillemets": ("sport", "« Sport »"),
    "ellipsis": ("sport", "sport…"),
    "zero width space": ("sport", "\u200bsport\ufeff"),
    "right-to-left marks": ("أخبار", "\u200fأخبار\u061c۔"),
    "ideographic space": ("体育", "\u3000体育\u3000"),
}
OTHER = {
    "a dash": ("A", "A–"),
    "a plus": ("C", "C+"),
    "inside": ("体育", "体。育"),
    "full-width letters": ("en", "ｅｎ"),
    "without the accent": ("café", "cafe"),
}


@pytest.mark.parametrize(("label", "answer"), SAME.values(), ids=SAME)
def test_the_same_label_in_another_form_is_read(label, answer, tmp_path):
    task = load_task(write_task(tmp_path / "task.yaml", [label, "other"], r"答案[：:]\s*(.+)"))
    assert task.read_answer(f"Thought.</think>\n\n答案：{answer}") == label
    assert (
        load_task(write_task(tmp_path / "task.yaml", [answer, "other"])).read_content(label)
        == answer
    )
    with pytest.raises(ValueError, match="key 'labels' lists a label twice"):
        load_task(write_task(tmp_path / "task.yaml", [label, answer]))


@pytest.mark.parametrize(("label", "answer"), OTHER.values(), ids=OTHER)
def test_another_label_is_not_taken_for_it(label, answer, tmp_path):
    assert folded(label) != folded(answer)
    assert (
        load_task(write_task(tmp_path / "task.yaml", [label, answer])).read_content(answer)
        == answer
    )


def test_free_texts_are_compared_without_what_is_typographic_around_them():
    assert comparable("cafe\u0301 \u200b") == comparable("café") == "café"
    assert comparable("「体育。」") == comparable("体育") == "体育"
    assert comparable("Done.") != comparable("Done") != comparable("done")  # ASCII and case count
    assert comparable("…") == "…"


# What task files hold

FILES = {
    "duplicate key": (
        "prompt: p\nlabels: [a, b]\nanswer: ''\nlabels: [c, d]\n",
        "key 'labels' in line 2 and again in line 4; keep one of them",
    ),
    "tab": (
        "prompt: p\nlabels:\n\t- a\n",
        "line 3 not valid YAML \\(a tab, where YAML takes only spaces\\)",
    ),
    "form feed": (
        "prompt: |\n  Rules\f\n  of the game\n",
        "line 2 not valid YAML \\(the control character U\\+000C\\)",
    ),
    "half of an emoji": (
        r'{"prompt": "p", "labels": ["\ud83d", "b"]}',
        "key 'labels' holds half of a surrogate pair",
    ),
    "half of an emoji in the prompt": (
        r'{"prompt": "\ude00 p"}',
        "key 'prompt' holds half of a surrogate pair",
    ),
    "too deep": ("[" * 700, "not valid YAML"),
}


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES)
def test_a_file_that_reads_otherwise_than_it_looks_is_refused(text, message, tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}:.*{message}"):
        load_task(path)


def test_escaped_emoji_are_characters(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text(
        r'{"prompt": "\ud83d\ude00 is happy", "labels": ["\ud83d\ude00", "sad"], '
        r'"answer": "A: (.+)"}'
    )
    task = load_task(path)
    assert task.prompt == "😀 is happy" and task.labels == ("😀", "sad")
    assert task.read_content("A: 😀") == "😀"
    task.constraint().encode()  # it can be sent to the engine
