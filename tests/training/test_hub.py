"""What --push_to_hub puts on a stand-in for the hub, and what happens when it does not take it."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard
from peft import PeftConfig
from safetensors.torch import load_file
from transformers import AutoTokenizer
from transformers.trainer_utils import HubStrategy

from distill.calibration import CALIBRATION_ROWS
from distill.card import public_name
from distill.training.hub import Repository, commit_files, open_repository, without_paths
from forks import start_in_fork
from helpers import (
    HANGS,
    MODES,
    ROOT,
    STUDENT,
    in_fork,
    of_script,
    python,
    read_jsonl,
    train,
    training_command,
)
from loopback_hub import READ_TOKEN, LoopbackHub
from rest import go_on, rests_at, wait_for_rest

PUSHED = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "loss.png",
    "results.json",
    "run.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
REPOSITORIES = {"single": "ana/single", "ddp": "ana/ddp", "fsdp": "team/adapter"}


def strings(value):
    """All strings in what a JSON file holds."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


def test_names_of_directories_and_models(tmp_path, monkeypatch):
    (tmp_path / "models" / "student").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name("Qwen/Qwen3-30B-A3B-Instruct-2507") == "Qwen/Qwen3-30B-A3B-Instruct-2507"
    for local in (
        "models/student",
        "models/student/",
        "./models/student",
        f"{tmp_path}/models/student",
    ):
        assert public_name(local) == "student"
    assert public_name("/gone/since/student") == "student"
    run = {"model_name": "models/student", "eval_file": f"{tmp_path}/eval.jsonl", "lora_rank": 4}
    assert without_paths(run) == {
        "model_name": "student",
        "eval_file": "eval.jsonl",
        "lora_rank": 4,
    }
    run = {"eval_file": "", "output_dir": "models/../out"}
    assert without_paths(run) == {"eval_file": "", "output_dir": "out"}


def test_train_files_of_the_same_name_are_told_apart_without_their_directories():
    run = {"train_files": ["/home/ana/one/labels.jsonl", "two/labels.jsonl", "three.jsonl"]}
    told = ["labels.jsonl (1)", "labels.jsonl (2)", "three.jsonl (3)"]
    assert without_paths(run) == {"train_files": told}
    names = ["one.jsonl", "two.jsonl"]  # as run.json holds them where they differ
    assert without_paths({"train_files": names}) == {"train_files": names}


def test_nothing_that_is_pushed_of_a_run_with_everything_names_a_directory(small, tmp_path):
    """Each flag that takes a file or a directory is given, and named absolutely."""
    here = tmp_path / "here"
    files = [here / part / "labels.jsonl" for part in ("one", "two")]
    for path in files:
        path.parent.mkdir(parents=True)
        shutil.copy(small / "train.jsonl", path)
    manifest = {"task": "0" * 64, "task_file": str(here / "task.yaml")}
    (here / "one" / "labels.jsonl.manifest.json").write_text(json.dumps(manifest))
    shutil.copytree(small / "base", here / "base")
    common = ["--use_cpu", "true", "--bf16", "false", "--max_steps", 1]
    common += ["--model_name", here / "base", "--train_file", ",".join(map(str, files))]
    common += ["--eval_file", files[0]]
    python("train_sft_trl.py", *common, "--output_dir", here / "first")
    out = here / "second"
    python("train_sft_trl.py", *common, "--output_dir", out, "--init_adapter", here / "first")
    local = "".join((out / name).read_text() for name in ("run.json", "results.json", "README.md"))
    for path in (here / "base", *files, here / "first", out, here / "task.yaml"):
        assert str(path) in local, path

    tokenizer = AutoTokenizer.from_pretrained(here / "base")
    repository = Repository(None, "ana/second", "", None)
    pushed = {each.path_in_repo: each for each in commit_files(repository, out, tokenizer)}
    assert json.loads(pushed["run.json"].path_or_fileobj)["train_files"] == [
        "labels.jsonl (1)",
        "labels.jsonl (2)",
    ]
    for name, each in pushed.items():
        with each.as_file() as file:
            assert str(tmp_path).encode() not in file.read(), name


