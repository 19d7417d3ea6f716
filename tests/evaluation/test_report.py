"""What the report shows: many labels, long ones, ones that matplotlib would read, slow systems.

No model.
"""

import re

import pytest

from distill.evaluation.page import is_wrong
from distill.evaluation.plots import SETTINGS, figures_of, shortened
from distill.evaluation.provenance import predictions
from distill.evaluation.report import write_report
from distill.evaluation.scores import SHOWN_LABELS, Prices, measure
from distill.evaluation.sentences import sentences
from distill.evaluation.systems import STYLES, titles_of
from distill.evaluation.tables import tables
from distill.wording import MISSING, markdown
from helpers import ROOT, fails, program, python, run
from report import MARKS

PRICES = Prices()


def figures(gold, teacher, student, **further):
    results = {
        "teacher": {"answers": teacher, **further},
        "student": {"answers": student, **further},
    }
    return measure(results, gold, [None] * len(gold), True, PRICES)


def test_a_dollar_and_a_label_named_other_are_shown_as_they_are(tmp_path):
    gold = ["$10_$50", "$50_$100", "other", "other"]
    metrics = figures(gold, ["$10_$50", None, "other", "x"], gold)
    write_report(tmp_path, metrics, [])
    with_settings = dict(figures_by_title(metrics))
    teacher = with_settings["Confusion matrices"].axes[0]
    answers = [label.get_text() for label in teacher.get_xticklabels()]
    assert answers == ["$10_$50", "$50_$100", "other", "(none of these)"]
    assert metrics["confusion"]["teacher"]["matrix"] == [[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1]]


def figures_by_title(metrics):
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context(SETTINGS):
        for title, _, figure in figures_of(metrics, titles_of(metrics)):
            FigureCanvasAgg(figure).draw()
            yield title, figure


def boxes(axis):
    """Where the labels of an axis's two sides are drawn, in pixels."""
    return [
        label.get_window_extent() for label in (*axis.get_xticklabels(), *axis.get_yticklabels())
    ]


@pytest.mark.parametrize("count", [2, 13, 40])
def test_no_label_is_drawn_over_another_or_over_the_other_matrix(count):
    gold = [
        f"a long label of a catalogue with the number {i} and more words than fit"
        for i in range(count)
    ]
    found = dict(figures_by_title(figures(gold, gold[1:] + gold[:1], gold)))
    left, right = found["Confusion matrices"].axes
    everywhere = [*boxes(left), *boxes(right)]
    for place, one in enumerate(everywhere):
        assert not any(one.overlaps(other) for other in everywhere[place + 1 :])
        assert not one.overlaps(left.get_window_extent()) and not one.overlaps(
            right.get_window_extent()
        )
    bars = boxes(found["Accuracy per label"].axes[0])
    assert not any(
        one.overlaps(other) for place, one in enumerate(bars) for other in bars[place + 1 :]
    )


def test_shortened_labels_stay_apart():
    long = "a" * 50
    found = shortened([long, long + "a", "a\nb", "short"])
    assert found[2:] == ["a b", "short"] and len(set(found)) == 4 and max(map(len, found)) < 50


def test_only_the_most_confused_of_many_labels_are_in_the_matrix():
    gold = [f"label {i}" for i in range(100)] * 2
    teacher = list(gold)
    teacher[7] = "label 93"  # these two, and none of the others
    student = list(gold)
    student[60:75] = [None] * 15
    metrics = figures(gold, teacher, student)
    shown = metrics["confusion"]["teacher"]["labels"]
    assert len(shown) == SHOWN_LABELS and {"label 7", "label 93", "label 60", "label 74"} <= set(
        shown
    )
    assert shown == metrics["confusion"]["student"]["labels"]
    matrix = metrics["confusion"]["teacher"]["matrix"]
    assert (
        matrix[shown.index("label 7")][shown.index("label 93")] == 1 and sum(map(sum, matrix)) == 80
    )
    assert metrics["confusion"]["student"]["left_out"] == {"labels": 60, "rows": 120, "wrong": 0}
    text = (
        "show 40 of 100 labels, those that are confused most; "
        "wrong with the others: teacher, prompt and thinking 0 of 120 rows"
    )
    assert any(text in sentence for sentence in sentences(metrics))
    labels = next(table.rows for table in tables(metrics) if table.title == "Labels")
    assert len(labels) == 100  # the table has them all


def test_many_labels_take_little_memory(tmp_path):
    """A matrix of all of them took 7.8 GiB with 400 labels."""
    result = run(*program("report_labels.py", tmp_path, 600), env={"PATH": "/usr/bin:/bin"})
    assert int(result.stdout) < 1024


def test_slow_systems_and_teachers_without_thinking_are_named_as_they_are():
    metrics = figures(["a"], ["a"], ["a"], rows_per_second=0.48)
    table = tables(metrics)[0]
    assert dict(zip(table.header, table.rows[0], strict=True))["rows/s in a batch"] == "0.48"
    assert table.rows[0][0] == "teacher, prompt and thinking"  # figures of before the key
    rows = tables({**metrics, "teacher_thinks": False})[0].rows
    assert rows[0][0] == "teacher, prompt"
    rates = [
        tables(figures(["a"], ["a"], ["a"], rows_per_second=value))[0].rows[0][-1]
        for value in (9.96, 10.4, 1533)
    ]
    assert rates == ["10", "10", "1533"]


