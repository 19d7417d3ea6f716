"""The benchmarks that need the tiny pair, on few rows: what they compare is the same work."""

import pytest

from helpers import ROOT, in_fork, last_json, python

CUT = {"1": 38, "2": 2}  # attempts: of 40 rows two are made to fail once


@pytest.mark.slow
def test_generation_ways_do_the_same_work_and_loops_are_cut(pair):
    result = in_fork(
        ROOT / "benchmarks/generation.py", "--rows", 40, "--repeats", 1, "--windows", 8
    )
    found = {run["way"]: run for run in last_json(result)["generation"]}
    assert all(run["median"] > 0 for run in found.values())
    bare, tokens, ours = (
        found.pop(way) for way in ("bare engine", "bare engine, tokens only", "create_data.py")
    )
    assert tokens["output_tokens"] == bare["output_tokens"]
    assert ours["output_tokens"] == bare["output_tokens"] and ours["attempts"] == {"1": 40}
    assert found["window of 8"]["output_tokens"] == ours["output_tokens"]
    assert all(run["accepted"] == 40 for run in (ours, *found.values()))
    failing = {way: run for way, run in found.items() if way.startswith("5 %")}
    assert len(failing) == 8 and all(run["attempts"] == CUT for run in failing.values())
    loops = [
        found[f"5 % loop, {way}"]["output_tokens"]
        for way in ("not noticed", "asked again in flight")
    ]
    # each of the two loops ends after four times 32 tokens instead of at the limit of 256
    assert abs(loops[0] - loops[1] - 2 * (256 - 128)) <= 20, loops


@pytest.mark.slow
def test_the_drivers_cost_is_extrapolated_from_what_was_measured(pair):
    flags = ["--rows", 0, "--driver_rows", 200, 1000, "--extrapolate", 1000]
    result = python("benchmarks/cluster.py", *flags)
    few, many = last_json(result)["cluster"]["driver"]
    assert (few["rows"], many["rows"]) == (200, 1000) and many["bytes"]["journal"] > many["bytes"][
        "output"
    ] > 0
    table = {
        name: rest
        for name, _, rest in (
            line.strip("| ").partition(" | ") for line in result.stdout.splitlines()
        )
    }
    # of a second, for each of the 1,000 rows
    micro = 1e3 * many["seconds"]["handing out and journal"]
    assert f"{micro:.0f} microseconds a row" in table["driver, while it hands out and records"]
    assert (
        "plan.py" in table["64 H100 as 32 x TP2, at least"] and "step 2, an epoch's order" in table
    )


@pytest.mark.slow
def test_script_and_bare_loop_do_the_same_steps(pair, train_file):
    result = in_fork(
        ROOT / "benchmarks/training.py",
        "--repeats",
        1,
        "--train_file",
        train_file,
        "--num_train_epochs",
        1,
    )
    found = last_json(result)["training"]
    rows = [line.split(" | ") for line in result.stdout.splitlines() if line.count(" | ") == 3]
    ways = {row[0].strip("| "): row[-1].strip("| ") for row in rows[2:]}
    assert set(ways) == {"bare loop", "train_sft_trl.py", "train_sft_trl.py, step by step"}
    assert len(set(ways.values())) == 1 and float(ways["bare loop"]) > 0  # one mean loss
    assert "\n11 steps, " in result.stdout and found["padding"] == 1
    # the bound that it is for needs more than eleven steps
    assert found["after_start"]["median"] > 0.3
    assert (
        all(seconds["median"] > 0 for seconds in found["first_step"].values())
        and len(found["first_step"]) == 4
    )
    assert found["peak_mib"] * 2**20 > sum(found["memory"].values()) / 2
