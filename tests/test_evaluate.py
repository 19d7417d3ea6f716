"""The figures of evaluate.py on answers whose scores are known by hand."""

import json
import signal
import subprocess
import sys

import pytest

from distill.evaluation import rows as evaluation_rows
from distill.evaluation.rows import label_quality, read_rows, read_teacher
from distill.evaluation.scores import Prices, mcnemar, measure, quality
from distill.evaluation.tables import tables
from distill.task import load_task
from distill.teacher.check import check_reasoning_parser
from helpers import ROOT, fails, last_json, python, qwen_tokenizer

TASK = ROOT / "example-data" / "language_classification.yaml"
PRICES = Prices(input=1.0, cached=0.1, output=4.0)


def result(answers, **further):
    tokens = {"prompt_tokens": [10] * 4, "cached_tokens": [4] * 4, "output_tokens": [1, 2, 2, 3]}
    return {
        "answers": answers,
        **tokens,
        "latencies": [0.1, 0.2, 0.3],
        "rows_per_second": 5.0,
        **further,
    }


@pytest.fixture
def measured():
    """The figures of a teacher and a student on four rows of two kinds."""
    gold = ["en", "de", "fr", "de"]
    teacher = result(["en", None, "fr", "fr"], latencies=[1.0])
    student = result(["en", "de", None, "fr"])
    kinds = ["a", "a", "b", None]
    return measure({"teacher": teacher, "student": student}, gold, kinds, True, PRICES)


def test_figures_of_quality(measured):
    found = measured["systems"]["student"]
    assert (found["rows"], found["correct"], found["accuracy"], found["unreadable"]) == (
        4,
        2,
        0.5,
        1,
    )
    # Wilson's interval for 2 of 4 at z = 1.96: (0.5 + 1.92 / 4 -+ 1.96 * sqrt(0.0625 + 0.96 / 16))
    # / (1 + 3.84 / 4)
    assert found["accuracy_interval"] == pytest.approx([0.150, 0.850], abs=1e-3)
    assert found["agreement"] == pytest.approx(2 / 3)  # of the rows that the teacher answered
    assert found["per_label"]["de"] == {
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "rows": 2.0,
    }
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert {kind: of["student"]["correct"] for kind, of in measured["kinds"].items()} == {
        "a": 2,
        "b": 0,
    }
    # gold de, en, fr by answer de, en, fr, other
    assert measured["confusion"]["student"]["matrix"] == [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]


def test_figures_of_speed_and_cost(measured):
    found = measured["systems"]["student"]
    assert (found["tokens"], found["latency_s"]) == (12, pytest.approx(0.2))
    assert found["latency_p95_s"] == pytest.approx(0.29)
    assert found["cost_per_million"] == pytest.approx(6 * 1.0 + 4 * 0.1 + 2 * 4.0)
    assert (found["speedup"], found["token_ratio"]) == (pytest.approx(5), 1)


def test_figures_in_the_table(measured):
    table = tables(measured)[0]
    assert "50.0 % (2 of 4; 15.0 % to 85.0 %)" in table.rows[1]
    assert "5.0" in table.rows[1]
    assert len(table.rows[1]) == len(table.header)


def test_inputs_without_gold_count_for_agreement_alone():
    answers = ["en", "de", "fr", "es"]
    results = {
        "teacher": result(answers),
        "student": result(["en", "fr", "fr", None], prompt_tokens=[1, 3, 9, 9]),
    }
    metrics = measure(results, ["en", "de"], [None, None], True, PRICES)
    assert metrics["without_gold"]["student"] == {"rows": 2, "unreadable": 1, "agreement": 0.5}
    student = metrics["systems"]["student"]
    assert (student["rows"], student["agreement"], student["prompt_tokens"]) == (2, 0.5, 2)
    assert metrics["kinds"] == {}


def test_one_system_alone_and_unmeasured_figures_are_shown_as_missing():
    metrics = measure(
        {"student": {"answers": ["en", "de"]}}, ["en", "en"], [None, None], True, PRICES
    )
    assert metrics["mcnemar"] is None and "agreement" not in metrics["systems"]["student"]
    assert metrics["systems"]["student"]["tokens"] is None
    assert tables(metrics)[0].rows[0][3:] == ["–", "0", "– (– + –)", "–", "–", "–, –", "–", "–"]


def test_free_answers_have_exact_match_and_token_f1():
    found = quality(["the cat sat.", "no", None], ["Cat sat", "yes it is", "a"], labelled=False)
    # SQuAD's measures leave out case, punctuation and articles; F1 is that of the words
    assert (found["correct"], found["exact_match"], found["token_f1"]) == (
        0,
        pytest.approx(1 / 3),
        pytest.approx(1 / 3),
    )
    assert quality(["it was"], ["it is"], labelled=False)["token_f1"] == pytest.approx(0.5)
    metrics = measure({"student": {"answers": ["a b"]}}, ["b a"], [None], False, PRICES)
    table = tables(metrics)[0]
    assert dict(zip(table.header, table.rows[0], strict=True))["token-F1"] == "1.000"
    assert "macro_f1" not in metrics["systems"]["student"] and metrics["confusion"] == {}


