"""The answer that the report begins with, in every case that a user may have. No model."""

import pytest

from distill.evaluation.headlines import headlines
from distill.evaluation.report import on_terminal
from distill.evaluation.scores import Prices, measure
from distill.evaluation.verdict import not_thinking, verdict
from distill.wording import duration, part_of, seconds

TEACHER_COSTS = {
    "prompt_tokens": [2300] * 420,
    "cached_tokens": [2200] * 420,
    "output_tokens": [92] * 420,
    "latencies": [0.17] * 5,
}
STUDENT_COSTS = {
    "prompt_tokens": [44] * 420,
    "cached_tokens": [0] * 420,
    "output_tokens": [2] * 420,
    "latencies": [0.01] * 5,
}


def answers(rows, wrong, unreadable=0):
    """Answers to `rows` rows whose gold is "a": first the wrong ones, last the unreadable ones."""
    right = rows - wrong - unreadable
    return ["b"] * wrong + ["a"] * right + [None] * unreadable


def figures(rows, teacher=None, student=None, labelled=True, **base):
    """The metrics of systems whose results are given as answers or as whole results."""
    given = {"teacher": teacher, **base, "student": student}
    results = {}
    for name, result in given.items():
        if result is not None:
            results[name] = result if isinstance(result, dict) else {"answers": result}
    return measure(results, ["a"] * rows, [None] * rows, labelled, Prices())


def test_a_student_within_chance_that_saves_much():
    teacher = {"answers": answers(420, 16), **TEACHER_COSTS}
    student = {"answers": list(reversed(answers(420, 13))), **STUDENT_COSTS}
    metrics = figures(420, teacher, student, base=answers(420, 369))
    assert " ".join(verdict(metrics)) == (
        "The student gives 96.9 % right answers where the teacher gives 96.2 %; "
        "the difference is within what 420 rows can tell. "
        "A request costs 1/52 of the tokens and took 1/17 of the time. "
        "Without the distillation: 12.1 %."
    )


@pytest.mark.parametrize(
    ("teacher_wrong", "student_wrong", "text"),
    [
        (5, 30, "90.0 % right answers where the teacher gives 98.3 %: it is worse by 8.3 points"),
        (30, 5, "98.3 % right answers where the teacher gives 90.0 %: it is better by 8.3 points"),
    ],
)
def test_a_difference_that_chance_does_not_explain(teacher_wrong, student_wrong, text):
    metrics = figures(300, answers(300, teacher_wrong), answers(300, student_wrong))
    assert verdict(metrics)[0] == (
        f"The student gives {text}, more than chance explains on 300 rows."
    )
    assert "more than chance" in headlines(metrics)[0].change


def test_the_rule_is_mcnemars_at_five_percent():
    """Of six rows that only one gets right all are the teacher's (p = 0.031), or of five
    (p = 0.063).
    """
    six = figures(300, answers(300, 0), answers(300, 6))
    five = figures(300, answers(300, 0), answers(300, 5))
    assert "it is worse" in verdict(six)[0]
    assert "within what 300 rows can tell" in verdict(five)[0]


def test_as_many_right_answers_are_no_difference():
    metrics = figures(300, answers(300, 10), answers(300, 10))
    assert verdict(metrics)[0] == "The student gives 96.7 % right answers, as many as the teacher."
    assert headlines(metrics)[0].change == "no difference"


def test_few_rows_say_how_far_the_student_may_be_off():
    metrics = figures(12, answers(12, 0), answers(12, 0))
    assert verdict(metrics)[0] == (
        "The student gives 100.0 % right answers, as many as the teacher, "
        "but 12 rows are few: on others the student's share may well be anything "
        "from 75.8 % to 100.0 %."
    )
    metrics = figures(12, answers(12, 0), answers(12, 2))
    assert "where the teacher gives 100.0 %, but 12 rows are few" in verdict(metrics)[0]
    assert "but 1 row is few" in verdict(figures(1, ["a"], ["a"]))[0]
    # a difference that even few rows show is one
    assert "it is worse" in verdict(figures(12, answers(12, 0), answers(12, 12)))[0]


def test_without_a_teacher_the_student_stands_alone():
    metrics = figures(300, None, {"answers": answers(300, 30), **STUDENT_COSTS})
    assert verdict(metrics) == [
        "The student gives 90.0 % right answers.",
        "No teacher was asked.",
        "A request costs 46 tokens and took 10 ms.",
    ]
    found = headlines(metrics)
    assert [figure.value for figure in found] == ["90.0 %", "–", "46", "10 ms"]
    assert {figure.beside for figure in found} == {"no teacher was asked"}
    assert {figure.change for figure in found} == {""}
    assert verdict(figures(300, None, answers(300, 30)))[-1] == "No teacher was asked."