def test_free_answers_are_equal_in_any_form_of_unicode():
    gold = ["cafe\u0301", "「体育」", "Done."]
    results = {
        "teacher": {"answers": ["café", "体育。", "Done"]},
        "student": {"answers": ["café", "x", "Done."]},
    }
    metrics = measure(results, gold, [None] * 3, False, PRICES)
    teacher = metrics["systems"]["teacher"]
    student = metrics["systems"]["student"]
    assert (teacher["correct"], student["correct"]) == (2, 2)
    assert student["agreement"] == pytest.approx(1 / 3) and metrics["mcnemar"]["only_teacher"] == 1
    row = {
        "gold": gold[0],
        "student": {"answer": "café"},
        "base": {"answer": "cafe"},
        "teacher": {"answer": None},
    }
    assert [is_wrong(row, name) for name in ("student", "base", "teacher")] == [False, True, True]
    assert not is_wrong({**row, "gold": None}, "base")


def test_readme_results_are_written_from_the_metrics(tmp_path):
    gold = ["a"] * 5
    metrics = figures(gold, gold, [*gold[:4], "b"])
    metrics.update(machine="2 cores of X", date="2026-01-31", commit="abc1234")
    write_report(tmp_path / "report", metrics, [])
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{MARKS[0]}\nformer\n{MARKS[1]}\nafter\n")
    flags = ["--metrics", tmp_path / "report" / "metrics.json", "--readme", readme]
    for _ in range(2):  # again gives the same
        python("report.py", *flags)
        text = readme.read_text()
        assert text.startswith(f"before\n{MARKS[0]}\nThe student gives 80.0 % right answers ")
        assert text.endswith(f"\n{MARKS[1]}\nafter\n")
        assert "former" not in text and text.count("| distilled student | 80.0 % (37.6–") == 1
        assert "Measured on 2 cores of X, 2026-01-31, abc1234." in text
        assert "McNemar" not in text and "macro-F1" not in text
        header = next(line for line in text.splitlines() if line.startswith("| system |"))
        assert header.count("|") == 7
    # which keeps everything, after the same beginning
    kept = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert kept.splitlines()[2].startswith("The student gives 80.0 % right answers ")
    assert "macro-F1" in kept and "McNemar" in kept
    readme.write_text("no marks")
    assert f"holds no {MARKS[0]}" in fails("report.py", *flags)
    assert readme.read_text() == "no marks"


def test_readme_holds_generated_results():
    """The section says where, when and from which commit.

    One written by hand would not have this form.
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


def test_plots_and_tables_name_systems_as_people_do():
    gold = ["a", "b"] * 3
    metrics = figures(gold, gold, gold, latencies=[0.1, 0.2])
    named = {"teacher, prompt and thinking", "distilled student"}
    found = dict(figures_by_title(metrics))
    assert {axis.get_title() for axis in found["Confusion matrices"].axes} == named
    legend = found["Latency"].legends[0]
    assert {text.get_text() for text in legend.get_texts()} == named
    header = next(table.header for table in tables(metrics) if table.title == "Labels")
    assert header[2] == "teacher, prompt and thinking: precision"
    assert header[-1] == "distilled student: F1"


def test_a_system_looks_the_same_in_every_plot_and_differs_in_grey():
    from matplotlib.colors import to_hex

    gold = ["a", "b"] * 3
    costs = {"prompt_tokens": [9] * 6, "cached_tokens": [4] * 6, "output_tokens": [2] * 6}
    metrics = figures(gold, gold, gold, latencies=[0.1, 0.2], **costs)
    found = dict(figures_by_title(metrics))
    ticks = [label.get_text() for label in found["Latency"].axes[0].get_xticklabels()]
    assert "0.1" in ticks and not any("$" in text for text in ticks)
    curves = [to_hex(line.get_color()) for line in found["Latency"].axes[0].lines]
    bars = [
        to_hex(bars[0].get_facecolor()) for bars in found["Accuracy per label"].axes[0].containers
    ]
    written = [
        to_hex(bars[0].get_facecolor())
        for bars in found["Tokens per request"].axes[0].containers[2::3]
    ]
    expected = [STYLES[name].colour.lower() for name in ("teacher", "student")]
    assert curves == bars == written == expected
    lines = {line.get_linestyle() for line in found["Latency"].axes[0].lines}
    hatches = {bars[0].get_hatch() for bars in found["Accuracy per label"].axes[0].containers}
    assert len(lines) == len(hatches) == 2
    for part in ("colour", "line", "hatch"):
        assert len({getattr(style, part) for style in STYLES.values()}) == len(STYLES)


def test_ids_are_beside_the_rows_where_rows_have_them(tmp_path):
    gold = ["a", "b", "a"]
    metrics = figures(gold, gold, gold)
    results = {name: {"answers": gold, "responses": gold} for name in ("teacher", "student")}
    chats = [[{"role": "user", "content": text}] for text in ("x", "y", "z")]
    lines = predictions(chats, gold[:2], results, ["007", "<b>", None])
    assert [row.get("id") for row in lines] == ["007", "<b>", None]
    write_report(tmp_path / "ids", metrics, lines)
    with_ids = (tmp_path / "ids" / "report.html").read_text("utf-8")
    assert '<th scope="col">id</th>' in with_ids
    assert re.findall(r'data-name="id" dir="auto">(.+?)<', with_ids) == [
        "007",
        "&lt;b&gt;",
        MISSING,
    ]
    without = predictions(chats, gold[:2], results, [None] * 3)
    assert without == predictions(chats, gold[:2], results)
    write_report(tmp_path / "none", metrics, without)
    assert 'data-name="id"' not in (tmp_path / "none" / "report.html").read_text("utf-8")
