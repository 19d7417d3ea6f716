"""Going round again without a model: what is kept, what is asked, what is refused, and that nothing
is lost.
"""

import json
import logging
import threading
from contextlib import ExitStack
from itertools import count

import pytest

from distill.labels import reuse
from distill.labels.journal import Journal
from distill.labels.run import begin
from distill.locks import OutputLock, journals_of
from helpers import fails, last_json, python, read_jsonl
from list_teacher import NOTHING, says
from rounds import TASK, Rounds

AB = {"a": [says("en")], "b": [says("fr")]}
C = {"c": [says("de")]}
FINISHED = ["out.jsonl", "out.jsonl.manifest.json", "out.jsonl.rejected.jsonl"]
JOURNAL = "out.jsonl.trace.jsonl"


@pytest.fixture
def rounds(tmp_path):
    """Two inputs, a and b, that are labelled."""
    rounds = Rounds(tmp_path)
    rounds.write_inputs("a", "b")
    assert rounds.go(AB) == ["a", "b"]
    return rounds


def last_line(capsys):
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_further_fewer_and_reordered_inputs(rounds, capsys):
    rounds.write_inputs("c", "b", "a", "b")
    with pytest.raises(ValueError, match="finished, but the inputs have changed; --reuse same"):
        rounds.go({})
    assert rounds.answers() == [("a", "en"), ("b", "fr")]
    assert rounds.go(C, "--reuse", "same") == ["c"]
    both = [("c", "de"), ("b", "fr"), ("a", "en"), ("b", "fr")]
    assert rounds.answers() == both
    summary = last_line(capsys)
    assert (summary["rows"], summary["asked"], summary["reused"]) == (4, 1, 2)
    # what is left out for one round is there for the next one
    assert rounds.go({}, "--reuse", "same", "--limit", 2) == []
    assert rounds.answers() == both[:2]
    assert rounds.go({}, "--reuse", "same") == []
    assert rounds.answers() == both
    assert rounds.files() == [*FINISHED, JOURNAL]


def test_the_same_command_again_writes_the_same_again(rounds):
    rounds.write_inputs("c", "b")
    assert rounds.go(C, "--reuse", "same") == ["c"]
    before = rounds.output.read_bytes()
    journal = (rounds.folder / JOURNAL).read_bytes()
    assert rounds.go({}, "--reuse", "same") == []
    assert (rounds.output.read_bytes(), (rounds.folder / JOURNAL).read_bytes()) == (before, journal)
    rounds.output.unlink()
    assert rounds.go({}) == []  # its journal is one of the run of today
    assert rounds.output.read_bytes() == before


def test_a_first_round_needs_no_other_flag(tmp_path):
    rounds = Rounds(tmp_path)
    rounds.write_inputs("a", "b")
    assert rounds.go(AB, "--reuse", "changed") == ["a", "b"]
    assert rounds.files() == [*FINISHED, JOURNAL]


def test_a_task_file_that_means_the_same(rounds):
    """A comment, another order of keys and of labels, another way to write the prompt."""
    rounds.write_inputs("a", "b", "c")
    rounds.output.unlink()
    rounds.dies({**AB, **C}, "--reuse", "same", after=0)
    rounds.task.write_text(
        "# the languages\nanswer: 'Answer: (.+)'\nlabels: [fr, de, en]\nprompt: |\n"
        "  Which language?\n"
    )
    assert rounds.go(C) == ["c"]  # without a flag too
    with pytest.raises(ValueError, match="exists and is finished; --overwrite replaces it"):
        rounds.go({})
    assert rounds.go({}, "--reuse", "same") == []
    assert rounds.go({}, "--skip_finished") == []


