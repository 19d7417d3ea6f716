"""What step 2 takes over from its output directory and from checkpoints, and how it ends at
signals.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from hashlib import sha256
from types import SimpleNamespace

import pytest
import yaml

from distill.input_files import first_sha256
from distill.locks import lock
from distill.stopping import SAID
from distill.training.card import model_card
from distill.training.checkpoints import CompleteCheckpoint, file_sizes, last_checkpoint, steps_of
from distill.training.loading import TO_LAUNCH
from distill.training.lock import lock_output
from distill.training.recipe import ScriptArguments
from distill.training.results import evaluation_figures
from distill.training.rows import check_fraction
from distill.training.run_directory import (
    COMPARED,
    LAST,
    NONE,
    NOT_COMPARED,
    Takeover,
    begun_with_commit,
    prepare_output,
    recorded_run,
    warn_of_another_run,
)
from helpers import ROOT, assert_gone, descendants

RUN = {"learning_rate": "0.1", "train_sha256": "abc"}


def begin(folder, run=RUN, step=10):
    """An output directory that was begun, with a complete checkpoint."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run))
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    args = SimpleNamespace(output_dir=str(folder))
    CompleteCheckpoint().on_save(
        args, SimpleNamespace(is_world_process_zero=True, global_step=step), None
    )
    return checkpoint


def test_a_checkpoint_says_whose_it_is(tmp_path, caplog):
    checkpoint = begin(tmp_path)
    assert last_checkpoint(tmp_path) == checkpoint
    warn_of_another_run(checkpoint, RUN)
    assert caplog.messages == []
    # which was begun there since then
    (tmp_path / "run.json").write_text(json.dumps({**RUN, "learning_rate": "0.2"}))
    warn_of_another_run(checkpoint, {**RUN, "learning_rate": "0.2"})
    assert caplog.messages == [
        f"{checkpoint}: a checkpoint of another run, begun with learning_rate 0.1, now 0.2"
    ]


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


def test_another_runs_checkpoint_in_the_output_directory_is_refused(tmp_path):
    """As --resume_from_checkpoint with other settings leaves it, when it is killed before its first
    checkpoint.
    """
    out = tmp_path / "out"
    checkpoint = begin(out)
    now = {**RUN, "learning_rate": "0.2"}
    (out / "run.json").write_text(json.dumps(now))
    with pytest.raises(
        ValueError, match="checkpoint-10: begun with learning_rate 0.1, now 0.2; --overwrite starts"
    ):
        prepare_output(out, now, Takeover())
    (checkpoint / "run.json").unlink()  # as in an older one, which was taken to be the directory's
    (checkpoint / "complete.json").write_text(json.dumps(file_sizes(checkpoint)))
    assert prepare_output(out, now, Takeover()) == str(checkpoint)


