"""How the adapter is served, with a process that answers from a script. No model."""

from dataclasses import replace

import pytest

from distill.adapter import LORA, MERGED, Serving, compare_with_peft
from distill.adapter_files import adapter_identity
from distill.evaluation.ask import (
    AdapterFailed,
    Asking,
    SystemFailed,
    ask_system,
    run_model,
    run_server,
    score_student,
    score_systems,
)
from distill.evaluation.scored import Scored
from distill.evaluation.sentences import sentences
from distill.json_schema import schema_text
from distill.task import Task
from distill.teacher.base import Completion, Prompt, Teacher
from scored_results import RESULT, STUDENT

WAYS = [Serving(LORA, {"enable_lora": True}, "float32", 0), Serving(MERGED, {}, "float32", 0)]
EQUAL = {"rows": 2, "tokens": 3, "dtype": "float32", "largest_gap": 0.0, "differ": 0}
DIFFERENT = {**EQUAL, "largest_gap": 4.3, "differ": 1}


class Script:
    """Stands for evaluate.py's process: what serving and comparing give, in turn.

    A text is a failure.
    """

    def __init__(self, *steps):
        self.steps = list(steps)
        self.served = []

    def run(self, function, *arguments):
        found = self.steps.pop(0)
        if isinstance(found, str):
            raise RuntimeError(found)
        if function is compare_with_peft:
            return found
        assert function is run_model
        _, serving, _ = arguments
        self.served.append(serving.served_as)
        return {
            "student": {**RESULT, "served_as": serving.served_as, "instead_of": serving.instead_of}
        }

    def end(self):
        pass


@pytest.fixture
def student(tmp_path):
    """Score the student by a script: score(steps..., ways=, known=) gives what score_student()
    does.
    """
    scored = Scored(tmp_path, {"student": {"adapter": adapter_identity(tmp_path / "adapter")}})
    asking = Asking(None, [], [], 1, str(tmp_path / "adapter"), str(tmp_path / "merged"), scored)

    def score(*steps, ways=WAYS, known=None):
        if known:
            scored.write("student", known)
        process = Script(*steps)
        found = score_student(process, STUDENT, ways, asking, known)
        assert process.steps == []
        return found

    score.kept = lambda: scored.path("student").exists()
    return score


def test_lora_is_enough_where_it_gives_pefts_tokens(student):
    result, check = student({}, EQUAL)
    assert (result["served_as"], result["instead_of"], check) == (LORA, "", EQUAL)


def test_a_merged_copy_follows_where_lora_fails_or_differs(student, caplog):
    result, check = student("ValueError: no LoRA here.", {}, EQUAL)
    assert (result["served_as"], check) == (MERGED, EQUAL)
    assert result["instead_of"] == "LoRA in vLLM failed with ValueError: no LoRA here"
    assert (
        "LoRA in vLLM failed with ValueError: no LoRA here; going on with a merged copy"
        in caplog.text
    )
    result, check = student({}, DIFFERENT, {}, EQUAL)
    problem = "gives other tokens than PEFT on 1 of 2 rows (float32, up to 4.30 nats)"
    assert result["instead_of"] == f"LoRA in vLLM {problem}"


def test_an_explicit_lora_or_a_copy_that_differs_fails(student):
    with pytest.raises(
        AdapterFailed, match="LoRA in vLLM gives other tokens than PEFT .*--serve_adapter merged"
    ):
        student({}, DIFFERENT, ways=WAYS[:1])
    with pytest.raises(
        AdapterFailed,
        match=r"served as a merged copy gives other tokens .*no report. --check_rows 0",
    ):
        student({}, DIFFERENT, {}, DIFFERENT)
    with pytest.raises(AdapterFailed, match="^student failed with ValueError: no"):
        student("ValueError: no", ways=WAYS[:1])


def test_a_student_that_was_scored_before_is_compared_alone(student):
    lora = {**RESULT, "served_as": LORA}
    merged = {**RESULT, "served_as": MERGED, "instead_of": "LoRA in vLLM failed"}
    assert student(EQUAL, known=merged) == (merged, EQUAL)
    assert student(EQUAL, known=lora) == (lora, EQUAL)
    result, _ = student(DIFFERENT, {}, EQUAL, known=lora)
    assert result["served_as"] == MERGED
    with pytest.raises(AdapterFailed, match="a merged copy gives other tokens"):
        student(DIFFERENT, known=merged)
    assert not student.kept()


