"""Several train files: which they are, whose rows contradict each other, and which of them stay."""

import json
import re
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from chat_rows import chat, write
from distill.calibration import CALIBRATION_ROWS
from distill.old_values import Difference
from distill.training.calibration_rows import set_apart
from distill.training.recipe import ScriptArguments
from distill.training.same_run import in_words
from distill.training.train_files import (
    SHOWN,
    FileRows,
    by_file,
    conflicts_of,
    conflicts_said,
    counted,
    file_with_task,
    labelled_rows,
    named_files,
    other_task,
    settle,
    with_commas,
)
from helpers import fails, last_json, python, read_jsonl

# Two files: of "uno" and "due" the second says something else, "tre" contradicts itself in the
# first, and "otto" stands in both with the same answer.
ONE = [("uno", "it"), ("due", "it"), ("tre", "it"), ("tre", "fr"), ("otto", "it")]
OTHER = [("due", "es"), ("uno", "es"), ("uno", "es "), ("otto", "it"), ("nove", "it")]


@pytest.fixture
def files(tmp_path):
    one = write(tmp_path / "one.jsonl", *(chat(*row) for row in ONE))
    other = write(tmp_path / "other.jsonl", *(chat(*row) for row in OTHER))
    return [str(one), str(other)]


def lines(rows):
    """Where the rows stand: 1.3 is the third line of the first file."""
    return [f"{1 + ('other' in row.path)}.{row.number}" for row in rows]


def test_names_stand_between_commas(files, tmp_path):
    one, other = files
    assert named_files(one) == [one]
    assert named_files(f"{other},{one}") == [other, one]
    assert named_files(f"{one}, {other}") == [one, other]
    whole = tmp_path / "one.jsonl,other.jsonl"
    whole.write_text("")
    assert named_files(str(whole)) == [str(whole)]


def test_files_that_are_not_there_or_come_twice_are_refused(files, tmp_path):
    one, other = files
    for wrong, said in {
        "none.jsonl": "none.jsonl: no such file; run create_data.py first or pass --train_file",
        f"{one},none.jsonl": "none.jsonl: no such file; run create_data.py first",
        f"{one},": f"--train_file {one},: a name is missing beside a comma",
        f"{one},{other},{tmp_path}/./one.jsonl": "/./one.jsonl twice; name it once",
    }.items():
        with pytest.raises(ValueError) as refused:
            named_files(wrong)
        assert said in str(refused.value)


def test_a_yaml_file_may_hold_a_list_of_them(small, files):
    """In --config."""
    script = ScriptArguments(model_name=str(small / "base"), train_file=list(files))
    assert script.train_file == ",".join(files)
    with pytest.raises(ValueError, match="'n,c.jsonl' has a comma, and can only stand alone"):
        with_commas([files[0], "n,c.jsonl"])


def test_there_may_be_many(files, tmp_path, monkeypatch):
    """More than a file system takes for one name."""
    monkeypatch.chdir(tmp_path)
    names = [f"part-{number:06}.jsonl" for number in range(400)]
    for name in names:
        Path(name).touch()
    assert named_files(",".join(names)) == names


def test_rows_of_two_files_that_contradict_each_other_are_refused_with_both_sources(files):
    one, other = files
    with pytest.raises(ValueError) as refused:
        settle(labelled_rows(files), None)
    assert str(refused.value) == (
        f"{one}:1 answers 'it' and {other}:2 answers 'es' to the same input; 2 of the inputs have "
        "another answer in another file: --on_conflict last, first or drop says which rows stay"
    )
    # in the order of the files, and each file alone is only warned of
    with pytest.raises(ValueError, match=f"^{other}:1 answers 'es' and {one}:2 answers 'it' to"):
        settle(labelled_rows([other, one]), None)
    for path in files:
        rows = labelled_rows([path])
        assert settle(rows, None).rows == rows


