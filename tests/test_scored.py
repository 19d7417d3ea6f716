"""What evaluate.py keeps of a run that did not finish, and how it serves the adapter.

No model is loaded.
"""

import json
import logging
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from distill.adapter import (
    LORA,
    MERGED,
    Serving,
    check_plan,
    check_room,
    compare_with_peft,
    weight_bytes,
)
from distill.adapter_files import adapter_identity
from distill.evaluation.ask import AdapterFailed, Asking, SystemFailed, run_model, score_student
from distill.evaluation.scored import Scored, Unfinished, common_key, key_of, model_identity
from distill.evaluation.scores import Prices, measure
from distill.evaluation.sentences import sentences
from distill.evaluation.systems import System
from helpers import fails

STUDENT = System("student", "some/base", False, False, 0.0, 64, 50, 2)
TEACHER = System("teacher", "some/teacher", True, True, 0.15, 4096, 50, 0)
RESULT = {
    "answers": ["es", None],
    "responses": ["es", "\u4f60 \U0001f600"],
    "prompt_tokens": [10, 12],
    "cached_tokens": [0, 4],
    "output_tokens": [2, 3],
    "tokens": [[[1, 2], [3]], [[4], [5, 6]]],
    "rows_per_second": 1 / 3,
    "latencies": [0.1, 1e-7],
    "served_as": None,
    "instead_of": "",
    "dtype": "float32",
    "machine": "2 cores of X",
    "date": "2026-01-31",
    "commit": "abc1234",
}


@pytest.fixture(autouse=True)
def logged(caplog):
    caplog.set_level(logging.INFO, "evaluate")  # as main() does


def test_what_is_kept_is_what_was_scored(tmp_path):
    scored = Scored(tmp_path, {"teacher": {"temperature": 0.15}})
    assert scored.take_over() == {} and scored.what_is_kept() == ""
    scored.write("teacher", RESULT)
    assert scored.take_over() == {"teacher": RESULT}  # texts, None and the last digit of each float
    prices = Prices(input=1.0, cached=0.1, output=4.0)
    figures = [
        measure({"teacher": of}, ["es", "de"], [None] * 2, True, prices)
        for of in (RESULT, *take(scored))
    ]
    assert figures[0] == figures[1]
    assert "kept (teacher, prompt and thinking), the same command goes on" in scored.what_is_kept()
    assert [path.name for path in tmp_path.iterdir()] == ["teacher.json"]


def take(scored):
    return scored.take_over().values()


def test_a_damaged_file_is_scored_again(tmp_path, caplog):
    scored = Scored(tmp_path, {"teacher": {}})
    scored.write("teacher", RESULT)
    (tmp_path / "teacher.json").write_text((tmp_path / "teacher.json").read_text()[:-20])
    assert scored.take_over() == {} and scored.what_is_kept() == ""
    assert "teacher.json: damaged; scored again" in caplog.text


def keys(folder, system, task="t", rows=("hola",), flags=(), machine="m", serve_adapter="auto"):
    common = common_key(
        SimpleNamespace(hash=task), [[{"content": row}] for row in rows], list(flags), 1, machine
    )
    return key_of(
        replace(system, model=str(folder / "base")), common, str(folder / "adapter"), serve_adapter
    )


def touch_adapter(folder):
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"other")


def touch_base(folder):
    path = folder / "base" / "model.safetensors"
    seconds = path.stat().st_mtime_ns
    path.write_bytes(b"1235")  # of the same size
    os.utime(path, ns=(seconds, seconds + 1))


CHANGES = {
    "task": (TEACHER, {"task": "u"}, "task"),
    "rows": (TEACHER, {"rows": ("hola", "hi")}, "rows"),
    "engine flags": (TEACHER, {"flags": ("--dtype", "float32")}, "engine_flags"),
    "machine": (TEACHER, {"machine": "n"}, "machine"),
    "temperature": (replace(TEACHER, temperature=0.3), {}, "temperature"),
    "max_tokens": (replace(TEACHER, max_tokens=5), {}, "max_tokens"),
    "latency rows": (replace(TEACHER, latency_rows=5), {}, "latency_rows"),
    "way of serving": (STUDENT, {"serve_adapter": "merged"}, "serve_adapter"),
    "adapter": (STUDENT, touch_adapter, "adapter"),
    "weights": (STUDENT, touch_base, "weights"),
}


