"""That steps 2 and 3 take the revision they are asked for, all the way.

Step 1's part is in test_model_tokenizer.py.
"""

import json
import os
import shutil

import pytest
from peft import PeftConfig

from distill.card import model_card
from distill.training.same_run import refuse_another_run
from helpers import ROOT, STUDENT, TEACHER, in_fork, last_json, losses
from hub_cache import commit_of, make_hub_cache


def test_the_card_loads_the_revision():
    run_json = {"model_name": "team/student", "revision": "v2", "train_sha256": "0f"}
    assert 'from_pretrained("team/student", revision="v2", dtype="auto")' in model_card(
        run_json, {"rows": 1}, "/out"
    )
    old = {"model_name": "team/student", "train_sha256": "0f"}
    assert 'from_pretrained("team/student", dtype="auto")' in model_card(old, {"rows": 1}, "/out")


def test_an_old_run_was_of_the_main_revision(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"model_name": "team/student"}))
    now = {
        "model_name": "team/student",
        "commit": commit_of("main"),
        "probe_tokens": {"plain text": "1 2"},
    }
    refuse_another_run(tmp_path, {**now, "revision": None})
    with pytest.raises(ValueError, match="begun with revision None, now v2"):
        refuse_another_run(tmp_path, {**now, "revision": "v2"})


@pytest.fixture(scope="module")
def cached(pair, tmp_path_factory):
    """The tiny student as revision v2 of a cached model whose main is another one.

    The environment that sees it.

    The template of v2 refuses a system message.
    """
    folder = tmp_path_factory.mktemp("hub")
    shutil.copytree(STUDENT, folder / "v2")
    chat_template = folder / "v2" / "chat_template.jinja"
    refuses = (
        "{% if messages[0].role == 'system' %}"
        "{{ raise_exception('no system messages here') }}{% endif %}"
    )
    chat_template.write_text(refuses + chat_template.read_text())
    return make_hub_cache(
        folder / "cache", "team/tiny-instruct", {"main": TEACHER, "v2": folder / "v2"}
    )


@pytest.mark.slow
def test_step_2_trains_the_revision(cached, trained, train_file, tmp_path):
    flags = [
        "--config",
        ROOT / "configs" / "tiny.yaml",
        "--max_steps",
        1,
        "--save_strategy",
        "steps",
    ]
    flags += ["--save_steps", 1, "--logging_steps", 1, "--revision", "v2"]
    flags += ["--model_name", "team/tiny-instruct", "--output_dir", tmp_path / "out"]
    flags += ["--train_file", train_file]
    in_fork(ROOT / "train_sft_trl.py", *flags, environment={**cached, "OMP_NUM_THREADS": "1"})
    # before the first step the loss is that of the base, on the same rows
    assert losses(tmp_path / "out", 1)[0] == pytest.approx(
        losses(trained["single"][0])[0], abs=1e-4
    )
    run_json = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (run_json["revision"], run_json["commit"]) == ("v2", commit_of("v2"))
    assert (
        run_json["probe_tokens"]["plain text"]
        and run_json["probe_tokens"]["a system message"] is None
    )
    assert PeftConfig.from_pretrained(tmp_path / "out").revision == "v2"
    assert (
        'from_pretrained("team/tiny-instruct", revision="v2"'
        in (tmp_path / "out" / "README.md").read_text()
    )


@pytest.mark.slow
def test_step_3_asks_the_revision_and_leaves_out_what_cannot_be_asked(cached, distilled, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(distilled[0], adapter, ignore=shutil.ignore_patterns("report", "checkpoint-*"))
    config = json.loads((adapter / "adapter_config.json").read_text())
    # as if trained on it
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "revision": "v2"}))
    flags = [
        "--student_model",
        "team/tiny-instruct",
        "--adapter",
        adapter,
        "--systems",
        "base_prompt,student",
    ]
    flags += [
        "--test_file",
        ROOT / "example-data" / "heldout.jsonl",
        "--limit",
        40,
        "--latency_rows",
        1,
    ]
    result = in_fork(ROOT / "evaluate.py", *flags, environment=cached)
    assert last_json(result)["student_accuracy"] > 0.9
    assert "base student, prompt is left out" in result.stderr
    metrics = json.loads((adapter / "report" / "metrics.json").read_text())
    assert metrics["student_revision"] == "v2" and list(metrics["systems"]) == ["student"]
    assert "refuses the chat (no system messages here)" in metrics["left_out"]["base_prompt"]
    assert "Left out: base student, prompt" in (adapter / "report" / "report.md").read_text()

    flags += ["--student_revision", "v3"]
    again = in_fork(ROOT / "evaluate.py", *flags, environment=cached, code=2)
    assert "--student_revision v3 is neither on the hub nor in its cache" in again.stderr
    assert len(again.stderr.splitlines()) == 1 and os.path.exists(
        adapter / "report" / "metrics.json"
    )