def test_mcnemar_counts_the_rows_that_only_one_gets_right():
    gold = list("abcdefgh")
    found = mcnemar(gold[:6] + ["x", "x"], ["a", *"xxxxx", "g", "x"], gold)
    # 5 against 1 of 6 discordant rows: two-sided binomial, 2 * (1 + 6) / 64
    assert found == {"only_student": 5, "only_teacher": 1, "p_value": pytest.approx(14 / 64)}
    assert mcnemar(gold, gold, gold)["p_value"] == 1.0


def test_labels_are_scored_against_gold(tmp_path):
    gold = ROOT / "example-data" / "multilingual_gold.jsonl"
    rows = [json.loads(line) for line in gold.read_text(encoding="utf-8").splitlines()]
    labels = tmp_path / "labels.jsonl"
    rows[0]["messages"][1]["content"] = "zh"  # one wrong, one rejected, in another order
    labels.write_text(
        "".join(json.dumps(row) + "\n" for row in reversed(rows[:-1])), encoding="utf-8"
    )
    found = last_json(python("evaluate.py", "--labels", labels, "--gold", gold))
    assert (found["rows"], found["correct"], found["unreadable"]) == (2101, 2099, 1)
    assert found["per_label"]["ar"]["recall"] == pytest.approx(
        1 - 1 / found["per_label"]["ar"]["rows"]
    )
    found = last_json(python("evaluate.py", "--labels", labels, "--gold", gold, "--limit", 100))
    assert (found["rows"], found["correct"]) == (100, 99)
    heldout = ROOT / "example-data" / "heldout.jsonl"
    assert "has no input of" in fails("evaluate.py", "--labels", labels, "--gold", heldout)


def test_labels_are_scored_under_their_task(tmp_path):
    """Its labels in any case and form of Unicode; texts, where it has none."""
    labelled = tmp_path / "labelled.yaml"
    free = tmp_path / "free.yaml"
    labelled.write_text("prompt: p\nlabels: [café, thé]", encoding="utf-8")
    free.write_text("prompt: p")
    labels = write(tmp_path / "labels.jsonl", chat("a", "café"), chat("b", "thé"))
    gold = write(tmp_path / "gold.jsonl", chat("a", "CAFE\u0301"), chat("b", "cafe\u0301"))
    found = label_quality(labels, gold, 0, load_task(labelled))
    assert (found["rows"], found["correct"], list(found["per_label"])) == (2, 1, ["café"])
    found = label_quality(labels, gold, 0, load_task(free))
    assert (found["correct"], found["exact_match"]) == (0, 0.5) and "per_label" not in found
    line = fails("evaluate.py", "--labels", labels, "--gold", gold)
    assert (
        "labels.jsonl:1: answer 'café' is none of the task's labels; pass its own task with --task"
        in line
    )


def test_gold_is_read_in_any_case_and_form(tmp_path):
    (tmp_path / "task.yaml").write_text("prompt: p\nlabels: [café, Thé]", encoding="utf-8")
    rows = [chat("a", "Cafe\u0301"), chat("cafe\u0301 \u200b", "THÉ.")]
    path = write(tmp_path / "gold.jsonl", *rows)
    found = read_rows(path, "", 0, load_task(tmp_path / "task.yaml"))
    assert found.gold == ["café", "Thé"]
    assert found.chats[1][0]["content"] == "cafe\u0301 \u200b"  # inputs stay as they are


def test_a_row_keeps_its_kind_where_the_test_file_is_replaced_meanwhile(tmp_path, monkeypatch):
    rows = [chat("hola", "es", kind="edge"), chat("hi", "en"), chat("ciao", "it", kind="parallel")]
    path = write(tmp_path / "gold.jsonl", *rows)
    write(tmp_path / "other.jsonl", *(chat("adieu", "fr", kind="other") for _ in rows))

    def replace_file(task, text, where):
        if (tmp_path / "other.jsonl").exists():
            (tmp_path / "other.jsonl").rename(path)
        return text

    monkeypatch.setattr(evaluation_rows, "known_answer", replace_file)
    found = read_rows(path, "", 0, load_task(TASK))
    assert found.gold == ["es", "en", "it"]
    assert found.kinds == ["edge", None, "parallel"]
    assert "adieu" in path.read_text()


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chat(question, answer, **more):
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ],
        **more,
    }


def test_teacher_answers_are_read_from_a_file(tmp_path):
    """Without its journal only the answers are known; what was rejected is unreadable."""
    task = load_task(TASK)
    labels = write(tmp_path / "out.jsonl", chat("hola", "es"), chat("hi", "en"))
    rejected = {
        "index": 1,
        "messages": chat("?", "")["messages"][:1],
        "reason": "no_answer",
        "responses": [],
    }
    write(tmp_path / "out.jsonl.rejected.jsonl", rejected)
    chats = [chat(text, "")["messages"][:1] for text in ("?", "hola")]
    assert read_teacher(labels, chats, task) == {"answers": [None, "es"], "responses": ["", "es"]}
    with pytest.raises(ValueError, match="out.jsonl: has no answer for 'ciao'"):
        read_teacher(labels, [chat("ciao", "")["messages"][:1]], task)
    write(tmp_path / "out.jsonl.manifest.json", {"task": "another", "task_file": "other.yaml"})
    with pytest.raises(ValueError, match=r"another task \(other.yaml\)"):
        read_teacher(labels, chats, task)


