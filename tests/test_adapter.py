"""Step 3 where vLLM cannot serve an adapter or serves it wrongly, and where it stops half-way: real
vLLM, real PEFT.

A dense student with random weights, which is made here in seconds: no test needs the tiny pair.
"""

import json
import os
import shutil
import signal
import time

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from distill.adapter import merge
from distill.staging import Staging
from forks import start_in_fork
from helpers import (
    ENDS,
    HANGS,
    PROGRAMS,
    ROOT,
    assert_gone,
    descendants,
    fails,
    in_fork,
    last_json,
    python,
    read_jsonl,
)
from merge_adapter import MARK_TEXT, STOPPED
from rest import go_on, rests_at, wait_for_rest
from small_models import small_model
from small_tokenizers import byte_tokenizer

AS_ON_A_GPU = PROGRAMS / "evaluate_as_on_a_gpu.py"  # LoRA in vLLM first, then a merged copy
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TEXTS = {"hola amigo": "es", "hello friend": "en", "guten Tag": "de"}


def write_adapter(folder, name, **settings):
    """An adapter with random weights on the student in folder/base."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder / "base"), LoraConfig(r=8, **settings)
    )
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.05)
    # PEFT writes its base weights into the adapter, and reads them there
    if "lm_head" in settings["target_modules"]:
        head = model.base_model.model.lm_head.base_layer.weight.data
        head.copy_(head.roll(1, 0))
    model.save_pretrained(folder / name)
    byte_tokenizer().save_pretrained(folder / name)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A folder with base, three rows, and two adapters: DoRA, which vLLM refuses, and one that it
    misreads.
    """
    folder = tmp_path_factory.mktemp("student")
    tokenizer = byte_tokenizer()
    model = small_model("llama", tokenizer)
    head = model.lm_head.weight.data
    head[1::2] = head[: len(head) - 1 : 2]  # each token ties with its neighbour
    model.save_pretrained(folder / "base")
    # a temperature without sampling: transformers reads it and would not save it
    invalid = {
        "eos_token_id": tokenizer.eos_token_id,
        "do_sample": False,
        "temperature": 0.9,
        "top_p": 0.6,
    }
    (folder / "base" / "generation_config.json").write_text(json.dumps(invalid))
    tokenizer.save_pretrained(folder / "base")
    write_adapter(folder, "dora", target_modules=LINEAR, use_dora=True)
    write_adapter(folder, "head", target_modules=[*LINEAR, "lm_head"])
    assert "base_model.model.lm_head.base_layer.weight" in load_file(
        folder / "head" / "adapter_model.safetensors"
    )
    with open(folder / "rows.jsonl", "w") as file:
        for text, label in TEXTS.items():
            chat = [{"role": "user", "content": text}, {"role": "assistant", "content": label}]
            file.write(json.dumps({"messages": chat}) + "\n")
    return folder


def flags(student, adapter, systems):
    found = [
        "--student_model",
        student / "base",
        "--adapter",
        student / adapter,
        "--systems",
        systems,
    ]
    found += [
        "--test_file",
        student / "rows.jsonl",
        "--student_max_tokens",
        12,
        "--latency_rows",
        1,
    ]
    return [str(flag) for flag in [*found, "--dtype", "float32"]]


@pytest.fixture(scope="module")
def continued(student):
    """A run whose second system fails, and the same command again: (report directory, what was
    kept, process).
    """
    report = student / "head" / "report"
    weights = student / "head" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])  # neither vLLM nor PEFT can read it
    command = flags(student, "head", "base,student")
    failed = in_fork(AS_ON_A_GPU, *command, code=1)
    assert "going on with a merged copy" in failed.stderr and failed.stdout == ""
    last = failed.stderr.strip().splitlines()[-1]
    assert last.startswith("evaluate.py: student failed with ")
    assert last.endswith(
        "; what was scored is kept (base student, no prompt), the same command goes on from there"
    )
    assert {path.name for path in report.iterdir()} == {"unfinished"}
    unfinished = report / "unfinished"
    # no merged copy
    assert {path.name for path in unfinished.iterdir()} == {"base.json", "made-by-evaluate.txt"}

    record = json.loads((unfinished / "base.json").read_text())
    assert len(record["result"]["responses"]) == len(TEXTS)
    record["result"]["responses"][0] = "kept"  # what an engine would not say
    (unfinished / "base.json").write_text(json.dumps(record))
    (unfinished / "merged").mkdir()
    # as a run that was killed leaves it
    (unfinished / "merged" / "model.safetensors").write_bytes(whole)
    weights.write_bytes(whole)
    finished = in_fork(AS_ON_A_GPU, *command)
    return report, record, finished