@pytest.mark.parametrize(
    ("on_conflict", "left"),
    {
        "last": "1.4 1.5 2.1 2.2 2.3 2.4 2.5",
        "first": "1.1 1.2 1.3 1.5 2.4 2.5",
        "drop": "1.5 2.4 2.5",
    }.items(),
)
def test_the_last_the_first_or_none_of_an_inputs_answers_stay(files, on_conflict, left):
    rows = labelled_rows(files)
    settled = settle(rows, on_conflict)
    assert " ".join(lines(settled.rows)) == left
    assert settled.left_out == len(rows) - len(settled.rows)
    said = conflicts_said(settled, on_conflict)
    assert said == [
        f"--on_conflict {on_conflict}: {settled.left_out} rows of 3 inputs with more than one "
        "answer are left out",
        f"    {files[0]}:1 answers 'it', {files[1]}:2 answers 'es'",
        f"    {files[0]}:2 answers 'it', {files[1]}:1 answers 'es'",
        f"    {files[0]}:3 answers 'it', {files[0]}:4 answers 'fr'",
        "1 rows have input and answer of a row in an earlier file; all of them stay",
    ]


def test_one_file_is_settled_too(files):
    [one, _] = files
    rows = labelled_rows([one])
    assert lines(settle(rows, "first").rows) == ["1.1", "1.2", "1.3", "1.5"]
    assert conflicts_said(settle(rows, None), None) == []


def test_what_leaves_no_row_is_refused(tmp_path):
    path = str(write(tmp_path / "one.jsonl", chat("uno", "it"), chat("uno", "es")))
    with pytest.raises(ValueError) as refused:
        settle(labelled_rows([path]), "drop")
    assert str(refused.value) == (
        "--on_conflict drop: leaves none of 2 rows, the first two that contradict each other: "
        f"{path}:1 answers 'it', {path}:2 answers 'es'"
    )


def test_a_contradiction_is_found_between_files_wherever_it_stands(tmp_path):
    """Also where the first rows of both agree, and with answers that fill the terminal."""
    long = "a\n" * SHOWN
    one = write(tmp_path / "one.jsonl", chat("uno", "it"), chat("uno", long))
    other = write(tmp_path / "other.jsonl", chat("uno", "it"))
    [conflict] = conflicts_of(labelled_rows([str(one), str(other)]))
    assert conflict.said() == (f"{one}:2 answers {long[:SHOWN] + '...'!r}, {other}:1 answers 'it'")
    assert "\n" not in conflict.said()


def test_many_contradictions_are_named_in_part(tmp_path):
    one = write(tmp_path / "one.jsonl", *(chat(f"text {n}", "it") for n in range(9)))
    other = write(tmp_path / "other.jsonl", *(chat(f"text {n}", "es") for n in range(9)))
    said = conflicts_said(settle(labelled_rows([str(one), str(other)]), "last"), "last")
    assert len(said) == 5 and said[-1] == "    and 6 more"


def test_rows_are_counted_by_file():
    assert by_file([FileRows("a", 1234)], "rows") == "1,234 rows of a"
    three = [FileRows("a", 2), FileRows("b", 0), FileRows("c", 1000)]
    assert by_file(three, "more rows") == "2 more rows of a, 0 of b and 1,000 of c"


def test_calibration_takes_inputs_of_all_files_as_they_stand(tmp_path):
    """With all rows of an input on one side, in whichever files they are."""
    one = write(tmp_path / "one.jsonl", *(chat(f"text {n}", "it", id=n) for n in range(60)))
    other = tmp_path / "other.jsonl"
    row = '{{"messages":[{{"role":"user","content":"text {n}"}},'
    row += '{{"role":"assistant","content":"it"}}], "why": "unsure"}}\n'
    other.write_text("".join(row.format(n=n) for n in range(30, 90)))
    rows = labelled_rows([str(one), str(other)])
    left, kept = set_apart(rows, 0.4, 1, None)
    assert not {row.asked for row in left} & {row.asked for row in kept.rows}
    assert len(left) + len(kept.rows) == 120
    standing = one.read_text().splitlines(keepends=True)
    standing += other.read_text().splitlines(keepends=True)
    assert kept.lines == [standing[rows.index(row)] for row in kept.rows]
    assert [each.rows for each in counted([str(one), str(other)], kept.rows)] == [
        sum('"id"' in line for line in kept.lines),
        sum('"why"' in line for line in kept.lines),
    ]