HOLA = chat("hola", "es")
BAD_EVALUATION = {
    "missing file": ([], ["--test_file", "/nowhere.jsonl"], "/nowhere.jsonl"),
    "no rows": ([], [], "test.jsonl: no rows"),
    "not a label": ([HOLA, chat("hola", "xx")], [], "test.jsonl:2: gold answer 'xx'"),
    "row without gold": (
        [HOLA, {"messages": HOLA["messages"][:1]}],
        [],
        "test.jsonl:2: the last message must be from",
    ),
    "gold without a question": (
        [{"messages": HOLA["messages"][1:]}],
        [],
        "test.jsonl:1: an answer without a question",
    ),
    "kind is a number": ([chat("hola", "es", kind=3)], [], "test.jsonl:1: 'kind'"),
    "missing teacher": ([HOLA], ["--teacher_model", "./no-model"], "./no-model: no model here"),
    "missing student": ([HOLA], ["--student_model", "./no-model"], "./no-model: no model here"),
    "missing adapter": ([HOLA], ["--adapter", "/nowhere"], "/nowhere: no adapter"),
    "adapter of another base": (
        [HOLA],
        ["--student_model", "some/other"],
        "adapter of some/base, not of --student_model",
    ),
    "teacher's answers missing": (
        [HOLA],
        ["--teacher_answers", "/nowhere.jsonl"],
        "/nowhere.jsonl: No such file",
    ),
    "teacher's answers to other rows": (
        [HOLA],
        ["--teacher_answers", "GOLD"],
        "has no answer for 'hola'",
    ),
    "teacher's answers without teacher": (
        [HOLA],
        ["--systems", "student", "--teacher_answers", "x"],
        "--systems leaves the teacher out",
    ),
    "teacher without a chat template": (
        [HOLA],
        ["--systems", "teacher", "--teacher_model", "TEACHER", "--reasoning_parser", "none"],
        "the tokenizer has no chat template",
    ),
    "inputs without gold missing": (
        [HOLA],
        ["--inputs_without_gold", "/nowhere.txt"],
        "/nowhere.txt",
    ),
    "unknown system": ([HOLA], ["--systems", "teacher,pupil"], "'pupil' is none of"),
    "no latency": ([HOLA], ["--latency_rows", "0"], "--latency_rows 0: must be at least 1"),
    "labels without gold": ([], ["--labels", "x"], "--labels and --gold go together"),
    "labels missing": (
        [],
        ["--labels", "/nowhere.jsonl", "--gold", "GOLD"],
        "/nowhere.jsonl: No such file",
    ),
    "report cannot be written": (
        [HOLA],
        ["--report_dir", "GOLD"],
        "multilingual_gold.jsonl/report.md: cannot be written",
    ),
    "unknown flag": ([HOLA], ["--no_such_flag", "1"], "unrecognized arguments: --no-such-flag"),
}


@pytest.mark.parametrize(("rows", "flags", "named"), BAD_EVALUATION.values(), ids=BAD_EVALUATION)
def test_bad_input_is_refused_before_a_model_is_loaded(rows, flags, named, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    defaults = ["--test_file", write(tmp_path / "test.jsonl", *rows), "--adapter", adapter]
    defaults += ["--teacher_model", "some/teacher", "--student_model", "some/base"]
    named_files = {
        "GOLD": ROOT / "example-data" / "multilingual_gold.jsonl",
        "TEACHER": tmp_path / "teacher",
    }
    if "TEACHER" in flags:
        qwen_tokenizer().save_pretrained(tmp_path / "teacher")
        (tmp_path / "teacher" / "config.json").write_text(
            '{"model_type": "qwen3", "transformers_version": "5.0.0"}'
        )
    flags = [named_files.get(flag, flag) for flag in flags]
    assert named in fails("evaluate.py", *defaults, *flags)
    assert [p.name for p in adapter.iterdir()] == ["adapter_config.json"]


def test_an_unknown_reasoning_parser_is_refused_with_the_known_ones():
    check_reasoning_parser("none")
    check_reasoning_parser("qwen3")
    message = (
        "^--reasoning_parser qwen9: vLLM has none of this name; "
        "it knows .*deepseek_r1, .*qwen3, .*, and none is"
    )
    with pytest.raises(ValueError, match=message):
        check_reasoning_parser("qwen9")


def test_ctrl_c_at_once_ends_without_a_traceback():
    """While the script's modules are still read, which Python tells one by one."""
    command = [sys.executable, "-X", "importtime", str(ROOT / "evaluate.py")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.strip().endswith("early_stop"):
            process.send_signal(signal.SIGINT)
            break
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in stderr
    assert " journal" not in stderr  # it did not go on to read all of them
