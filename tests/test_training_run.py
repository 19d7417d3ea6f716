"""What step 2 takes over from its output directory and from checkpoints, and how it ends at signals."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import yaml

from conftest import ROOT, assert_gone, descendants
from distill.locks import lock
from distill.stopping import SAID
from distill.training.loading import TO_LAUNCH
from distill.training.lock import lock_output
from distill.training.rows import check_fraction
from distill.training.run_directory import (
    CompleteCheckpoint,
    begun_with_commit,
    evaluation_figures,
    file_sizes,
    last_checkpoint,
    model_card,
    prepare_output,
    warn_of_another_run,
)

RUN = {"learning_rate": "0.1", "train_sha256": "abc"}


def begin(folder, run=RUN):
    """An output directory that was begun, with a complete checkpoint."""
    checkpoint = folder / "checkpoint-10"
    checkpoint.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run))
    (checkpoint / "trainer_state.json").write_text('{"global_step": 10}')
    args = SimpleNamespace(output_dir=str(folder))
    CompleteCheckpoint().on_save(args, SimpleNamespace(is_world_process_zero=True, global_step=10), None)
    return checkpoint


def test_a_checkpoint_says_whose_it_is(tmp_path, caplog):
    checkpoint = begin(tmp_path)
    assert last_checkpoint(tmp_path) == checkpoint
    warn_of_another_run(checkpoint, RUN)
    assert caplog.messages == []
    (tmp_path / "run.json").write_text(json.dumps({**RUN, "learning_rate": "0.2"}))  # which was begun there since then
    warn_of_another_run(checkpoint, {**RUN, "learning_rate": "0.2"})
    assert caplog.messages == [f"{checkpoint}: a checkpoint of another run, begun with learning_rate 0.1, now 0.2"]


def test_a_checkpoint_of_before_is_its_directorys(tmp_path, caplog):
    checkpoint = begin(tmp_path)
    (checkpoint / "run.json").unlink()
    warn_of_another_run(checkpoint, {**RUN, "data_seed": "1"})  # which was not recorded then
    assert caplog.messages == []
    warn_of_another_run(checkpoint, {**RUN, "train_sha256": "def"})
    assert "a checkpoint of another run, begun with train_sha256 abc, now def" in caplog.text
    (tmp_path / "run.json").unlink()
    warn_of_another_run(checkpoint, RUN)
    assert "a checkpoint of an unknown run" in caplog.messages[-1]


def test_another_runs_checkpoint_in_the_output_directory_is_refused(tmp_path, monkeypatch):
    """As --resume_from_checkpoint with other settings leaves it, when it is killed before its first checkpoint."""
    checkpoint = begin(tmp_path / "out")
    now = {**RUN, "learning_rate": "0.2"}
    monkeypatch.setattr("distill.training.run_directory.recorded_run", lambda script, args: now)
    script = SimpleNamespace(check_only=False, overwrite=False)
    args = SimpleNamespace(
        output_dir=str(tmp_path / "out"), resume_from_checkpoint=None, push_to_hub=False, process_index=0
    )
    (tmp_path / "out" / "run.json").write_text(json.dumps(now))
    with pytest.raises(ValueError, match="checkpoint-10: begun with learning_rate 0.1, now 0.2; --overwrite starts"):
        prepare_output(script, args)
    (checkpoint / "run.json").unlink()  # as in an older one, which was taken to be the directory's
    (checkpoint / "complete.json").write_text(json.dumps(file_sizes(checkpoint)))
    assert prepare_output(script, args) == str(checkpoint)


@pytest.mark.parametrize("where", ["missing", "out/checkpoint-10"])
def test_a_checkpoint_that_cannot_be_resumed_from_costs_no_adapter(where, tmp_path, monkeypatch):
    begin(tmp_path / "out")
    (tmp_path / "out" / "results.json").write_text("{}")
    monkeypatch.setattr("distill.training.run_directory.recorded_run", lambda script, args: RUN)
    before = sorted(tmp_path.rglob("*"))
    args = SimpleNamespace(
        output_dir=str(tmp_path / "out"),
        resume_from_checkpoint=str(tmp_path / where),
        push_to_hub=False,
        process_index=0,
    )
    with pytest.raises((ValueError, OSError), match=where):
        prepare_output(SimpleNamespace(check_only=False, overwrite=True), args)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_goes_on_with_the_commit_that_it_began_with(tmp_path):
    assert begun_with_commit(tmp_path, "team/m", None) is None
    (tmp_path / "run.json").write_text(json.dumps({"model_name": "team/m", "revision": None, "commit": "abc"}))
    assert begun_with_commit(tmp_path, "team/m", None) == "abc"
    assert begun_with_commit(tmp_path, "team/m", "v2") is None
    assert begun_with_commit(tmp_path, "team/other", None) is None


def test_checks_on_several_machines_do_not_keep_each_other_out(tmp_path, monkeypatch):
    """Each machine's wrapper checks before the launch; the directory is the same for all."""
    monkeypatch.setenv(TO_LAUNCH, "2")
    with lock(tmp_path / "training.lock"):
        monkeypatch.setenv("NUM_MACHINES", "1")
        with pytest.raises(ValueError, match="another run is writing it"):
            lock_output(str(tmp_path), 0)
        monkeypatch.setenv("NUM_MACHINES", "2")
        lock_output(str(tmp_path), 0)


