"""What step 2 takes over from its output directory and from checkpoints."""

import json
import shutil
from dataclasses import fields, replace
from hashlib import sha256
from types import SimpleNamespace

import pytest

from distill.input_files import first_sha256
from distill.old_values import Difference
from distill.system import TO_LAUNCH
from distill.training.checkpoints import file_sizes, last_checkpoint
from distill.training.few_rows import follow_rows
from distill.training.recipe import ScriptArguments
from distill.training.run_directory import (
    COMPARED,
    LAST,
    NONE,
    NOT_COMPARED,
    Takeover,
    begun_with_commit,
    continued_run,
    prepare_output,
    recorded_run,
)
from distill.training.same_run import in_words, refuse_another_run, refuse_foreign
from helpers import fails, python
from run_directories import RUN, begin, contents, torn

REMEDY = "remove it, or"


def test_a_checkpoint_says_whose_it_is(tmp_path):
    checkpoint = begin(tmp_path)
    assert last_checkpoint(tmp_path) == checkpoint
    refuse_foreign(checkpoint, RUN, REMEDY)
    # which was begun there since then
    now = {**RUN, "learning_rate": "0.2"}
    (tmp_path / "run.json").write_text(json.dumps(now))
    said = "checkpoint-10: a checkpoint of another run, begun with learning_rate 0.1, now 0.2; remo"
    with pytest.raises(ValueError, match=said):
        refuse_foreign(checkpoint, now, REMEDY)


def test_a_checkpoint_of_before_is_its_directorys(tmp_path):
    checkpoint = begin(tmp_path)
    (checkpoint / "run.json").unlink()
    refuse_foreign(checkpoint, {**RUN, "data_seed": "1"}, REMEDY)  # which was not recorded then
    said = r"begun with other rows in --train_file \(abc, now 0123456789ab\); remove it"
    with pytest.raises(ValueError, match=said):
        refuse_foreign(checkpoint, {**RUN, "train_sha256": "0123456789abcdef"}, REMEDY)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match="checkpoint-10: no run.json says whose checkpoint it is"):
        refuse_foreign(checkpoint, RUN, REMEDY)


def test_a_copied_checkpoint_is_the_runs_or_refused(tmp_path):
    """Into a directory that no run has begun."""
    out = tmp_path / "out"
    copied = shutil.copytree(begin(tmp_path / "other"), out / "checkpoint-10")
    assert prepare_output(out, RUN, Takeover()) == str(copied)
    (out / "run.json").unlink()
    before = contents(out)
    with pytest.raises(ValueError, match="checkpoint-10: a checkpoint of another run, begun"):
        prepare_output(out, {**RUN, "train_sha256": "def"}, Takeover())
    assert contents(out) == before
    (copied / "run.json").unlink()
    (copied / "complete.json").write_text(json.dumps(file_sizes(copied)))
    with pytest.raises(ValueError, match="checkpoint-10: no run.json says whose checkpoint it is"):
        prepare_output(out, RUN, Takeover())


def test_what_differs_is_said_in_words():
    found = Difference("probe_tokens", {"plain text": [1, 2]}, {"plain text": [1, 3]})
    assert in_words(found) == "begun with a tokenizer or chat template that gives other tokens"
    found = Difference("init_adapter_identity", None, "0123456789abcdef")
    assert in_words(found).endswith("or one of two without any (None, now 0123456789ab)")
    assert in_words(Difference("seed", "1", "2")) == "begun with seed 1, now 2"


def test_the_adapter_that_a_run_started_from_may_have_moved(tmp_path):
    begun = {**RUN, "init_adapter": "a", "init_adapter_identity": "one"}
    (tmp_path / "run.json").write_text(json.dumps(begun))
    refuse_another_run(tmp_path, {**begun, "init_adapter": "b"})
    for other in ({**begun, "init_adapter_identity": "two"}, RUN):
        with pytest.raises(ValueError, match="begun with another --init_adapter"):
            refuse_another_run(tmp_path, other)


