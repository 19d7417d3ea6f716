"""Step 3 as a user runs it, without a model: bad input, Ctrl-C, and what the report holds."""

import re
import shutil
import signal
import subprocess
import sys

import pytest

from chat_rows import chat, write
from distill.evaluation.report import markdown, write_report
from distill.evaluation.scores import Prices, measure
from helpers import ROOT, fails, python, qwen_tokenizer
from report import MARKS

CHROMIUM = shutil.which("chromium")
TASK = ROOT / "example-data" / "language_classification.yaml"
PRICES = Prices(input=1.0, cached=0.1, output=4.0)


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


TEXTS = {
    "ar": "أشتاق إلى الأمسيات الهادئة على الشرفة.",
    "ur": "یہ پل ایک ہی گرمی کے موسم میں بنا، 1954 میں۔",
    "zh": "我最怀念的就是在露台上度过的那些宁静的夜晚。",
    "hi": "यह पुल एक ही गर्मी में बना।",
    "en": (
        '<script>document.title = "run"</script><img src="http://example.com/x.png"> '
        '& "so on" | pipe'
    ),
}


@pytest.fixture
def report(tmp_path):
    """report/ of five rows, the last of which the student gets wrong."""
    gold = list(TEXTS)
    results = {"teacher": {"answers": gold}, "student": {"answers": [*gold[:4], "<b>x</b>"]}}
    metrics = measure(results, gold, ["edge", *["parallel"] * 4], True, PRICES)
    rows = [
        {"messages": [{"role": "user", "content": text}], "gold": label}
        for label, text in TEXTS.items()
    ]
    for i, row in enumerate(rows):
        for name, result in results.items():
            row[name] = {"answer": result["answers"][i], "response": ""}
    metrics.update(machine="2 cores of X", date="2026-01-31", commit="abc1234")
    write_report(tmp_path / "report", metrics, rows)
    return tmp_path / "report"


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
def test_page_in_a_browser(report):
    from playwright.sync_api import sync_playwright

    flags = (
        "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
        "--disable-sync"
    ).split()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page()
        requests = []
        messages = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.goto((report / "report.html").as_uri())
        assert [url for url in requests if not url.startswith("data:")] == [
            (report / "report.html").as_uri()
        ]
        # nothing in a row was run
        assert messages == [] and page.title() == "Prompt distillation: evaluation"
        assert page.locator("table").count() == 4
        cells = page.locator("#rows td.text")
        assert cells.first.inner_text() == TEXTS["en"]  # the row that is wrong comes first, as text
        assert sorted(cells.all_inner_texts()) == sorted(TEXTS.values())
        direction = "cells => cells.map(cell => getComputedStyle(cell).direction)"
        found = dict(zip(cells.all_inner_texts(), cells.evaluate_all(direction), strict=True))
        assert {label: found[text] for label, text in TEXTS.items()} == {
            "ar": "rtl",
            "ur": "rtl",
            "zh": "ltr",
            "hi": "ltr",
            "en": "ltr",
        }
        # right-to-left text starts at the cell's right edge
        edges = """cell => { const range = document.createRange(); range.selectNodeContents(cell);
            return [range.getBoundingClientRect(), cell.getBoundingClientRect()].map(box => [box.left, box.right]) }"""  # noqa: E501
        (left, right), (cell_left, cell_right) = cells.filter(has_text=TEXTS["ar"]).evaluate(edges)
        assert cell_right - right < 15 < left - cell_left
        assert page.locator("td.wrong").all_inner_texts() == ["<b>x</b>"]
        images = page.locator("img").evaluate_all(
            "images => images.map(i => [i.complete, i.naturalWidth > 300])"
        )
        assert images == [[True, True]] * 2  # without latencies and tokens there are two plots
        browser.close()


def test_page_needs_nothing_else(report):
    page = (report / "report.html").read_text(encoding="utf-8")
    assert all(
        address.startswith("data:image/png")
        for address in re.findall(r'(?:src|href)="([^"]*)"', page)
    )
    assert "<script" not in page and "@import" not in page and "url(" not in page
    assert page.count("&lt;script&gt;") == 1 and all(
        text in page for label, text in TEXTS.items() if label != "en"
    )


def test_readme_table_is_written_from_the_metrics(report, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{MARKS[0]}\nformer\n{MARKS[1]}\nafter\n")
    flags = ["--metrics", report / "metrics.json", "--readme", readme]
    for _ in range(2):  # again gives the same
        python("report.py", *flags)
        text = readme.read_text()
        assert text.startswith(f"before\n{MARKS[0]}\n") and text.endswith(f"\n{MARKS[1]}\nafter\n")
        assert "former" not in text and text.count("| distilled student | 80.0% (4 of 5;") == 1
        assert "Measured on 2 cores of X, 2026-01-31, abc1234." in text
        header = next(line for line in text.splitlines() if line.startswith("| system |"))
        assert header.count("|") == 7 and "macro-F1" not in text and "By kind of row" not in text
    # which keeps everything
    assert "macro-F1" in (report / "report.md").read_text(encoding="utf-8")
    readme.write_text("no marks")
    assert f"holds no {MARKS[0]}" in fails("report.py", *flags)
    assert readme.read_text() == "no marks"


def test_readme_holds_a_generated_table():
    """The table says where, when and from which commit.

    A table written by hand would not have this form.
    """
    section = (
        (ROOT / "README.md")
        .read_text(encoding="utf-8")
        .partition(MARKS[0])[2]
        .partition(MARKS[1])[0]
    )
    assert re.search(r"Measured on .+, \d{4}-\d\d-\d\d, [0-9a-f]{7,}\.", section)
    assert section.count("| distilled student |") == 1


def test_cells_do_not_break_a_markdown_table():
    assert markdown(["a|b"], [["x\ny"]]).splitlines() == ["| a\\|b |", "| --- |", "| x y |"]