def test_figures_are_the_last_evaluations():
    history = [{"loss": 1.0}, {"eval_loss": 2.0, "eval_exact_answers": 0.5}, {"eval_loss": 1.23456}]
    assert evaluation_figures(history) == {"eval_loss": 1.2346, "eval_exact_answers": 0.5}
    assert evaluation_figures([]) == {}


def test_a_fraction_that_leaves_nothing_to_train_on_is_refused():
    check_fraction(0.0, 1)
    check_fraction(0.5, 2)
    with pytest.raises(ValueError, match="--eval_fraction 0.9: leaves none of 4 rows to train on"):
        check_fraction(0.9, 4)


@pytest.mark.parametrize("name", ["models/a: b", "/data/it's #1: 'x'", "a/b"])
def test_the_card_of_a_student_with_an_odd_name_can_be_read(name):
    run = {"model_name": name, "train_sha256": "abc"}
    card = model_card(run, {"rows": 3}, "out: 1")
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "peft"


# How long the start takes differs, so the second phase is waited for.
PHASES = {"imports": signal.SIGINT, "training": signal.SIGINT, "training, SIGTERM": signal.SIGTERM}


@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_ends_training_in_one_line(phase, endless, tmp_path):
    out = tmp_path / "out"
    command = [*endless, "--output_dir", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if phase == "imports":
        time.sleep(1)
    end = time.monotonic() + 120
    while phase != "imports" and not list(out.glob("checkpoint-*/complete.json")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1][-3000:]
        time.sleep(0.05)
    process.send_signal(PHASES[phase])
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + PHASES[phase]
    assert "Traceback" not in stderr
    if phase != "imports":
        last = stderr.splitlines()[-1]
        assert last == "train_sft_trl.py: stopped; the same command goes on from the last complete checkpoint"


def test_ctrl_c_ends_all_processes_of_a_wrapper_in_one_line(endless, tmp_path):
    """SIGINT goes to the process group, as a terminal sends it; test_launch.py has the other signals and failures."""
    out = tmp_path / "out"
    command = ["bash", ROOT / "train_trl_multi_gpu.sh", *endless[2:], "--output_dir", out]
    environment = {**os.environ, "NUM_PROCESSES": "2", "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    end = time.monotonic() + 120
    while not list(out.glob("checkpoint-*/complete.json")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1][-3000:]
        time.sleep(0.05)
    below = descendants(process)
    assert len(below) >= 2
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.count(SAID) == 1 and stderr.splitlines()[-1].endswith(SAID)
    assert "Traceback" not in stderr and "torch.distributed" not in stderr
    assert_gone(below)


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """The command that trains a small random student for very long."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from test_adapter import byte_tokenizer

    folder = tmp_path_factory.mktemp("endless")
    tokenizer = byte_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    chat = {"messages": [{"role": "user", "content": "hola"}, {"role": "assistant", "content": "es"}]}
    (folder / "train.jsonl").write_text((json.dumps(chat) + "\n") * 4)
    flags = ["--model_name", folder / "base", "--train_file", folder / "train.jsonl", "--use_cpu", "true"]
    flags += ["--bf16", "false", "--max_steps", 1000000, "--save_strategy", "steps", "--save_steps", 20]
    flags += ["--disable_tqdm", "true"]
    return [sys.executable, str(ROOT / "train_sft_trl.py"), *map(str, flags)]
