"""What requests cost: by tokens, by the hours of a GPU, and where it cannot be known."""

import json

import pytest

import create_data
import evaluate
import predict
from distill.evaluation.provenance import shown_summary
from distill.evaluation.report import in_markdown, on_terminal
from distill.evaluation.scores import measure
from distill.evaluation.tables import cost_table, overview
from distill.prices import Prices, TokenPrices
from helpers import ROOT

TOKENS = {"prompt_tokens": 1000, "cached_tokens": 900, "output_tokens": 50}
MEASURED = {**TOKENS, "rows_per_second": 10.0}
PER_TOKENS = 100 * 2 + 900 * 0.5 + 50 * 8  # of a million requests


def choices(*flags):
    return evaluate.parse_args([str(flag) for flag in flags])


def test_prices_of_tokens_are_those_of_both_unless_one_has_its_own():
    both = ["--price_input", 2, "--price_cached", 0.5, "--price_output", 8]
    prices = choices(*both, "--student_price_output", 1).prices
    assert prices.of_system("teacher", MEASURED) == pytest.approx(PER_TOKENS)
    for name in ("student", "base", "base_prompt"):  # they are one model
        assert prices.of_system(name, MEASURED) == pytest.approx(100 * 2 + 900 * 0.5 + 50 * 1)


def test_cached_tokens_cost_as_others_where_nobody_says_otherwise():
    prices = choices("--price_input", 2, "--price_output", 8).prices
    assert prices.of_system("teacher", MEASURED) == pytest.approx(1000 * 2 + 50 * 8)
    assert prices.basis("teacher") == {"input": 2, "cached": 2, "output": 8}
    free = choices("--price_input", 2, "--price_cached", 0, "--price_output", 8).prices
    assert free.of_system("teacher", MEASURED) == pytest.approx(100 * 2 + 50 * 8)
    # a system's own price of input goes before what is said of all, and cached tokens follow it
    own = choices("--price_input", 2, "--student_price_input", 1).prices
    assert own.basis("student") == {"input": 1, "cached": 1, "output": 0}
    both = ["--price_input", 2, "--price_cached", 0.5]
    assert choices(*both, "--student_price_input", 1).prices.basis("student")["cached"] == 0.5
    output = choices("--price_input", 2, "--student_price_output", 1).prices
    assert output.basis("student") == {"input": 2, "cached": 2, "output": 1}
    # the other two scripts
    flags = ["--input_file", "in.csv", "--output_file", "out.csv", "--price_input", "2"]
    assert predict.parse_args(flags).prices.of_tokens(TOKENS) == pytest.approx(2000 / 1e6)
    assert create_data.parse_args(flags).prices.of_tokens(TOKENS) == pytest.approx(2000 / 1e6)


def test_a_gpus_hours_are_paid_by_the_measured_throughput():
    prices = choices("--gpu_price_per_hour", 3.6, "--tensor_parallel_size", 2).prices
    # a million rows take 100,000 s at 10 a second, on two GPUs
    assert prices.of_system("student", MEASURED) == pytest.approx(100_000 / 3600 * 3.6 * 2)
    more = choices(
        "--gpu_price_per_hour", 3.6, "--pipeline_parallel_size=2", "--data-parallel-size", 4
    )
    assert more.prices.gpus == 8


def test_a_provider_for_the_teacher_and_a_gpu_for_the_student():
    flags = ["--teacher_price_input", 2, "--teacher_price_cached", 0.5, "--teacher_price_output", 8]
    prices = choices(*flags, "--gpu-price-per-hour", 3.6).prices
    assert prices.of_system("teacher", MEASURED) == pytest.approx(PER_TOKENS)
    assert prices.of_system("student", MEASURED) == pytest.approx(100_000 / 3600 * 3.6)


