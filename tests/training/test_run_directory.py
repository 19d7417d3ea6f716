"""What step 2 takes over from its output directory and from checkpoints."""

import json
from dataclasses import fields, replace
from hashlib import sha256
from types import SimpleNamespace

import pytest

from distill.input_files import first_sha256
from distill.system import TO_LAUNCH
from distill.training.checkpoints import file_sizes, last_checkpoint
from distill.training.recipe import ScriptArguments
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
from run_directories import RUN, begin, contents, torn


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


def test_a_run_goes_on_with_the_commit_that_it_began_with(tmp_path):
    assert begun_with_commit(tmp_path, "team/m", None) is None
    (tmp_path / "run.json").write_text(
        json.dumps({"model_name": "team/m", "revision": None, "commit": "abc"})
    )
    assert begun_with_commit(tmp_path, "team/m", None) == "abc"
    assert begun_with_commit(tmp_path, "team/m", "v2") is None
    assert begun_with_commit(tmp_path, "team/other", None) is None