@pytest.fixture
def folder(tmp_path):
    for name, file in (("base", "model.safetensors"), ("adapter", "adapter_model.safetensors")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(b"1234")
    return tmp_path


@pytest.mark.parametrize(("system", "change", "named"), CHANGES.values(), ids=CHANGES)
def test_anything_that_decides_a_result_is_noticed(system, change, named, folder, caplog):
    before = TEACHER if system.name == "teacher" else STUDENT
    kept = folder / "kept"
    kept.mkdir()
    Scored(kept, {system.name: keys(folder, before)}).write(system.name, RESULT)
    assert Scored(kept, {system.name: keys(folder, before)}).take_over()
    caplog.clear()
    if callable(change):
        change(folder)
        change = {}
    assert Scored(kept, {system.name: keys(folder, system, **change)}).take_over() == {}
    assert f"scored before with another {named}; scored again" in caplog.text


def test_what_does_not_concern_a_system_does_not_count(folder):
    before = keys(folder, TEACHER)
    (folder / "adapter" / "report").mkdir()
    touch_adapter(folder)
    assert keys(folder, TEACHER, serve_adapter="merged") == before
    adapter = adapter_identity(str(folder / "adapter"))
    (folder / "adapter" / "README.md").write_text("x")
    (folder / "adapter" / "run.json").write_text("x")
    assert adapter_identity(str(folder / "adapter")) == adapter
    assert model_identity(str(folder / "base")) == model_identity(str(folder / "base"))


def test_nothing_stays_of_a_run_that_scored_nothing(tmp_path):
    report = tmp_path / "report"
    with Unfinished(report) as unfinished:
        assert unfinished.mark.read_text().startswith("evaluate.py keeps here")
        unfinished.merged.mkdir()
        (unfinished.merged / "model.safetensors").write_bytes(b"1234")
    assert not report.exists()
    report.mkdir()  # but a directory of the user's stays
    with Unfinished(report):
        pass
    assert report.exists() and not any(report.iterdir())


def test_results_outlive_a_failed_run_and_go_when_the_report_is_complete(tmp_path):
    with Unfinished(tmp_path) as unfinished:
        Scored(unfinished.folder, {"base": {}}).write("base", RESULT)
    assert sorted(path.name for path in unfinished.folder.iterdir()) == [
        "base.json",
        "made-by-evaluate.txt",
    ]
    (unfinished.folder / "teacher.json.tmp").write_text("half")  # as a killed run leaves it
    with Unfinished(tmp_path) as unfinished:
        assert Scored(unfinished.folder, {"base": {}}).take_over()
        unfinished.remove_scored()
    assert not any(tmp_path.iterdir())


def test_the_copy_of_a_killed_run_is_removed_at_the_next_start(tmp_path, caplog):
    run = Unfinished(tmp_path).__enter__()
    run.merged.mkdir()
    (run.merged / "model.safetensors").write_bytes(b"1234")
    run.lock.close()  # what the kernel does for a killed run
    with Unfinished(tmp_path) as unfinished:
        assert not unfinished.merged.exists()
    assert "removing the merged copy that a stopped run left" in caplog.text


def test_a_directory_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "unfinished" / "merged").mkdir(parents=True)
    with pytest.raises(
        ValueError, match="unfinished: is not evaluate.py's; move it away or choose another"
    ):
        Unfinished(tmp_path).__enter__()
    assert (tmp_path / "unfinished" / "merged").exists()


def test_two_runs_do_not_share_a_report(tmp_path):
    with Unfinished(tmp_path) as first:
        first.merged.mkdir()
        with pytest.raises(ValueError, match="another run is writing it"):
            Unfinished(tmp_path).__enter__()
        assert first.merged.exists()


def test_room_for_the_copy_is_checked(tmp_path, caplog):
    free = shutil.disk_usage(tmp_path).free
    check_room(tmp_path, 0)
    with pytest.raises(
        ValueError, match=r"needs \d+\.\d GiB there and \d+\.\d GiB are free; choose a --report_dir"
    ):
        check_room(tmp_path, free + 2**40)
    too_large = Serving(MERGED, {}, "bfloat16", free + 2**40)
    with pytest.raises(ValueError, match="a merged copy"):
        check_plan([too_large], tmp_path)
    lora = Serving(LORA, {}, "bfloat16", free + 2**40)
    check_plan([lora], tmp_path)
    assert caplog.text == ""
    check_plan([lora, too_large], tmp_path)  # which may never be needed
    assert "should vLLM fail to serve the adapter, this will end" in caplog.text


CONFIG = {"vocab_size": 100, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2}
CONFIG = {**CONFIG, "num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.mark.parametrize("tied", [True, False])
def test_size_of_the_copy_is_that_of_its_weights(tied, tmp_path):
    config = LlamaConfig(**CONFIG, tie_word_embeddings=tied)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    written = (tmp_path / "model.safetensors").stat().st_size
    assert weight_bytes(config, "bfloat16") == pytest.approx(written, abs=8000)  # its header
    assert weight_bytes(config, "float32") == 2 * weight_bytes(config, "bfloat16")


def test_a_copy_without_room_is_refused_before_anything_is_loaded(tmp_path):
    """There are no weights that could be loaded."""
    LlamaConfig(**{**CONFIG, "hidden_size": 2**22, "intermediate_size": 2**24}).save_pretrained(
        tmp_path / "base"
    )
    (tmp_path / "adapter").mkdir()
    config = {"base_model_name_or_path": "base", "r": 8, "peft_type": "LORA"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    row = {
        "messages": [{"role": "user", "content": "hola"}, {"role": "assistant", "content": "es"}]
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    flags = [
        "--student_model",
        tmp_path / "base",
        "--adapter",
        tmp_path / "adapter",
        "--systems",
        "base,student",
    ]
    line = fails(
        "evaluate.py", *flags, "--test_file", tmp_path / "rows.jsonl", "--serve_adapter", "merged"
    )
    assert f"{tmp_path}/adapter/report/unfinished: a merged copy of the student needs" in line
    assert [path.name for path in (tmp_path / "adapter").iterdir()] == ["adapter_config.json"]


# How the adapter is served, with a process that answers from a script

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