def test_a_journal_that_does_not_know_what_its_task_meant(rounds):
    """One of an older version: the same file continues, of another nobody knows what changed."""
    journal = rounds.folder / JOURNAL
    first, *rows = journal.read_text().splitlines(keepends=True)
    header = json.loads(first)
    del header["run"]["task_meaning"]
    journal.write_text("".join([json.dumps(header) + "\n", *rows]))
    rounds.write_inputs("b", "c")
    assert rounds.go(C, "--reuse", "same") == ["c"]
    journal.write_text("".join([json.dumps(header) + "\n", *rows]))
    rounds.output.unlink()
    rounds.task.write_text("# the languages\n" + rounds.task.read_text())
    with pytest.raises(ValueError, match=r"task file has changed, .* not recorded .*; --reuse cha"):
        rounds.go({}, "--reuse", "same")


def test_journals_of_shards_and_of_another_number_of_them(tmp_path):
    rounds = Rounds(tmp_path)
    rounds.write_inputs("c", "b", "a", "d")
    four = {**AB, **C, "d": [NOTHING, says("de")]}
    for shard, asked in (("0/2", ["c", "b"]), ("1/2", ["a", "d", "d"])):
        assert rounds.go(four, "--shard", shard) == asked
    assert len(journals_of(rounds.output)) == 2
    assert rounds.go({}) == []  # one process, and all inputs
    rounds.write_inputs("d", "e", "c", "f")
    more = {"e": [says("en")], "f": [says("fr")]}
    for shard, asked in (("0/4", []), ("1/4", ["e"]), ("2/4", []), ("3/4", ["f"])):
        assert rounds.go(more, "--shard", shard, "--reuse", "same") == asked, shard
    assert rounds.go({}, "--reuse", "same") == []
    assert rounds.answers() == [("d", "de"), ("e", "en"), ("c", "de"), ("f", "fr")]


def test_what_a_kill_leaves_of_shards_is_no_obstacle(tmp_path):
    """Between the new journal and the end of the old ones."""
    rounds = Rounds(tmp_path)
    rounds.write_inputs("a", "b")
    rounds.go(AB, "--shard", "0/2")
    rounds.go(AB, "--shard", "1/2")
    rounds.go({})
    old = tmp_path / "out.jsonl.trace-0of2.jsonl"
    lines = old.read_bytes()
    now = {"a": [says("de")], "b": [says("fr")]}
    rounds.write_task(prompt="Name it.")
    rounds.dies(now, "--reuse", "changed", after=1)
    old.write_bytes(lines)
    assert rounds.go({"b": now["b"]}, "--reuse", "changed") == ["b"]
    assert rounds.answers() == [("a", "de"), ("b", "fr")]
    [flip] = read_jsonl(tmp_path / "out.jsonl.flips.jsonl")
    assert (flip["before"], flip["now"]) == ("en", "de")


@pytest.mark.parametrize("step", ["write", "keep", "replace"])
def test_a_disk_that_is_full_meanwhile(rounds, monkeypatch, step):
    def full(*_):
        raise OSError(28, "No space left on device")

    where = {
        "write": (reuse, "write_line"),
        "keep": (reuse, "keep"),
        "replace": (OutputLock, "replace_own"),
    }
    before = {name: (rounds.folder / name).read_bytes() for name in rounds.files()}
    rounds.write_task(prompt="Name it.")
    with monkeypatch.context() as broken:
        broken.setattr(*where[step], full)
        with pytest.raises(OSError, match="No space left"):
            rounds.go(AB, "--reuse", "changed")
    found = set(rounds.files()) - {"out.jsonl.previous-1.jsonl"}
    assert {name: (rounds.folder / name).read_bytes() for name in found} == before
    assert rounds.go(AB, "--reuse", "changed") == ["a", "b"]