def test_without_a_student_there_is_no_verdict_on_one():
    metrics = figures(300, answers(300, 12), None, base=answers(300, 270))
    assert verdict(metrics) == [
        "The distilled student was not asked. Right answers: teacher, prompt and thinking 96.0 %; "
        "base student, no prompt 10.0 %."
    ]
    assert headlines(metrics) == []


def test_a_teachers_answers_from_a_file_have_no_time():
    student = {"answers": answers(420, 13), **STUDENT_COSTS}
    with_journal = {**TEACHER_COSTS, "answers": answers(420, 16), "latencies": []}
    assert verdict(figures(420, with_journal, student))[1] == (
        "A request costs 1/52 of the tokens; its time was not compared."
    )
    metrics = figures(420, answers(420, 16), student)
    assert verdict(metrics)[1] == "Tokens and time of a request were not compared."
    tokens = headlines(metrics)[2]
    assert (tokens.value, tokens.beside, tokens.change) == ("46", "teacher not measured", "")
    timed = {"answers": answers(420, 16), "latencies": [0.17]}
    assert verdict(figures(420, timed, student))[1] == (
        "A request took 1/17 of the time; its tokens were not compared."
    )


def test_a_student_that_costs_more_is_not_said_to_save():
    teacher = {"answers": answers(420, 16), **STUDENT_COSTS}
    student = {"answers": answers(420, 13), **TEACHER_COSTS}
    metrics = figures(420, teacher, student)
    assert verdict(metrics)[1] == (
        "A request costs 52.0 times the tokens and took 17.0 times the time: nothing is saved."
    )
    assert headlines(metrics)[2].change == "52.0 times the teacher's"
    untimed = {**student, "latencies": []}
    assert verdict(figures(420, teacher, untimed))[1] == (
        "A request costs 52.0 times the tokens; its time was not compared."
    )
    mixed = {**student, "latencies": [0.005]}
    assert verdict(figures(420, teacher, mixed))[1] == (
        "A request costs 52.0 times the tokens and took 50 % of the time."
    )


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (1 / 52.3, "1/52 of it"),
        (0.1, "1/10 of it"),
        (0.34, "34 % of it"),
        (1.0, "100 % of it"),
        (1.98, "198 % of it"),
        (2.5, "2.5 times it"),
    ],
)
def test_parts_are_written_as_one_says_them(ratio, text):
    assert part_of(ratio, "it") == text


def test_seconds_are_short_in_any_size():
    assert [duration(value) for value in (0.0077, 0.1643, 0.9999, 12.34, None)] == [
        "7.7 ms",
        "164 ms",
        "1000 ms",
        "12.3 s",
        "–",
    ]
    assert [seconds(value) for value in (0.0077, 123.456, None)] == ["0.0077", "123.5", "–"]


def test_a_teacher_that_cannot_be_read_is_nothing_to_be_better_than():
    teacher = {"answers": answers(420, 0, unreadable=400), **TEACHER_COSTS}
    student = {"answers": answers(420, 13), **STUDENT_COSTS}
    metrics = figures(420, teacher, student)
    metrics["unfinished_thinking"] = 390
    assert verdict(metrics) == [
        "The teacher's answer cannot be read on 400 of 420 rows, on 390 rows because its thinking "
        "does not end: raise --max_tokens, or pass --reasoning_parser none for a teacher that does "
        "not think.",
        "So the student cannot be compared with it.",
        "The student gives 96.9 % right answers.",
        "A request costs 46 tokens and took 10 ms.",
    ]
    assert {figure.change for figure in headlines(metrics)} == {""}
    assert not not_thinking(figures(420, answers(420, 0, unreadable=42), answers(420, 13)))
    without = figures(420, answers(420, 0, unreadable=400), None)
    assert verdict(without)[0].startswith("The teacher's answer cannot be read on 400 of 420")


def test_a_bad_teacher_and_an_unreadable_student_are_named():
    found = verdict(figures(300, answers(300, 200), answers(300, 200)))
    assert "The teacher itself is wrong more often than right" in found[1]
    found = verdict(figures(300, answers(300, 10), answers(300, 10, unreadable=200)))
    assert found[1] == (
        "The student's answer cannot be read on 200 of 300 rows, which count as wrong."
    )