def test_what_is_not_known_costs_nobody_knows_what():
    by_tokens = Prices(1.0, 0.1, 4.0)
    assert by_tokens.of_system("teacher", {**MEASURED, "prompt_tokens": None}) is None
    by_hours = Prices(gpu_per_hour=1.0)
    assert by_hours.of_system("teacher", {**MEASURED, "rows_per_second": None}) is None
    # step 1 had a throughput, on a number of GPUs that it does not say
    prices = choices("--gpu_price_per_hour", 1, "--teacher_answers", "x").prices
    assert prices.of_system("teacher", MEASURED) is None
    assert prices.of_system("student", MEASURED) is not None


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--gpu_price_per_hour", "2", "--price_input", "1"], "takes the place of --price_*"),
        (["--student_price_output", "-1"], "--student_price_output -1.0: must be at least 0"),
        (["--price_cached", "nan"], "--price_cached nan: must be at least 0"),
        (["--teacher_price_input", "much"], "--teacher_price_input"),
    ],
)
def test_prices_that_make_no_sense_are_refused(flags, named, capsys):
    with pytest.raises(SystemExit) as ended:
        choices(*flags)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert named in said and len(said.splitlines()) == 1


def metrics_of(prices):
    gold = ["a"] * 420
    result = {name: [value] * 420 for name, value in TOKENS.items()}
    results = {}
    for name, rate in (("teacher", 2.0), ("base_prompt", 1.5), ("base", 9.0), ("student", 300.0)):
        results[name] = {
            **result,
            "answers": gold,
            "latencies": [12.3456] * 3,
            "rows_per_second": rate,
        }
    metrics = measure(results, gold, [None] * 420, True, prices)
    metrics["prices"] = {name: prices.basis(name) for name in results}
    return metrics


@pytest.mark.parametrize(
    "prices",
    [
        Prices(1.0, 0.1, 4.0),
        Prices(1e6, 1e5, 4e6),
        Prices(1e-9, 1e-9, 1e-9),
        Prices(gpu_per_hour=98.0, gpus=8, teacher=TokenPrices(1.0, 0.1, 4.0)),
    ],
)
def test_costs_are_on_the_terminal_in_the_report_and_in_the_last_line(prices):
    metrics = metrics_of(prices)
    table = overview(metrics)
    assert len(table.header) == 6 and table.header[-1] == "cost/1M"
    assert max(map(len, on_terminal(metrics).splitlines())) <= 100
    rows = cost_table(metrics).rows
    assert [row[1] for row in rows] == [row[-1] for row in table.rows]
    summary = shown_summary(metrics, 1.0)
    for name in ("teacher", "student"):
        cost = metrics["systems"][name]["cost_per_million"]
        assert summary[f"{name}_cost_per_million"] == round(cost, 4)
    assert f"| {rows[0][1]} | {rows[0][2]} |" in in_markdown(metrics, [])


def test_the_report_says_by_what_each_system_is_paid():
    prices = Prices(gpu_per_hour=2.5, gpus=2, teacher=TokenPrices(1.0, 0.1, 4.0))
    paid = [row[2] for row in cost_table(metrics_of(prices)).rows]
    assert paid[0] == "1 for a million tokens of input, 0.1 cached, 4 of output"
    assert paid[3] == "2.5 an hour for each of 2 GPUs, at the measured 300 rows/s"


def test_without_prices_there_is_no_word_of_costs():
    metrics = metrics_of(Prices())
    assert cost_table(metrics) is None
    assert overview(metrics).header[-1] == "speed-up"
    assert not any("cost" in key for key in shown_summary(metrics, 1.0))


def test_old_metrics_do_not_say_by_what_they_were_paid():
    path = ROOT / "tests" / "old_files" / "adapter" / "report" / "metrics.json"
    metrics = json.loads(path.read_text("utf-8"))
    assert "prices" not in metrics and cost_table(metrics) is None
    for measured in metrics["systems"].values():
        measured["cost_per_million"] = 1234.5
    assert cost_table(metrics).header == ["system", "cost"]
    assert cost_table(metrics).rows[0][1] == "1,234.50"
    del metrics["systems"]["teacher"]["cost_per_million"]  # of a teacher without known tokens
    assert cost_table(metrics).rows[0][1] == "–"