@pytest.mark.slow
def test_same_command_goes_on_where_a_system_failed(continued):
    report, record, finished = continued
    assert "removing the merged copy that a stopped run left" in finished.stderr
    assert "base student, no prompt: taken over from the run of 20" in finished.stderr
    assert (
        "evaluating: distilled student" in finished.stderr
        and "evaluating: base" not in finished.stderr
    )
    rows = read_jsonl(report / "predictions.jsonl")
    assert (
        rows[0]["base"]["response"] == "kept"
        and rows[1]["base"]["response"] == record["result"]["responses"][1]
    )
    assert all(row["student"]["response"] not in ("", row["base"]["response"]) for row in rows)
    assert not (report / "unfinished").exists()  # a rerun measures everything again
    metrics = json.loads((report / "metrics.json").read_text())
    assert list(metrics["taken_over"]) == ["base"]


@pytest.mark.slow
def test_an_adapter_that_vllm_serves_differently_is_merged(continued):
    """Here vLLM ignores, without a word, the output layer that the adapter brings with it."""
    report, _, finished = continued
    metrics = json.loads((report / "metrics.json").read_text())
    problem = "LoRA in vLLM gives other tokens than PEFT on 3 of 3 rows (float32, up to "
    assert metrics["served_as"] == "a merged copy" and metrics["instead_of"].startswith(problem)
    assert metrics["check"]["rows"] == 3 and metrics["check"]["differ"] == 0
    text = (report / "report.md").read_text()
    assert metrics["ties"]["rows"] == [] and "two best tokens" not in text
    assert "served as a merged copy for every figure of the distilled student" in text
    assert "Taken over from an earlier run of the same command: base student, no prompt (" in text
    assert f"evaluate.py: {problem}" in finished.stderr
    assert f"fell back on it: {problem}" in text