def test_few_words_in_common_with_gold_do_not_make_a_free_answer_wrong():
    found = verdict(figures(300, answers(300, 200), answers(300, 200), labelled=False))
    assert "wrong more often" not in " ".join(found)


def test_what_the_base_student_could_do_already():
    def last(**base):
        return verdict(figures(300, answers(300, 10), answers(300, 12), **base))[-1]

    assert last(base=answers(300, 270)) == "Without the distillation: 10.0 %."
    assert last(base=answers(300, 270), base_prompt=answers(300, 150)) == (
        "Without the distillation: 10.0 %, and 50.0 % under the teacher's prompt."
    )
    assert last(base_prompt=answers(300, 150)) == (
        "Without the distillation: 50.0 % under the teacher's prompt."
    )
    assert last(base=answers(300, 12)) == "Without the distillation: 96.0 %; it has not helped."


def test_free_texts_are_judged_by_their_words():
    gold = ["the red fox runs away", "no"] * 60
    teacher = ["the red fox runs", "no"] * 60
    student = ["the red fox", "no"] * 59 + ["the red fox", "yes"]
    results = {"teacher": {"answers": teacher}, "student": {"answers": student}}
    metrics = measure(results, gold, [None] * 120, False, Prices())
    found = verdict(metrics)
    # "the" does not count, so of 4 words 2 or 3 are there: F1 is 2/3 or 6/7, and 1 of "no"
    assert found[0] == (
        "The student's answers agree with the right ones in 82.5 % of their words where "
        "the teacher's agree in 92.9 % (token-F1)."
    )
    assert found[1] == (
        "The student gives 49.2 % exactly right answers where the teacher gives 50.0 %; "
        "the difference is within what 120 rows can tell."
    )
    assert headlines(metrics)[0].title == "Words in common with gold (token-F1)"
    alone = measure({"student": results["student"]}, gold, [None] * 120, False, Prices())
    assert verdict(alone)[0] == (
        "The student's answers agree with the right ones in 82.5 % of their words (token-F1)."
    )
    never = measure(results, ["other words"] * 120, [None] * 120, False, Prices())
    assert "No answer of either is exactly right" in verdict(never)[1]


@pytest.mark.parametrize("labelled", [True, False])
def test_the_terminal_shows_six_columns_in_100_characters(labelled):
    """Also of systems that are slow, long and always right."""
    slow = {
        "answers": ["a"] * 420,
        "prompt_tokens": [1_000_000] * 420,
        "cached_tokens": [0] * 420,
        "output_tokens": [99_999] * 420,
        "latencies": [12345.678] * 2,
    }
    fast = {**slow, "latencies": [0.00123]}
    systems = {"base_prompt": slow, "base": answers(420, 420)}
    metrics = figures(420, slow, fast, labelled=labelled, **systems)
    lines = on_terminal(metrics).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("The student")
    assert not any(line.startswith("%") for line in lines)  # a number and its unit stay together
    header = next(line for line in lines if line.startswith("system  "))
    columns = [name for name in header.split("  ") if name.strip()]
    assert len(columns) == 6 and "|" not in header
    for title in (
        "teacher, prompt and thinking",
        "base student, prompt",
        "base student, no prompt",
        "distilled student",
    ):
        assert sum(line.startswith(f"{title} ") for line in lines) == 1


def test_beside_labels_from_elsewhere_the_student_alone_has_costs():
    student = {"answers": answers(420, 13), **STUDENT_COSTS}
    metrics = figures(420, answers(420, 16), student, base=answers(420, 369))
    metrics["labels_from_elsewhere"] = True
    assert " ".join(verdict(metrics)) == (
        "The student gives 96.9 % right answers where the teacher gives 96.2 %; "
        "the difference is within what 420 rows can tell. "
        "A request costs 46 tokens and took 10 ms. "
        "Without the distillation: 12.1 %."
    )
    [_, _, tokens, latency] = headlines(metrics)
    assert (tokens.value, tokens.beside, tokens.change) == ("46", "teacher not known", "")
    assert (latency.value, latency.beside, latency.change) == ("10 ms", "teacher not known", "")
    row = next(line for line in on_terminal(metrics).splitlines() if line.startswith("labels"))
    assert row.split("  ")[0] == "labels from elsewhere"
    assert row.count("not known") == 3
    assert "–" in row  # of the interval
    assert max(map(len, on_terminal(metrics).splitlines())) <= 100
