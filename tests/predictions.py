"""Runs of predict.py around a student that answers from a list. No model."""

import contextlib
import csv
import json

import predict
from distill.prediction.asking import Predicting, record_predictions
from distill.prediction.results import leave_finished, write_results
from distill.prediction.run import begin

TASK = '{"prompt": "?", "labels": ["a", "b"]}'
INPUTS = (
    "nr,text,n\n007,one,NA\n008,two,1\n009,one,\n010,three,\n011," + "x" * 60 + ",\n012,four,\n"
)
ANSWERS = {
    "one": ("a", "stop", 0.9),
    "two": ("B", "stop", 0.5),
    "three": ("c", "stop", 0.25),
    "four": ("a a a", "length", 0.1),
}


def make_folder(folder):
    """Put a model, a task and inputs there, as far as files say so."""
    (folder / "merged").mkdir()
    (folder / "merged" / "config.json").write_text("{}")
    (folder / "task.yaml").write_text(TASK)
    (folder / "in.csv").write_text(INPUTS)


def choices(folder, *flags, output="out.csv"):
    """What the flags choose for a run in that folder."""
    common = ["--adapter", "", "--model_name", folder / "merged", "--task", folder / "task.yaml"]
    common += ["--input_file", folder / "in.csv", "--output_file", folder / output]
    common += ["--text_column", "text", "--id_column", "nr", "--min_success_rate", 0.4]
    return predict.parse_args([str(word) for word in [*common, *flags]])


def run_once(chosen, student):
    """What predict.py does around its engine; returns the exit code."""
    with contextlib.ExitStack() as at_end:
        run = begin(chosen, at_end)
        if run.finished:
            return leave_finished(run)
        if chosen.overwrite:
            run.journal.clear()
        if run.asked:
            run.journal.start()
            decided = Predicting(student, run.student.task, chosen.max_tokens)
            rows = decided.label(run.inputs.read(run.missing))
            record_predictions(rows, run.journal, run.asked, 0)
        return write_results(run, None, "a merged copy", 1.0)


def rows(path):
    """The rows of a CSV."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def last_line(capsys):
    """The JSON of the last line on stdout."""
    return json.loads(capsys.readouterr().out.splitlines()[-1])