@pytest.mark.slow
def test_on_a_cpu_a_dense_adapter_is_merged_at_once(student):
    """Also one that vLLM refuses."""
    process = python("evaluate.py", *flags(student, "dora", "student"))
    lines = [line for line in process.stderr.splitlines() if line.startswith("evaluate.py: ")]
    assert lines[1:] == []  # without a try that fails
    report = student / "dora" / "report"
    metrics = json.loads((report / "metrics.json").read_text())
    assert (metrics["served_as"], metrics["instead_of"]) == ("a merged copy", None)
    assert metrics["check"]["differ"] == 0
    assert (metrics["ties"]["rows"], metrics["ties"]["within"]) == (
        [0, 1, 2],
        1e-3,
    )  # its output layer has each row twice
    assert (
        "On 3 of 3 rows the distilled student's two best tokens are within 0.001"
        in (report / "report.md").read_text()
    )
    assert all(row["student"]["tie"] for row in read_jsonl(report / "predictions.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "Ctrl-C"]
)
def test_a_stopped_run_leaves_neither_copy_nor_process(student, tmp_path, number, code):
    command = [
        *flags(student, "head", "student"),
        "--serve_adapter",
        "merged",
        "--report_dir",
        str(tmp_path / "report"),
    ]
    # so many that it has not scored them yet, however late this test is told
    rows = tmp_path / "rows.jsonl"
    rows.write_text((student / "rows.jsonl").read_text() * 500)
    command += ["--test_file", str(rows), "--max_num_seqs", "1"]
    process = start_in_fork(ROOT / "evaluate.py", *command, folder=tmp_path, session=True)
    end = time.monotonic() + HANGS
    while not (tmp_path / "report" / "unfinished" / "merged").exists():
        assert process.is_alive() and time.monotonic() < end
        time.sleep(0.02)
    children = descendants(process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # a terminal sends it to the script's processes too
    else:
        os.kill(process.pid, number)
    process.join(ENDS)
    assert process.exitcode == code
    stderr = (tmp_path / "stderr").read_text()
    assert "Traceback" not in stderr
    said = "evaluate.py: stopped; what was scored is kept, the same command goes on from there\n"
    assert stderr.endswith(said) and stderr.count(said) == 1  # it may follow a progress bar
    assert children
    assert_gone(children)
    assert not (tmp_path / "report").exists()


def test_merging_never_starts_cuda(student, tmp_path, monkeypatch):
    """PEFT takes a GPU where it sees one: this torch has none and says so when it is started."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(AssertionError, match="CUDA"):
        torch.zeros(1, device="cuda")
    merge(student / "dora", tmp_path / "merged", "float32")
    base = load_file(student / "base" / "model.safetensors")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert merged.keys() == base.keys()
    settings = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    # the best token always
    assert (settings["top_k"], settings["temperature"], settings["top_p"]) == (1, 1.0, 1.0)
    assert settings["eos_token_id"] == byte_tokenizer().eos_token_id
    assert not torch.equal(
        merged["model.layers.0.mlp.up_proj.weight"], base["model.layers.0.mlp.up_proj.weight"]
    )


def merging(student, output_dir):
    """The flags of merge_adapter.py for one of the adapters."""
    return ["--adapter", student / "dora", "--output_dir", output_dir, "--dtype", "float32"]


def test_two_runs_do_not_merge_into_one_directory(student, tmp_path):
    """The second one is refused at once and takes nothing from the first.

    What a killed run left is removed.
    """
    output_dir = tmp_path / "new" / "merged"
    folder = tmp_path / "new" / "merged.unfinished"
    with Staging(folder, "merge_adapter.py", "--output_dir", MARK_TEXT) as first:
        first.merged.mkdir()
        said = fails("merge_adapter.py", *merging(student, output_dir))
        assert (
            "made-by-merge_adapter.txt: another run is writing it; wait for its end or stop it"
            in said
        )
        assert sorted(path.name for path in folder.iterdir()) == [
            "made-by-merge_adapter.txt",
            "merged",
        ]
        first.lock.close()  # what the kernel does for a killed run
        (first.merged / "half").write_text("of a model")
        assert last_json(python("merge_adapter.py", *merging(student, output_dir)))[
            "output_dir"
        ] == str(output_dir)
    assert [path.name for path in output_dir.parent.iterdir()] == ["merged"]
    names = {path.name for path in output_dir.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names and "half" not in names
    (tmp_path / "link").symlink_to("nowhere")
    for taken in (output_dir, tmp_path / "link"):
        assert f"{taken}: exists already; choose another" in fails(
            "merge_adapter.py", *merging(student, taken)
        )
    assert {path.name for path in output_dir.iterdir()} == names and len(
        list(tmp_path.iterdir())
    ) == 2


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "Ctrl-C"]
)
def test_a_stopped_merge_leaves_nothing(student, tmp_path, number, code):
    target = tmp_path / "new" / "merged"
    mark = tmp_path / "new" / "merged.unfinished" / "made-by-merge_adapter.txt"
    said = tmp_path / "said"
    said.mkdir()
    resting = {**os.environ, **rests_at(mark, MARK_TEXT.count("\n"))}
    settings = {"folder": said, "environment": resting, "session": True}
    process = start_in_fork(ROOT / "merge_adapter.py", *merging(student, target), **settings)
    wait_for_rest(process)
    (mark.parent / "merged").mkdir()  # half of a model
    (mark.parent / "merged" / "model.safetensors").write_bytes(b"1234")
    os.kill(process.pid, number)
    go_on(process)
    process.join(ENDS)
    *started, stopped = (said / "stderr").read_text().splitlines()
    assert stopped == STOPPED and len(started) <= 1  # the signal may come before its first line
    assert "".join(started).startswith("merge_adapter.py: adapter ") or not started
    assert process.exitcode == code
    assert list(tmp_path.iterdir()) == [said]


def test_a_merge_that_fails_leaves_nothing(student, tmp_path):
    adapter = shutil.copytree(student / "dora", tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").write_bytes(b"1234")
    flags = ["--adapter", adapter, "--output_dir", tmp_path / "new" / "merged"]
    said = python("merge_adapter.py", *flags, code=2).stderr
    assert said.splitlines()[-1].startswith("merge_adapter.py: ") and "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_an_adapter_that_is_replaced_while_it_is_merged_is_refused(student, tmp_path, monkeypatch):
    adapter = shutil.copytree(student / "dora", tmp_path / "adapter")
    load = PeftModel.from_pretrained

    def load_and_replace(*arguments, **settings):
        model = load(*arguments, **settings)
        shutil.copy(student / "head" / "adapter_model.safetensors", adapter)
        return model

    monkeypatch.setattr(PeftModel, "from_pretrained", load_and_replace)
    with pytest.raises(
        ValueError, match="adapter: has changed while it was read; merge it when its training is at"
    ):
        merge(adapter, tmp_path / "merged", "float32")
    assert not (tmp_path / "merged").exists()