def test_pushing_checkpoints_is_refused():
    for strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        with pytest.raises(
            ValueError, match=f"--hub_strategy {strategy.value}: checkpoints are not pushed"
        ):
            open_repository(SimpleNamespace(hub_strategy=strategy))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_finished_run_is_pushed_in_one_commit(trained, hub, mode):
    output_dir, summary = trained[mode]
    repository = REPOSITORIES[mode]
    assert summary["hub_url"] == f"{hub.url}/{repository}"
    commit = hub.commits[repository][0]
    assert set(commit.files) == PUSHED and commit.revision == ("v1" if mode == "fsdp" else "main")
    for name in ("adapter_model.safetensors", "loss.png", "tokenizer.json", "chat_template.jinja"):
        assert commit.files[name] == (output_dir / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_what_is_pushed_says_nothing_of_this_machine(trained, hub, mode):
    output_dir, summary = trained[mode]
    commit = hub.commits[REPOSITORIES[mode]][0]
    results = json.loads((output_dir / "results.json").read_text())
    assert {**results, "hub_url": summary["hub_url"]} == summary
    assert json.loads(commit.files["results.json"]) == {**results, "output_dir": mode}
    local = json.loads((output_dir / "run.json").read_text())
    shared = {**local, "model_name": "tiny-instruct", "eval_file": "eval.jsonl"}
    assert json.loads(commit.files["run.json"]) == shared and local["model_name"] == str(STUDENT)

    for name, content in commit.files.items():
        if name.endswith((".safetensors", ".png")):
            continue
        text = content.decode()
        assert str(ROOT) not in text and str(output_dir.parent) not in text, name
        if name.endswith(".json") and name != "tokenizer.json":
            assert not [found for found in strings(json.loads(text)) if found.startswith("/")]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_what_is_pushed_loads_from_the_hub(trained, hub, tmp_path, mode):
    output_dir, _ = trained[mode]
    repository = REPOSITORIES[mode]
    commit = hub.commits[repository][0]
    card = ModelCard(commit.files["README.md"].decode())
    assert card.data.base_model == "tiny-instruct"
    assert f'from_pretrained("{repository}"' in card.text
    assert "fine-tuned version of" not in card.text  # TRL's
    local_card = ModelCard.load(output_dir / "README.md")
    assert local_card.data.base_model == "tiny-instruct"
    # which a reader on this machine can load
    assert f'from_pretrained("{STUDENT}"' in local_card.text

    for name, content in commit.files.items():
        (tmp_path / name).write_bytes(content)
    assert PeftConfig.from_pretrained(tmp_path).base_model_name_or_path == "tiny-instruct"
    template = (STUDENT / "chat_template.jinja").read_text()
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == template
    assert len(load_file(tmp_path / "adapter_model.safetensors")) > 0


@pytest.mark.slow
def test_hub_sees_nothing_but_the_pushes(trained, hub):
    """Checkpoints every ten steps are not pushed, and a run asks the network for nothing else."""
    assert [settings.get("visibility") for settings in hub.created] == [None, None, "private"]
    assert len(hub.commits["ana/single"]) == len(hub.commits["team/adapter"]) == 1
    assert b"hf_write" not in (trained["single"][0] / "training_args.bin").read_bytes()
    ours = (
        "/api/repos/create",
        "/api/validate-yaml",
        "/api/models/",
        "/ana/",
        "/team/",
        "/objects/",
    )
    others = {path for _, path in hub.requests if not path.startswith(ours)}
    # huggingface_hub's and TRL's own, with and without a push; HF_HUB_DISABLE_TELEMETRY=1 turns
    # TRL's off
    assert others <= {"/api/agent-harnesses", "/api/telemetry/trl/other"}


@pytest.mark.slow
def test_several_processes_push_a_finished_run_again(trained, train_file, hub):
    output_dir, summary = trained["ddp"]
    some = [
        "--gradient_checkpointing",
        "true",
        "--checkpoint_from_tokens",
        350,
        "--eval_strategy",
        "steps",
    ]
    flags = [*some, "--eval_file", output_dir.parent / "eval.jsonl", "--push_to_hub", "true"]
    before = len(hub.commits["ana/ddp"])
    assert train("ddp", output_dir, train_file, *flags, environment=hub.environment) == summary
    first, *_, last = hub.commits["ana/ddp"]
    assert len(hub.commits["ana/ddp"]) == before + 1 and last.files == first.files


@pytest.mark.slow
def test_a_bad_hub_is_found_before_anything_is_loaded_or_deleted(pair, train_file, tmp_path):
    """Three at once: no token, a token that may only read an existing repository, and no hub."""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}  # without a stored token
    environment.pop("HF_TOKEN", None)
    with LoopbackHub() as hub:
        hub.create("ana/out", {})
        gone = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_any"}
        cases = {
            "no token; run `hf auth login`": {"HF_ENDPOINT": hub.url},
            "cannot write to ana/out on": {"HF_ENDPOINT": hub.url, "HF_TOKEN": READ_TOKEN},
            "Connection refused": gone,
        }
        flags = ["--push_to_hub", "true", "--hub_model_id", "ana/out", "--overwrite", "true"]
        started = {}
        for number, (expected, setting) in enumerate(cases.items()):
            output_dir = tmp_path / f"out-{number}"
            output_dir.mkdir()
            # --overwrite must not have deleted it yet
            (output_dir / "results.json").write_text("{}")
            line, _ = training_command("single", output_dir, train_file, *flags)
            folder = tmp_path / f"said-{number}"
            folder.mkdir()
            where = {"folder": folder, "environment": {**environment, **setting}}
            process = start_in_fork(ROOT / "train_sft_trl.py", *of_script(line), **where)
            started[expected] = (process, folder)
        for expected, (process, folder) in started.items():
            process.join(HANGS)
            stderr = (folder / "stderr").read_text()
            assert process.exitcode == 2 and (folder / "stdout").read_text() == ""
            assert len(stderr.splitlines()) == 1 and expected in stderr, stderr
        assert hub.commits["ana/out"] == []
    for number in range(len(cases)):
        assert [path.name for path in (tmp_path / f"out-{number}").iterdir()] == ["results.json"]