def test_shards_that_start_at_once_take_turns(rounds, monkeypatch):
    monkeypatch.setattr(reuse, "LOOK_EVERY", 0.001)
    rounds.write_inputs(*"abcdefgh")
    together = threading.Barrier(8)
    at_work = threading.Barrier(8)
    found = {}

    def shard(number):
        choices = rounds.choices("--reuse", "same", "--shard", f"{number}/8")
        with ExitStack() as at_end:
            together.wait()
            run = begin(choices, at_end)
            found[number] = (run.asked, run.reused)
            at_work.wait(60)  # each holds its own journal while the others hold theirs
            with pytest.raises(ValueError, match="another run is writing it"):
                OutputLock(rounds.output).__enter__()

    threads = [threading.Thread(target=shard, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: (int(number > 1), 2) for number in range(8)}
    assert rounds.files() == [*FINISHED, JOURNAL]
    records = [row for row in read_jsonl(rounds.folder / JOURNAL) if "index" in row]
    assert [row["index"] for row in records] == [0, 1]


class Heard(logging.Handler):
    """Sets an event when some words are logged."""

    def __init__(self, words):
        super().__init__()
        self.words = words
        self.event = threading.Event()

    def emit(self, record):
        if self.words in record.getMessage():
            self.event.set()


@pytest.fixture
def waits(caplog):
    """Set when step 1 says that it waits."""
    caplog.set_level("INFO")
    handler = Heard("waits for another run")
    logging.getLogger("create_data").addHandler(handler)
    yield handler.event
    logging.getLogger("create_data").removeHandler(handler)


def test_a_shard_waits_as_long_as_another_makes_the_journals_theirs(rounds, waits, monkeypatch):
    """Which takes minutes where they are large; for any other run it waits for a while.

    So it does where a killed run has left a journal that nobody writes.
    """
    monkeypatch.setattr(reuse, "TURN_WITHIN", 0.0)
    monkeypatch.setattr(reuse, "LOOK_EVERY", 0.001)
    rounds.write_inputs("a", "b", "c")
    choices = rounds.choices("--reuse", "same", "--shard", "1/2")
    refused = pytest.raises(ValueError, match="another run is writing it")
    left = rounds.folder / f"{JOURNAL}.tmp"
    left.write_text('{"run"')
    with OutputLock(rounds.output), ExitStack() as at_end, refused:
        begin(choices, at_end)
    waits.clear()
    found = []
    sizes = count(1)
    monkeypatch.setattr(reuse, "size_of", lambda path: next(sizes))

    def shard():
        with ExitStack() as at_end:
            found.append(begin(choices, at_end).asked)

    thread = threading.Thread(target=shard)
    with OutputLock(rounds.output):
        thread.start()
        assert waits.wait(60) and not found
    thread.join()
    assert found == [1] and rounds.files() == [*FINISHED, JOURNAL]


OTHERS = {
    "prompt": ({"prompt": "Name the language."}, [], "the prompt has changed"),
    "sampling": ({}, ["--temperature", 0.6], "--temperature was 0.15, is 0.6"),
    "revision": ({}, ["--revision", "v2"], "--revision was not given, is v2"),
    "prompt and labels": (
        {"prompt": "Name it.", "labels": ["en", "fr"]},
        [],
        "the prompt has changed and the labels have changed",
    ),
}


@pytest.mark.parametrize(("keys", "flags", "words"), OTHERS.values(), ids=OTHERS)
def test_what_may_change_answers_is_asked_anew(rounds, keys, flags, words, capsys, caplog):
    old = (rounds.folder / JOURNAL).read_bytes()
    before = {name: (rounds.folder / name).read_bytes() for name in rounds.files()}
    rounds.write_task(**keys)
    for more in ([], ["--reuse", "same"], ["--skip_finished"]):
        with pytest.raises(ValueError) as error:
            rounds.go({}, *flags, *more)
        assert words in str(error.value) and "--reuse changed asks all anew" in str(error.value)
        assert "\n" not in str(error.value)
    assert {name: (rounds.folder / name).read_bytes() for name in rounds.files()} == before
    now = {"a": [says("en")], "b": [says("en")]}
    caplog.set_level("INFO")
    assert rounds.go(now, *flags, "--reuse", "changed") == ["a", "b"]
    assert rounds.answers() == [("a", "en"), ("b", "en")]
    assert (rounds.folder / "out.jsonl.previous-1.jsonl").read_bytes().startswith(old)
    [flip] = read_jsonl(rounds.folder / "out.jsonl.flips.jsonl")
    messages = [{"role": "user", "content": "b"}]
    assert flip == {"index": 1, "messages": messages, "before": "fr", "now": "en"}
    summary = last_line(capsys)
    assert (summary["compared"], summary["changed"], summary["changed_share"]) == (2, 1, 0.5)
    low, high = summary["changed_interval"]
    assert 0.09 < low < 0.1 and 0.9 < high < 0.91
    assert "1 of 2 labels have changed (50.0 %, 95 % interval 9.5 % to 90.5 %)" in caplog.text
    assert "      1  fr -> en" in caplog.text
    manifest = json.loads((rounds.folder / "out.jsonl.manifest.json").read_text())
    assert manifest["compared_with"] == "out.jsonl.previous-1.jsonl" and manifest["changed"] == 1


def test_other_weights_in_the_same_directory_are_another_teacher(tmp_path):
    """Stopped half way and finished; what older code has begun goes on."""
    rounds = Rounds(tmp_path)
    rounds.write_inputs("a", "b")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one teacher")
    rounds.dies(AB, after=1)
    weights.write_bytes(b"two teachers")
    said = "the weights in the directory of --model_name have changed; --reuse changed asks all"
    for more in ([], ["--skip_finished"], ["--dry_run"]):
        with pytest.raises(ValueError, match=said):
            rounds.go(AB, *more)
    weights.write_bytes(b"one teacher")
    assert rounds.go(AB) == ["b"]
    weights.write_bytes(b"two teachers")
    with pytest.raises(ValueError, match=f"finished, but {said}"):
        rounds.go(AB, "--skip_finished")
    assert rounds.go(AB, "--reuse", "changed") == ["a", "b"]

    journal = tmp_path / JOURNAL
    records = read_jsonl(journal)
    for record in records:
        record.get("run", {}).pop("weights", None)
    journal.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    for path in (rounds.output, tmp_path / "out.jsonl.manifest.json"):
        path.unlink()
    assert rounds.go({}) == []


def test_nothing_is_lost_when_a_round_is_killed(rounds, capsys):
    output = rounds.output.read_bytes()
    rounds.write_task(prompt="Name it.")
    now = {"a": [says("en")], "b": [NOTHING, says("de")]}
    rounds.dies(now, "--reuse", "changed", after=0)
    rounds.dies(now, "--reuse", "changed", after=1)
    assert rounds.output.read_bytes() == output
    journals = [path.name for path in journals_of(rounds.output)]
    assert journals == [JOURNAL] and "out.jsonl.previous-1.jsonl" in rounds.files()
    # another change meanwhile: the labels are still compared with those of the output
    rounds.write_task(prompt="Name the language.")
    rounds.dies(now, "--reuse", "changed", after=1)
    assert rounds.output.read_bytes() == output and "out.jsonl.flips.jsonl" not in rounds.files()
    assert rounds.go({"b": now["b"]}, "--reuse", "changed") == ["b", "b"]
    summary = last_line(capsys)
    assert (summary["asked"], summary["compared"], summary["changed"]) == (1, 2, 1)
    manifest = json.loads((rounds.folder / "out.jsonl.manifest.json").read_text())
    assert manifest["compared_with"] == "out.jsonl.previous-1.jsonl"
    # a round in which answers cannot change keeps the comparison
    rounds.write_inputs("b")
    assert rounds.go({}, "--reuse", "same") == []
    [flip] = read_jsonl(rounds.folder / "out.jsonl.flips.jsonl")
    assert (flip["index"], flip["before"], flip["now"]) == (0, "fr", "de")


def test_a_manifest_does_not_stand_beside_the_rows_of_another_round(rounds, monkeypatch):
    """A run that is killed before its manifest is written writes its outputs again."""

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "_manifest", killed)
    rounds.write_task(prompt="Another one?")
    with pytest.raises(KeyboardInterrupt):
        rounds.go({"a": [says("fr")], "b": [says("fr")]}, "--reuse", "changed")
    monkeypatch.undo()
    manifest = rounds.output.with_name("out.jsonl.manifest.json")
    assert rounds.output.exists() and not manifest.exists()
    assert rounds.go({}, "--reuse", "changed") == []
    assert json.loads(manifest.read_text())["accepted"] == len(read_jsonl(rounds.output))
    assert {row["messages"][-1]["content"] for row in read_jsonl(rounds.output)} == {"fr"}


