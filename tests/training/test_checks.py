"""What step 2 finds out before the student is loaded, and training goes on with."""

import json
import shutil
from pathlib import Path

from distill.training.arguments import OneLineParser, TrainArguments
from distill.training.checks import check_run
from distill.training.recipe import ScriptArguments


def test_the_task_is_that_of_the_rows_that_were_read(small, tmp_path, monkeypatch):
    """Step 1 may write newer labels by another task while training goes on."""
    rows = tmp_path / "rows.jsonl"
    shutil.copy(small / "train.jsonl", rows)
    manifest = tmp_path / "rows.jsonl.manifest.json"
    manifest.write_text(json.dumps({"task": "before", "task_file": "task.yaml"}))
    line = ["train_sft_trl.py", "--model_name", small / "base", "--train_file", rows]
    line += ["--output_dir", tmp_path / "out", "--use_cpu", "true", "--bf16", "false"]
    line += ["--check_only", "true"]
    monkeypatch.setattr("sys.argv", [str(part) for part in line])
    script, args = OneLineParser((ScriptArguments, TrainArguments)).parse()
    checked = check_run(script, args)
    manifest.write_text(json.dumps({"task": "after", "task_file": "other.yaml"}))
    assert checked.task == {"task_file": str(Path("task.yaml").absolute()), "task_hash": "before"}