def test_another_runs_checkpoint_in_the_output_directory_is_refused(tmp_path):
    """As --resume_from_checkpoint with other settings leaves it, when it is killed before its first
    checkpoint.
    """
    out = tmp_path / "out"
    checkpoint = begin(out)
    now = {**RUN, "learning_rate": "0.2"}
    (out / "run.json").write_text(json.dumps(now))
    with pytest.raises(
        ValueError, match="checkpoint-10: a checkpoint of another run, begun with learning_rate 0.1"
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
    for stays in (Takeover(push=True), Takeover(skip=True), Takeover(skip=True, check_only=True)):
        assert prepare_output(tmp_path, RUN, stays) is None
        with pytest.raises(ValueError, match="begun with learning_rate 0.1, now 0.3"):
            prepare_output(tmp_path, {**RUN, "learning_rate": "0.3"}, stays)
    assert contents(tmp_path) == before
    assert prepare_output(tmp_path, RUN, Takeover(overwrite=True)) is None
    assert sorted(contents(tmp_path)) == ["run.json"]


def test_an_adapter_of_which_nothing_is_known_is_kept(tmp_path):
    """As one from elsewhere, without run.json."""
    (tmp_path / "adapter_model.safetensors").write_text("weights")
    with pytest.raises(ValueError, match="holds a finished adapter"):
        prepare_output(tmp_path, RUN, Takeover(push=True, skip=True))
    assert prepare_output(tmp_path, RUN, Takeover(overwrite=True)) is None
    assert sorted(contents(tmp_path)) == ["run.json"]


def test_a_named_checkpoint_is_resumed_from(tmp_path):
    """One of the same run, wherever it lies."""
    named = begin(tmp_path / "other")
    begin(tmp_path / "out", step=20)
    assert prepare_output(tmp_path / "out", RUN, Takeover(resume=str(named))) == str(named)


def test_another_runs_named_checkpoint_is_refused(tmp_path):
    named = begin(tmp_path / "other", {**RUN, "train_sha256": "def"})
    out = tmp_path / "out"
    begin(out, step=20)
    before = contents(out)
    with pytest.raises(ValueError) as refused:
        prepare_output(out, RUN, Takeover(resume=str(named), overwrite=True))
    assert str(refused.value) == (
        f"{named}: a checkpoint of another run, begun with other rows in --train_file "
        f"(def, now abc); --init_adapter {named} starts a new run from its weights"
    )
    assert contents(out) == before


@pytest.mark.parametrize("optimizer", ["optimizer.pt", "optimizer.bin"])
def test_the_optimizers_file_of_each_launcher_is_known(optimizer, tmp_path):
    checkpoint = str(begin(tmp_path / "out", optimizer=optimizer))
    assert prepare_output(tmp_path / "out", RUN, Takeover()) == checkpoint
    assert prepare_output(tmp_path / "new", RUN, Takeover(resume=checkpoint)) == checkpoint


def test_a_checkpoint_without_an_optimizer_is_refused(tmp_path):
    out = tmp_path / "out"
    checkpoint = begin(out, optimizer=None)
    before = contents(tmp_path)
    said = f"{checkpoint}: holds no optimizer (--save_only_model), so no run can go on from it; "
    for takeover in (Takeover(), Takeover(check_only=True)):
        with pytest.raises(ValueError) as refused:
            prepare_output(out, RUN, takeover)
        assert str(refused.value).startswith(f"{said}--resume_from_checkpoint none starts afresh")
    with pytest.raises(ValueError) as refused:
        prepare_output(tmp_path / "new", RUN, Takeover(resume=str(checkpoint), overwrite=True))
    assert (
        str(refused.value) == f"{said}--init_adapter {checkpoint} starts a new run from its weights"
    )
    assert contents(tmp_path) == before
    assert prepare_output(out, RUN, Takeover(resume=NONE)) is None
    assert not checkpoint.exists()


def test_a_run_with_the_adapter_alone_in_its_checkpoints_is_not_resumed(small, tmp_path):
    out = tmp_path / "out"
    flags = ["--model_name", small / "base", "--train_file", small / "train.jsonl"]
    flags += ["--use_cpu", "true", "--bf16", "false", "--max_steps", 2, "--output_dir", out]
    flags += ["--save_strategy", "steps", "--save_steps", 1, "--save_only_model", "true"]
    python("train_sft_trl.py", *flags)
    (out / "results.json").unlink()  # as if it had been stopped
    shutil.rmtree(out / "checkpoint-2")
    (out / "adapter_model.safetensors").unlink()
    assert f"train_sft_trl.py: {out / 'checkpoint-1'}: holds no optimizer" in fails(
        "train_sft_trl.py", *flags
    )


def test_the_run_that_goes_on_is_found(tmp_path):
    out = tmp_path / "out"
    assert continued_run(out, Takeover()) == {}
    begin(tmp_path / "other", {**RUN, "seed": "2"})
    named = str(tmp_path / "other" / "checkpoint-10")
    assert continued_run(out, Takeover(resume=named, overwrite=True)) == {**RUN, "seed": "2"}
    checkpoint = begin(out)
    assert continued_run(out, Takeover()) == RUN
    for afresh in (Takeover(overwrite=True), Takeover(resume=NONE)):
        assert continued_run(out, afresh) == {}
    torn(checkpoint)  # nothing is left to go on from
    assert continued_run(out, Takeover()) == {}
    (out / "results.json").write_text("{}")
    for resume in (LAST, NONE, named):  # of a finished one nothing is resumed
        assert continued_run(out, Takeover(skip=True, resume=resume)) == RUN
        assert continued_run(out, Takeover(push=True, resume=resume)) == RUN
    assert continued_run(out, Takeover(overwrite=True)) == {}


def test_a_finished_run_of_few_rows_keeps_its_epochs_whatever_it_would_resume(tmp_path):
    """As of the time when epochs and batch did not follow the number of rows."""
    run = {**RUN, "num_train_epochs": "1.0", "per_device_train_batch_size": "16"}
    begin(tmp_path, run)
    (tmp_path / "results.json").write_text("{}")
    takeover = Takeover(resume=NONE, skip=True)
    args = SimpleNamespace(
        not_given=["num_train_epochs", "per_device_train_batch_size"],
        num_train_epochs=2.0,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=1,
        max_steps=-1,
    )
    follow_rows(args, 100, 1, continued_run(tmp_path, takeover))
    now = dict(run)
    for name in args.not_given:
        now[name] = str(getattr(args, name))
    assert prepare_output(tmp_path, now, takeover) is None


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
    own.remove("calibration_sha256")  # which says less than what decides about these rows
    expected = [*own, "train_sha256", "eval_sha256", *COMPARED, "calibration_sha256"]
    assert list(run) == [*expected, "weights"]  # as in older files, which know no weights
    assert run["lora_rank"] == 8
    assert run["train_sha256"] == sha256(train_file.read_bytes()).hexdigest()
    assert run["optim"] == "value of optim"
    assert run["world_size"] == "8"  # which the wrapper knows before there are as many processes


def test_other_weights_in_the_same_directory_are_another_student(small, tmp_path):
    out = tmp_path / "out"
    base = shutil.copytree(small / "base", tmp_path / "base")
    flags = ["--model_name", base, "--train_file", small / "train.jsonl"]
    flags += ["--use_cpu", "true", "--bf16", "false", "--max_steps", 2, "--output_dir", out]
    flags += ["--save_strategy", "steps", "--save_steps", 1]
    python("train_sft_trl.py", *flags)
    new = tmp_path / "new"
    from_first = [*flags, "--output_dir", new, "--init_adapter", out, "--check_only"]
    python("train_sft_trl.py", *from_first)
    weights = base / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-4] + bytes([1, 1, 1, 1]))
    said = "begun with other weights in the directory of --model_name ("
    assert said in fails("train_sft_trl.py", *flags, "--skip_finished")
    (out / "results.json").unlink()  # as if it had been stopped
    shutil.rmtree(out / "checkpoint-2")
    (out / "adapter_model.safetensors").unlink()
    assert said in fails("train_sft_trl.py", *flags)
    checkpoint = out / "checkpoint-1"
    named = [*from_first[:-3], "--resume_from_checkpoint", checkpoint]
    assert said in fails("train_sft_trl.py", *named)
    error = fails("train_sft_trl.py", *from_first[:-2], checkpoint, "--check_only")
    assert f"does not fit this run: other weights in {base} than it has now" in error

    weights.unlink()
    weights.write_bytes(before)  # at another time
    assert f"resuming from {checkpoint}" in python("train_sft_trl.py", *flags).stderr


def test_a_run_that_knows_no_weights_goes_on(tmp_path):
    begin(tmp_path)
    assert prepare_output(tmp_path, {**RUN, "weights": "0123"}, Takeover())


def test_a_run_goes_on_with_the_commit_that_it_began_with(tmp_path):
    assert begun_with_commit(tmp_path, "team/m", None) is None
    (tmp_path / "run.json").write_text(
        json.dumps({"model_name": "team/m", "revision": None, "commit": "abc"})
    )
    assert begun_with_commit(tmp_path, "team/m", None) == "abc"
    assert begun_with_commit(tmp_path, "team/m", "v2") is None
    assert begun_with_commit(tmp_path, "team/other", None) is None