@pytest.mark.slow
def test_what_the_hub_did_not_take_is_pushed_by_the_same_command(pair, train_file, tmp_path):
    """Without the rows that are kept for calibration, which are users' texts."""
    output_dir = tmp_path / "out"
    flags = ["--max_steps", 10, "--push_to_hub", "true", "--calibration_fraction", 0.15]
    line, environment = training_command("single", output_dir, train_file, *flags)
    script = ROOT / "train_sft_trl.py"
    with LoopbackHub() as hub:
        environment.update(hub.environment)
        begun = output_dir / "run.json"
        resting = {**environment, **rests_at(begun)}
        where = {"folder": tmp_path, "environment": resting, "session": True}
        process = start_in_fork(script, *of_script(line), **where)
        wait_for_rest(process)
        hub.stop()
        go_on(process)
        process.join(HANGS)
        stdout, stderr = ((tmp_path / name).read_text() for name in ("stdout", "stderr"))
        assert process.exitcode == 1
        *_, error = stderr.strip().splitlines()
        begin = f"train_sft_trl.py: {output_dir}: finished, but not pushed to {hub.url}/ana/out: "
        assert error.startswith(begin) and "Connection refused" in error
        assert error.endswith("the same command without --overwrite pushes it")
        summary = json.loads(stdout.splitlines()[-1])
        assert summary == json.loads((output_dir / "results.json").read_text())
        adapter = (output_dir / "adapter_model.safetensors").read_bytes()

        hub.start()
        # not what was trained
        changed = [*of_script(line), "--learning_rate", 1]
        other = in_fork(script, *changed, environment=environment, code=2)
        assert (
            "begun with learning_rate 0.003, now 1.0" in other.stderr
            and hub.commits["ana/out"] == []
        )
        again = in_fork(script, *of_script(line), environment=environment)
    assert json.loads(again.stdout.splitlines()[-1]) == {**summary, "hub_url": f"{hub.url}/ana/out"}
    assert "optimizer steps" not in again.stderr
    pushed = hub.commits["ana/out"][0].files
    assert pushed["adapter_model.safetensors"] == adapter
    assert set(pushed) == PUSHED
    kept = read_jsonl(output_dir / CALIBRATION_ROWS)
    assert summary["calibration_rows"] == len(kept) == 25
    for row in kept:
        text = row["messages"][0]["content"].encode()
        assert not [name for name, content in pushed.items() if text in content]
    assert (output_dir / "adapter_model.safetensors").read_bytes() == adapter