@pytest.mark.parametrize("where", ["missing", "out/checkpoint-10"])
def test_a_checkpoint_that_cannot_be_resumed_from_costs_no_adapter(where, tmp_path):
    begin(tmp_path / "out")
    (tmp_path / "out" / "results.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ValueError, OSError), match=where):
        prepare_output(
            tmp_path / "out", RUN, Takeover(overwrite=True, resume=str(tmp_path / where))
        )
    assert sorted(tmp_path.rglob("*")) == before


def torn(checkpoint):
    """As a kill during writing leaves it: complete.json says more bytes than are there."""
    (checkpoint / "trainer_state.json").write_text("{")


def test_the_last_checkpoint_is_the_newest_complete_one(tmp_path, caplog):
    assert last_checkpoint(tmp_path / "nowhere") is None
    for step in (9, 10, 100):  # which as texts have another order
        begin(tmp_path, step=step)
    (tmp_path / "checkpoint-best").mkdir()
    assert last_checkpoint(tmp_path).name == "checkpoint-100"
    assert caplog.messages == []
    torn(tmp_path / "checkpoint-100")
    (tmp_path / "checkpoint-10" / "complete.json").unlink()
    assert last_checkpoint(tmp_path).name == "checkpoint-9"
    skipped = [
        f"{tmp_path / name}: not complete, skipped" for name in ("checkpoint-100", "checkpoint-10")
    ]
    assert caplog.messages == skipped
    torn(tmp_path / "checkpoint-9")
    assert last_checkpoint(tmp_path) is None


def test_what_is_no_checkpoint_holds_no_steps(tmp_path):
    assert steps_of(begin(tmp_path, step=7)) == 7
    with pytest.raises(OSError, match="trainer_state.json"):
        steps_of(tmp_path)
    torn(tmp_path / "checkpoint-7")
    with pytest.raises(ValueError, match="Expecting property name"):
        steps_of(tmp_path / "checkpoint-7")


def contents(folder):
    """The bytes of all files below a folder, by their paths."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_new_output_directory_says_what_run_it_holds(tmp_path):
    out = tmp_path / "new" / "out"
    assert prepare_output(out, RUN, Takeover(check_only=True)) is None
    assert prepare_output(out, RUN, Takeover(), is_main=False) is None
    assert not out.parent.exists()
    assert prepare_output(out, RUN, Takeover()) is None
    assert contents(out) == {"run.json": json.dumps(RUN, indent=2).encode()}


def test_a_run_goes_on_from_its_last_checkpoint(tmp_path):
    checkpoint = begin(tmp_path)
    before = contents(tmp_path)
    assert prepare_output(tmp_path, RUN, Takeover(check_only=True)) is None
    assert contents(tmp_path) == before
    assert prepare_output(tmp_path, RUN, Takeover()) == str(checkpoint)
    with pytest.raises(
        ValueError, match="begun with learning_rate 0.1, now 0.3; --overwrite starts afresh"
    ):
        prepare_output(tmp_path, {**RUN, "learning_rate": "0.3"}, Takeover())
    torn(checkpoint)  # with nothing to go on from, the directory is another run's
    other = {**RUN, "learning_rate": "0.3"}
    assert prepare_output(tmp_path, other, Takeover()) is None
    assert json.loads((tmp_path / "run.json").read_text()) == other


# What --resume_from_checkpoint none and --overwrite true leave of an adapter that has been begun.
TAKEOVERS = {
    "none": (Takeover(resume=NONE), ["adapter_config.json", "notes.txt", "run.json"]),
    "overwrite": (Takeover(overwrite=True), ["notes.txt", "run.json"]),
}


@pytest.mark.parametrize(("takeover", "left"), TAKEOVERS.values(), ids=TAKEOVERS)
def test_a_run_that_begins_afresh_deletes_what_it_replaces(takeover, left, tmp_path):
    begin(tmp_path)
    for name in ("adapter_config.json", "notes.txt"):
        (tmp_path / name).write_text(name)
    before = contents(tmp_path)
    other = {**RUN, "learning_rate": "0.3"}
    assert prepare_output(tmp_path, other, replace(takeover, check_only=True)) is None
    prepare_output(tmp_path, RUN, takeover, is_main=False)  # the others delete nothing
    assert contents(tmp_path) == before
    assert prepare_output(tmp_path, other, takeover) is None
    assert sorted(contents(tmp_path)) == left
    assert json.loads((tmp_path / "run.json").read_text()) == other


def test_a_finished_adapter_is_replaced_by_overwrite_alone(tmp_path):
    begin(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    before = contents(tmp_path)
    for resume in (LAST, NONE, str(tmp_path / "checkpoint-10")):
        with pytest.raises(ValueError, match="holds a finished adapter; --overwrite replaces it"):
            prepare_output(tmp_path, RUN, Takeover(resume=resume))
    assert prepare_output(tmp_path, RUN, Takeover(push=True)) is None
    with pytest.raises(ValueError, match="begun with learning_rate 0.1, now 0.3"):
        prepare_output(tmp_path, {**RUN, "learning_rate": "0.3"}, Takeover(push=True))
    assert contents(tmp_path) == before
    assert prepare_output(tmp_path, RUN, Takeover(overwrite=True)) is None
    assert sorted(contents(tmp_path)) == ["run.json"]


def test_an_adapter_of_which_nothing_is_known_is_kept(tmp_path):
    """As one from elsewhere, without run.json."""
    (tmp_path / "adapter_model.safetensors").write_text("weights")
    with pytest.raises(ValueError, match="holds a finished adapter"):
        prepare_output(tmp_path, RUN, Takeover(push=True))
    assert prepare_output(tmp_path, RUN, Takeover(overwrite=True)) is None
    assert sorted(contents(tmp_path)) == ["run.json"]


def test_a_named_checkpoint_is_resumed_from(tmp_path, caplog):
    named = begin(tmp_path / "other", {**RUN, "learning_rate": "0.3"})
    begin(tmp_path / "out", step=20)
    assert prepare_output(tmp_path / "out", RUN, Takeover(resume=str(named))) == str(named)
    assert caplog.messages == [
        f"{named}: a checkpoint of another run, begun with learning_rate 0.3, now 0.1"
    ]


def test_run_json_holds_our_flags_and_what_of_trls_decides_the_result(small, monkeypatch):
    monkeypatch.setenv(TO_LAUNCH, "4")
    monkeypatch.setenv("NUM_MACHINES", "2")
    train_file = small / "train.jsonl"
    script = ScriptArguments(
        model_name=str(small / "base"), train_file=str(train_file), lora_rank=8
    )
    args = SimpleNamespace(**{name: f"value of {name}" for name in COMPARED})
    first_sha256(str(train_file))
    run = recorded_run(script, args)
    own = [field.name for field in fields(ScriptArguments) if field.name not in NOT_COMPARED]
    assert list(run) == [*own, "train_sha256", *COMPARED]  # in the order of older files
    assert run["lora_rank"] == 8
    assert run["train_sha256"] == sha256(train_file.read_bytes()).hexdigest()
    assert run["optim"] == "value of optim"
    assert run["world_size"] == "8"  # which the wrapper knows before there are as many processes


def test_the_benchmark_trains_what_its_flags_say(small, monkeypatch, tmp_path):
    """benchmarks/training.py once took --lora_target and --lora_dropout without a word, and did not
    use them.
    """
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import training

    monkeypatch.setattr(sys, "argv", sys.argv)  # which it changes
    flags = ["--model_name", str(small / "base"), "--train_file", str(small / "train.jsonl")]
    flags += [
        "--use_cpu",
        "true",
        "--bf16",
        "false",
        "--lora_target",
        "q_proj",
        "--lora_dropout",
        "0.25",
    ]
    _, _, _, lora, _ = training.parsed(flags, str(tmp_path))
    assert lora.target_modules == {"q_proj"}
    assert lora.lora_dropout == 0.25


def test_a_run_goes_on_with_the_commit_that_it_began_with(tmp_path):
    assert begun_with_commit(tmp_path, "team/m", None) is None
    (tmp_path / "run.json").write_text(
        json.dumps({"model_name": "team/m", "revision": None, "commit": "abc"})
    )
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
        assert last == (
            "train_sft_trl.py: stopped; the same command goes on from the last complete checkpoint"
        )


def test_ctrl_c_ends_all_processes_of_a_wrapper_in_one_line(endless, tmp_path):
    """SIGINT goes to the process group, as a terminal sends it.

    Test_launch.py has the other signals and failures.
    """
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
def small(tmp_path_factory):
    """A folder with a small random student, base, and rows for it, train.jsonl."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from small_tokenizers import byte_tokenizer

    folder = tmp_path_factory.mktemp("small")
    tokenizer = byte_tokenizer()
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = LlamaConfig(**sizes, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    chat = {
        "messages": [{"role": "user", "content": "hola"}, {"role": "assistant", "content": "es"}]
    }
    (folder / "train.jsonl").write_text((json.dumps(chat) + "\n") * 4)
    return folder


@pytest.fixture
def endless(small):
    """The command that trains a small random student for very long."""
    flags = [
        "--model_name",
        small / "base",
        "--train_file",
        small / "train.jsonl",
        "--use_cpu",
        "true",
    ]
    flags += [
        "--bf16",
        "false",
        "--max_steps",
        1000000,
        "--save_strategy",
        "steps",
        "--save_steps",
        20,
    ]
    flags += ["--disable_tqdm", "true"]
    return [sys.executable, str(ROOT / "train_sft_trl.py"), *map(str, flags)]