def test_an_output_without_its_manifest_is_written_again(rounds):
    rounds.output.with_name("out.jsonl.manifest.json").unlink()
    before = rounds.output.read_text()
    assert rounds.go({}) == []
    assert rounds.output.read_text() == before
    assert rounds.output.with_name("out.jsonl.manifest.json").exists()


def test_a_teacher_that_cannot_start_has_changed_nothing(rounds):
    """What --reuse does to files is done when the teacher stands; until then all can go back."""
    rounds.write_task(prompt="Name it.")
    before = rounds.files()
    with ExitStack() as at_end:
        run = begin(rounds.choices("--reuse", "changed"), at_end)
        assert run.asked == 2
    assert rounds.files() == before
    rounds.write_task()
    assert rounds.go({}, "--reuse", "same", "--limit", 1) == []


def test_back_to_the_task_of_the_output(rounds):
    """Its rows are not asked again only because another round was begun meanwhile."""
    rounds.write_task(prompt="Name it.")
    rounds.dies(AB, "--reuse", "changed", after=1)
    rounds.write_task()
    assert rounds.go({}, "--reuse", "changed") == []
    rounds.write_task(prompt="Name it.")
    assert rounds.go({"b": AB["b"]}, "--reuse", "changed") == ["b"]


def test_labels_that_were_added_are_read_in_what_is_there(rounds, capsys):
    """c said nl at once, d only had the choice of the old labels after it had failed."""
    rounds.write_inputs("a", "b", "c", "d")
    nl = says("nl")
    responses = {"c": [nl, says("de")], "d": [NOTHING, says("de")]}
    assert rounds.go(responses, "--reuse", "same") == ["c", "c", "d", "d"]
    assert rounds.answers()[2:] == [("c", "de"), ("d", "de")]
    rounds.write_task(labels=["en", "fr", "de", "nl"])
    with pytest.raises(ValueError, match="but the labels have changed; --reuse same keeps"):
        rounds.go({})
    assert rounds.go({"d": [nl]}, "--reuse", "same") == ["d"]
    assert rounds.answers() == [("a", "en"), ("b", "fr"), ("c", "nl"), ("d", "nl")]
    summary = last_line(capsys)
    assert (summary["reused"], summary["compared"], summary["changed"]) == (3, 4, 2)
    kept = read_jsonl_lines(rounds.folder / "out.jsonl.previous-1.jsonl")
    assert sum(len(row.get("attempts", [])) for row in kept) == 6