def test_which_files_have_changed_is_said():
    def said(before, now):
        files = ["a.jsonl", "b.jsonl"]
        return in_words(Difference("train_sha256", before, now), files)

    one = "0123456789abcdef"
    assert said(f"{one},bb", f"{one},cc") == (
        "begun with other rows in b.jsonl of --train_file (0123456789ab,bb, now 0123456789ab,cc)"
    )
    assert "other rows in a.jsonl and b.jsonl of --train_file" in said("aa,bb", "cc,dd")
    assert "begun with the files of --train_file in another order (" in said("aa,bb", "bb,aa")
    assert "begun with another number of files in --train_file (aa, now" in said("aa", "aa,bb")
    # and a run of several that would go on with one
    assert in_words(Difference("train_sha256", "aa,bb", "aa")) == (
        "begun with another number of files in --train_file (aa,bb, now aa)"
    )
    assert in_words(Difference("train_sha256", "aa", "bb")).startswith("begun with other rows in")


def manifest(path, **keys):
    """Beside a file, what step 1 says of it."""
    path.with_name(f"{path.name}.manifest.json").write_text(json.dumps(keys))


def test_the_task_is_that_of_the_first_file_that_names_one(files, tmp_path):
    one, other = files
    assert file_with_task(files) == one and other_task(files) == ""
    manifest(tmp_path / "other.jsonl", task="aa", task_file="task.yaml")
    assert file_with_task(files) == other and other_task(files) == ""
    manifest(tmp_path / "one.jsonl", task="bb", task_file="other.yaml")
    assert file_with_task(files) == one
    assert other_task(files) == (
        f"{other} was labelled under another task than {one}; the student learns both as one"
    )
    # another file that means the same, as a comment in it leaves it
    meaning = {"prompt": "cc"}
    manifest(tmp_path / "one.jsonl", task="bb", task_meaning=meaning)
    manifest(tmp_path / "other.jsonl", task="aa", task_meaning=meaning)
    assert other_task(files) == ""


def test_the_task_of_what_was_handed_over_stands_in_its_journal(files, tmp_path):
    one, other = files
    manifest(tmp_path / "one.jsonl", task="aa")
    journal = tmp_path / "other.jsonl.trace.jsonl"
    journal.write_text('{"run": {"task": "aa"}}\n{"index": 0}\n{"run": {"task": "aa"}}\n')
    assert other_task(files) == ""
    journal.write_text(journal.read_text() + '{"run": {"task": "bb"}}\n{"run": {"ta')
    assert other_task(files).startswith(f"{other} was labelled under another task than {one}")
    assert other_task([other]).startswith(f"{other} has rows that were labelled under different")


# Real runs of a small random student.


@pytest.fixture(scope="module")
def folder(small):
    """Labels of step 1, and rows that were handed over, six of which have another answer."""
    labels = [chat(f"hola {n}", "es" if n % 3 else "de") for n in range(100)]
    handed = [chat(f"hola {n}", "de") for n in range(91, 100)]
    handed += [chat(f"ciao {n}", "es") for n in range(20)]
    write(small / "labels.jsonl", *labels)
    write(small / "handed.jsonl", *handed)
    manifest(small / "labels.jsonl", task="aa", task_file="/tasks/mine.yaml", model="team/teacher")
    return small


def command(folder, train_file, output_dir, *flags):
    """The flags of a run of the small student."""
    line = ["--model_name", folder / "base", "--train_file", train_file, "--output_dir", output_dir]
    line += ["--use_cpu", "true", "--bf16", "false", "--lora_rank", 8, "--max_steps", 2]
    return [*line, "--save_strategy", "steps", "--save_steps", 1, *flags]


def test_what_is_wrong_in_the_files_is_one_line(folder, tmp_path):
    labels = folder / "labels.jsonl"
    handed = folder / "handed.jsonl"
    out = tmp_path / "out"
    said = fails("train_sft_trl.py", *command(folder, f"{labels},{handed}", out))
    assert f"{labels}:92 answers 'es' and {handed}:1 answers 'de' to the same input; 6 of" in said
    said = fails("train_sft_trl.py", *command(folder, f"{labels},{tmp_path}/none", out))
    assert f"train_sft_trl.py: {tmp_path}/none: no such file" in said
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(chat("uno", "it")) + '\n{"messages": 3}\n')
    said = fails("train_sft_trl.py", *command(folder, f"{labels},{bad}", out))
    assert f"train_sft_trl.py: {bad}:2: not chat format" in said
    line = command(folder, labels, out, "--on_conflict", "newest")
    assert "--on_conflict newest: must be last, first or drop" in fails("train_sft_trl.py", *line)
    assert not out.exists()