@pytest.mark.parametrize("steps", [({}, EQUAL), ({}, DIFFERENT)], ids=["agrees", "differs"])
def test_an_adapter_that_is_replaced_meanwhile_is_not_reported(student, tmp_path, steps):
    """Its answers may be one adapter's and the comparison with PEFT another's.

    The next run starts afresh.
    """
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("another")
    with pytest.raises(
        SystemFailed,
        match="adapter has changed since this run began; the same command evaluates what",
    ):
        student(*steps)
    assert not student.kept()


def test_a_comparison_that_fails_does_not_lose_the_student(student):
    with pytest.raises(SystemFailed, match="the comparison with PEFT failed with OutOfMemoryError"):
        student("OutOfMemoryError: no memory", known={**RESULT, "served_as": LORA})
    assert student.kept()


class Recorder:
    """Stands for evaluate.py's process, and keeps what is run there: (function, systems)."""

    def __init__(self):
        self.ran = []

    def run(self, function, systems, *_):
        systems = systems if isinstance(systems, list) else [systems]
        names = [system.name for system in systems]
        self.ran.append((function, names))
        return dict.fromkeys(names, RESULT)

    def end(self):
        pass


def test_a_student_that_a_server_has_is_asked_there_and_not_compared_with_peft():
    """The base student is asked here as before, whose answers a server would not give."""
    base = replace(STUDENT, name="base", check_rows=0)
    served = replace(STUDENT, model="student", server="host", check_rows=0)
    asking = Asking(None, [], [], 1, "/nowhere", "", None)
    process = Recorder()
    results, check = score_systems(process, [base, served], [], asking, {})
    assert process.ran == [(run_model, ["base"]), (run_server, ["student"])]
    assert list(results) == ["base", "student"] and check is None
    process = Recorder()
    assert score_systems(process, [served], [], asking, {"student": RESULT})[1] is None
    assert process.ran == []  # it is known


def test_report_says_how_figures_were_measured():
    measured = {"machine": "2 cores of X", "date": "2026-01-31", "commit": "abc1234"}
    of_run = {"machine": "2 cores of X", "date": "2026-02-01", "commit": "abc1234"}
    problem = "LoRA in vLLM failed with ValueError: vLLM does not yet support DoRA"
    metrics = {
        "mcnemar": None,
        "served_as": MERGED,
        "instead_of": problem,
        "taken_over": {"base": measured},
        **of_run,
    }
    assert sentences(metrics) == [
        "The adapter was served as a merged copy for every figure of the distilled student.",
        f"--serve_adapter auto fell back on it: {problem}.",
        "Taken over from an earlier run of the same command: base student, no prompt "
        "(2 cores of X, 2026-01-31, abc1234).",
        "Measured on 2 cores of X, 2026-02-01, abc1234.",
    ]


class TextTeacher(Teacher):
    """Answers each input with its text, over and over."""

    def __init__(self, texts: dict[str, str]):
        self.texts = texts

    def prepare(self, chats):
        return [Prompt(chat[-1]["content"], tokens=3, room=90) for chat in chats]

    def ask(self, requests):
        for request in requests:
            yield request.job, Completion(self.texts[request.prompt.content], "stop", [5, 2])

    def gather(self, request):
        raise AssertionError("nothing is asked again here")

    def forget(self):
        pass


@pytest.mark.parametrize("name", ["teacher", "base_prompt", "base", "student"])
def test_answers_that_are_json_are_read_alike_of_all_systems(name):
    schema = schema_text({"properties": {"sender": {}, "amount": {"type": "number"}}})
    task = Task("Read the bill.", (), "", "", schema)
    thought = "{} is it?</think>" if name == "teacher" else ""
    texts = {
        "1": '```json\n{"amount": 1.0, "sender": "Mill"}\n```',
        "2": '{"amount": true}',
        "3": "1 euro",
    }
    teacher = TextTeacher({text: thought + answer for text, answer in texts.items()})
    chats = [[{"role": "user", "content": text}] for text in texts]
    system = replace(
        STUDENT,
        name=name,
        prompted=name in ("teacher", "base_prompt"),
        thinks=name == "teacher",
        check_rows=0,
    )
    found = ask_system(system, teacher, task, chats, "float32")
    assert found["answers"] == ['{"sender": "Mill", "amount": 1}', None, None]
    assert found["responses"] == list(teacher.texts.values())