def read_jsonl_lines(path):
    """JSON lines, of which some may be blank."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def test_ids_are_those_of_the_inputs(rounds):
    table = rounds.folder / "in.csv"
    table.write_text("nr,text\n007,b\nNA,a\n")
    flags = ["--input_file", table, "--text_column", "text", "--id_column", "nr"]
    assert rounds.go({}, *flags, "--reuse", "same") == []
    assert [row["id"] for row in read_jsonl(rounds.output)] == ["007", "NA"]
    table.write_text("nr,text\n1,b\n2,a\n")
    with pytest.raises(ValueError, match="with other ids than those of the inputs; --reuse same"):
        rounds.go({}, *flags)
    assert rounds.go({}, *flags, "--reuse", "same", "--skip_finished") == []
    assert [row["id"] for row in read_jsonl(rounds.output)] == ["1", "2"]
    rounds.write_task(prompt="Name it.")
    rounds.go({"a": [says("de")], "b": [says("fr")]}, *flags, "--reuse", "changed")
    [flip] = read_jsonl(rounds.folder / "out.jsonl.flips.jsonl")
    assert (flip["index"], flip["id"], flip["before"], flip["now"]) == (1, "2", "en", "de")


def test_seconds_of_earlier_rounds_count(rounds):
    def seconds():
        journal = rounds.folder / "out.jsonl.manifest.json"
        return json.loads(journal.read_text())["seconds"]

    journal = rounds.folder / JOURNAL
    lines = read_jsonl(journal)
    lines[-1]["seconds"] = 7.0
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rounds.write_inputs("b", "a")
    for _ in range(2):
        rounds.go({}, "--reuse", "same")
        assert seconds() == 7.0
    rounds.write_inputs("b")
    rounds.go({}, "--reuse", "same")
    assert seconds() == 7.0


def test_an_output_without_a_journal_cannot_be_reused(rounds):
    (rounds.folder / JOURNAL).unlink()
    rounds.write_inputs("a")
    for flags in ([], ["--reuse", "same"], ["--reuse", "changed"]):
        with pytest.raises(ValueError, match="; --overwrite starts afresh"):
            rounds.go({}, *flags)
    assert rounds.answers() == [("a", "en"), ("b", "fr")]


def test_a_journal_that_is_gone_is_said(rounds, caplog):
    rounds.write_task(prompt="Name it.")
    rounds.dies(AB, "--reuse", "changed", after=1)
    (rounds.folder / "out.jsonl.previous-1.jsonl").unlink()
    assert rounds.go({"b": AB["b"]}, "--reuse", "changed") == ["b"]
    assert "previous-1.jsonl is gone" in caplog.text


def test_overwrite_takes_the_list_of_changes_with_it(rounds):
    rounds.write_task(prompt="Name it.")
    rounds.go({"a": [says("fr")], "b": [says("fr")]}, "--reuse", "changed")
    assert "out.jsonl.flips.jsonl" in rounds.files()
    assert rounds.go(AB, "--overwrite") == ["a", "b"]
    previous = "out.jsonl.previous-1.jsonl"
    assert rounds.files() == sorted([*FINISHED, previous, JOURNAL])


def flags_of(rounds):
    paths = ["--input_file", rounds.source, "--output_file", rounds.output]
    return [*paths, "--task", rounds.task, "--model_name", "some/teacher"]


def test_the_script_says_what_it_would_reuse(tmp_path):
    """A dry run, and flags that contradict each other."""
    rounds = Rounds(tmp_path)
    rounds.write_inputs("a", "b")
    assert rounds.go(AB, "--model_name", "some/teacher") == ["a", "b"]
    flags = flags_of(rounds)
    rounds.write_inputs("a", "c", "b")
    before = {name: (tmp_path / name).read_bytes() for name in rounds.files()}
    assert "--reuse same keeps" in fails("create_data.py", *flags, "--dry_run")
    result = python("create_data.py", *flags, "--dry_run", "--reuse", "same")
    summary = last_json(result)
    assert (summary["inputs"], summary["reused"], summary["asked"]) == (3, 2, 1)
    assert "since the last run the inputs have changed; 2 of its answers hold" in result.stdout
    rounds.write_task(prompt="Name it.")
    assert "--reuse changed" in fails("create_data.py", *flags, "--dry_run", "--reuse", "same")
    result = python("create_data.py", *flags, "--dry_run", "--reuse", "changed")
    assert (last_json(result)["reused"], last_json(result)["asked"]) == (0, 3)
    assert {name: (tmp_path / name).read_bytes() for name in rounds.files()} == before
    said = fails("create_data.py", *flags, "--overwrite", "--reuse", "same")
    assert "--overwrite and --reuse contradict each other" in said
    assert TASK["prompt"] not in rounds.task.read_text()