@pytest.fixture(scope="module")
def finished(folder):
    """A run on both files: (directory, process, the flag's value, further flags)."""
    both = f"{folder / 'labels.jsonl'},{folder / 'handed.jsonl'}"
    flags = ["--on_conflict", "last", "--calibration_fraction", 0.2]
    result = python("train_sft_trl.py", *command(folder, both, folder / "out", *flags))
    return folder / "out", result, both, flags


def test_several_files_are_counted_apart(folder, finished):
    out, result, both, _ = finished
    labels, handed = both.split(",")
    kept = read_jsonl(out / CALIBRATION_ROWS)
    rows = last_json(result)["rows"]
    assert rows == 100 + 29 - 6 - len(kept)
    said = result.stderr
    counts = re.search(rf"\.py: (\d+) rows of {labels} and (\d+) of {handed}, student", said)
    assert int(counts[1]) + int(counts[2]) == rows
    counts = re.search(rf"(\d+) more rows of {labels} and (\d+) of {handed} are kept away", said)
    assert int(counts[1]) + int(counts[2]) == len(kept)
    assert "--on_conflict last: 6 rows of 6 inputs with more than one answer are left out" in said
    assert f"    {labels}:92 answers 'es', {handed}:1 answers 'de'\n" in said
    assert "3 rows have input and answer of a row in an earlier file; all of them stay" in said
    assert "inputs of the train file have more than one answer" not in said
    # what was left out is not kept for calibration either
    texts = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in kept}
    assert all(texts.get(f"hola {n}", "de") == "de" for n in range(91, 100))
    # task and next step are those of the file that has a manifest
    results = json.loads((out / "results.json").read_text())
    assert (results["task_file"], results["task_hash"]) == ("/tasks/mine.yaml", "aa")
    assert "--teacher_model team/teacher" in said
    run = json.loads((out / "run.json").read_text())
    hashes = [sha256((folder / name).read_bytes()).hexdigest() for name in run["train_files"]]
    assert run["train_files"] == ["labels.jsonl", "handed.jsonl"]
    assert run["train_sha256"] == ",".join(hashes) and run["on_conflict"] == "last"
    card = (out / "README.md").read_text()
    assert f"Training data: sha256 `{hashes[0]}`, `{hashes[1]}`, {rows} rows." in card


def test_a_run_goes_on_with_the_same_files_alone(folder, finished, tmp_path):
    """As a kill after its first step leaves it; what has been handed over since is another run."""
    whole, _, both, flags = finished
    stopped = tmp_path / "stopped"
    shutil.copytree(whole / "checkpoint-1", stopped / "checkpoint-1")
    shutil.copy(whole / "run.json", stopped)
    labels, handed = both.split(",")
    grown = tmp_path / "handed.jsonl"
    grown.write_text((folder / "handed.jsonl").read_text() + json.dumps(chat("nuovo", "es")) + "\n")
    for train_file, said in {
        f"{labels},{grown}": "begun with other rows in handed.jsonl of --train_file (",
        f"{handed},{labels}": "begun with the files of --train_file in another order (",
        labels: "begun with another number of files in --train_file (",
    }.items():
        line = command(folder, train_file, stopped, *flags)
        assert said in fails("train_sft_trl.py", *line)
    line = command(folder, both, stopped, *flags, "--on_conflict", "first")
    assert "begun with on_conflict last, now first" in fails("train_sft_trl.py", *line)
    moved = shutil.copy(labels, tmp_path / "moved.jsonl")
    result = python("train_sft_trl.py", *command(folder, f"{moved},{handed}", stopped, *flags))
    assert f"resuming from {stopped / 'checkpoint-1'}" in result.stderr
    assert (stopped / CALIBRATION_ROWS).read_bytes() == (whole / CALIBRATION_ROWS).read_bytes()
