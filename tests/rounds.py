"""Rounds of step 1 in one folder, with a teacher that answers from a list: all but the engine."""

import contextlib
import json
import os
from unittest import mock

import create_data
from distill.labels import run as run_module
from distill.labels.results import leave_finished, write_results
from distill.labels.run import Started, begin, label
from distill.teacher.base import TeacherEnded
from list_teacher import ListTeacher

TASK = {"prompt": "Which language?", "labels": ["en", "fr", "de"], "answer": "Answer: (.+)"}


class Rounds:
    """A folder with inputs, a task and a model that has a name and nothing else."""

    def __init__(self, folder):
        self.folder = folder
        self.source = folder / "in.txt"
        self.task = folder / "task.yaml"
        self.output = folder / "out.jsonl"
        (folder / "config.json").write_text("{}")
        self.write_task()

    def write_task(self, **keys):
        self.task.write_text(json.dumps({**TASK, **keys}))

    def write_inputs(self, *texts):
        self.source.write_text("\n".join(texts) + "\n")

    def choices(self, *flags):
        """What the flags choose in this folder; of two of a kind the last one wins."""
        fixed = ["--input_file", self.source, "--output_file", self.output, "--task", self.task]
        fixed += ["--model_name", self.folder, "--min_success_rate", 0]
        return create_data.parse_args([str(word) for word in (*fixed, *flags)])

    def go(self, responses, *flags, ends_after=None):
        """One call of step 1; returns the inputs that it asked, each as often as it did.

        Raises ValueError where the script would refuse, and TeacherEnded.
        """
        teacher = ListTeacher(responses, ends_after=ends_after)
        with contextlib.ExitStack() as at_end:
            run = begin(self.choices(*flags), at_end)
            if run.finished:
                leave_finished(run)
                return []
            if run.asked:
                with mock.patch.object(run_module, "VLLMTeacher", lambda *_: teacher):
                    label(run, Started(run.choices.teacher, engine=object()))
                run.journal.file.close()
            write_results(run, None, seconds=1.0)
        return [request.prompt.content for request in teacher.asked]

    def dies(self, responses, *flags, after):
        """A call whose teacher ends after so many completions, and then the process."""
        with contextlib.suppress(TeacherEnded):
            self.go(responses, *flags, ends_after=after)
            raise AssertionError("it did not end")

    def answers(self):
        """Input and answer of each row of the output, in order."""
        lines = self.output.read_text().splitlines()
        messages = [json.loads(line)["messages"] for line in lines]
        return [(turns[0]["content"], turns[-1]["content"]) for turns in messages]

    def files(self):
        """Names of the files that the runs have made."""
        return sorted(name for name in os.listdir(self.folder) if name.startswith("out.jsonl"))
