"""Step 1 as a user runs it: bad flags and files, free answers, its help."""

import json

import pytest

from helpers import ROOT, fails, last_json, python, read_jsonl


@pytest.fixture(scope="module")
def notices(tmp_path_factory):
    """Step 1 of a task without labels, with a teacher that does not think, a real instruct model:
    (flags, output file, JSON line).
    """
    python("example-data/tickets/get_student.py")
    flags = [
        "--model_name",
        ROOT / "models" / "smollm2",
        "--task",
        ROOT / "example-data" / "plain_words.yaml",
    ]
    source = ROOT / "example-data" / "notices.txt"
    output = tmp_path_factory.mktemp("notices") / "out.jsonl"
    flags += [
        "--input_file",
        source,
        "--output_file",
        output,
        "--max_tokens",
        120,
        "--max_retries",
        6,
        "--limit",
        5,
        "--max_model_len",
        2048,
    ]
    return flags, output, last_json(python("create_data.py", *flags, "--reasoning_parser", "none"))


@pytest.mark.slow
def test_a_teacher_that_does_not_think_is_refused_until_it_is_said(notices, tmp_path):
    flags = [*notices[0], "--output_file", tmp_path / "other.jsonl"]
    assert "--reasoning_parser none" in fails("create_data.py", *flags)  # it has no </think>


@pytest.mark.slow
def test_free_answers_of_a_real_instruct_model(notices):
    """Everything it writes is the answer."""
    _, output, summary = notices
    assert summary["rows"] == summary["accepted"] == 5
    answers = [row["messages"][1]["content"] for row in read_jsonl(output)]
    assert len(set(answers)) == 5 and all(answer and answer.strip() == answer for answer in answers)
    assert max(map(len, answers)) > 100  # whole sentences; some of so small a model's are short
    facts = [
        ("30 cm",),
        ("library", "14 June"),
        ("Friday", "16:00"),
        ("fire", "building"),
        ("Hartwell", "platform 7"),
    ]
    hits = sum(
        any(word in answer for word in words) for answer, words in zip(answers, facts, strict=True)
    )
    assert hits >= 3, answers  # it is a small model, but it answers what it was asked
    manifest = json.loads(output.with_name("out.jsonl.manifest.json").read_text())
    assert manifest["label_counts"] == {} and manifest["reasoning_parser"] == "none"


@pytest.mark.slow
def test_free_answers_are_evaluated_as_text(notices, tmp_path):
    """The student's base is the same model here, which decodes greedily.

    Its answer to the first row, with which latency is measured, is short.
    """
    output = notices[1]
    rows = output.read_text(encoding="utf-8").splitlines(keepends=True)
    two = tmp_path / "two.jsonl"
    two.write_text(rows[3] + rows[2], encoding="utf-8")
    flags = [
        "--task",
        ROOT / "example-data" / "plain_words.yaml",
        "--test_file",
        two,
        "--teacher_answers",
        output,
    ]
    flags += [
        "--systems",
        "teacher,base_prompt",
        "--student_model",
        ROOT / "models" / "smollm2",
        "--latency_rows",
        1,
    ]
    flags += ["--report_dir", tmp_path / "report", "--max_tokens", 150]
    flags += ["--max_model_len", 2048]
    assert last_json(python("evaluate.py", *flags))["teacher_accuracy"] == 1
    systems = json.loads((tmp_path / "report" / "metrics.json").read_text())["systems"]
    assert systems["teacher"]["token_f1"] == systems["teacher"]["exact_match"] == 1
    base = systems["base_prompt"]
    assert (
        base["rows"] == 2 and 0.1 < base["token_f1"] < 1 and base["exact_match"] <= base["token_f1"]
    )
    assert "token-F1" in (tmp_path / "report" / "report.md").read_text()


BAD_FLAGS = {
    "missing input": (["--input_file", "/nowhere.txt"], "/nowhere.txt"),
    "input is a directory": (["--input_file", "/tmp"], "/tmp: Is a directory"),
    "missing task": (["--task", "/nowhere.yaml"], "/nowhere.yaml"),
    "missing model": (["--model_name", "./no-model"], "./no-model"),
    "bad shard": (["--shard", "2/2"], "--shard 2/2"),
    "shard without slash": (["--shard", "1"], "--shard 1"),
    "negative shard": (["--shard", "-1/2"], "--shard"),
    "overwrite with shards": (
        ["--shard", "0/2", "--overwrite"],
        "--overwrite does not go with --shard",
    ),
    "negative retries": (["--max_retries", "-1"], "--max_retries"),
    "no tokens": (["--max_tokens", "0"], "--max_tokens"),
    "half a token": (["--max_tokens", "1.5"], "--max_tokens"),
    "negative limit": (["--limit", "-1"], "--limit"),
    "negative temperature": (["--temperature", "-0.1"], "--temperature"),
    "temperature is not a number": (["--temperature", "nan"], "--temperature"),
    "temperature in words": (["--temperature", "warm"], "--temperature"),
    "no GPU": (["--tensor_parallel_size", "0"], "--tensor_parallel_size"),
    "unknown mode": (["--structured_outputs", "sometimes"], "--structured_outputs"),
    "budget too large": (["--thinking_token_budget", "4096"], "--thinking_token_budget"),
    "no samples": (["--num_samples", "0"], "--num_samples"),
    "one repeat is no loop": (["--max_repeats", "1"], "--max_repeats 1"),
    "samples without temperature": (
        ["--num_samples", "3", "--temperature", "0"],
        "raise the temperature",
    ),
    "agreement above one": (["--min_agreement", "2"], "--min_agreement"),
    "success rate in percent": (["--min_success_rate", "95"], "--min_success_rate"),
    "flag without value": (["--input_file"], "--input_file"),
    "output in a file": (
        ["--output_file", "/dev/null/out.jsonl"],
        "cannot be written below /dev/null",
    ),
    "output is a directory": (["--output_file", "/tmp"], "/tmp: is a directory"),
    "output that step 2 would unpack": (
        ["--output_file", "out.jsonl.gz"],
        "out.jsonl.gz: chats are written as text; choose a --output_file such as x.jsonl",
    ),
    "output that step 2 does not read": (["--output_file", "out.xlsx"], "chats are written as"),
    "broken model": ([], "no tokenizer"),
}


@pytest.mark.parametrize(("flags", "named"), BAD_FLAGS.values(), ids=BAD_FLAGS)
def test_bad_flags_are_refused(flags, named, tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("hola\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    defaults = [
        "--input_file",
        source,
        "--output_file",
        tmp_path / "out.jsonl",
        "--model_name",
        tmp_path / "model",
    ]
    assert named in fails("create_data.py", *defaults, *flags)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.txt", "model"]


BAD_FILES = {
    "empty": ("in.txt", b"", "in.txt: no inputs"),
    "blank lines": ("in.txt", b"\n \n", "in.txt: no inputs"),
    "not UTF-8": ("in.txt", b"a\n\xff\n", "in.txt:2: not UTF-8"),
    "UTF-16": ("in.txt", "a\nb\n".encode("utf-16"), "in.txt:1: not UTF-8"),
    "no JSON": ("in.jsonl", b'{"text": "a"}\nhola\n', "in.jsonl:2: not JSON"),
    "cut JSON": ("in.jsonl", b'{"text": "a"}\n{"text": "b', "in.jsonl:2: not JSON"),
    "a list": ("in.jsonl", b'["a"]\n', "in.jsonl:1: not chat format"),
    "no text": ("in.jsonl", b'{"sentence": "a"}\n', "in.jsonl:1: not chat format"),
    "text is a number": ("in.jsonl", b'{"text": 7}\n', "in.jsonl:1: not chat format"),
    "empty text": ("in.jsonl", b'{"text": " "}\n', "in.jsonl:1: the last message"),
    "no messages": ("in.jsonl", b'{"messages": []}\n', "in.jsonl:1: not chat format"),
    "ends with an answer": (
        "in.jsonl",
        b'{"messages": [{"role": "assistant", "content": "a"}]}',
        "in.jsonl:1: the last",
    ),
    "unknown role": (
        "in.jsonl",
        b'{"messages": [{"role": "human", "content": "a"}]}',
        "in.jsonl:1: unknown role",
    ),
    "image": (
        "in.jsonl",
        b'{"messages": [{"role": "user", "content": [{}]}]}',
        "in.jsonl:1: not chat format",
    ),
    "half a surrogate": (
        "in.jsonl",
        b'{"text": "\\ud83d"}',
        "in.jsonl:1: holds half of a surrogate pair",
    ),
}


@pytest.mark.parametrize(("name", "content", "named"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files_are_refused(name, content, named, tmp_path):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "config.json").write_text("{}")
    flags = [
        "--input_file",
        tmp_path / name,
        "--output_file",
        tmp_path / "out.jsonl",
        "--model_name",
        tmp_path,
    ]
    assert named in fails("create_data.py", *flags)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_unknown_flag_deletes_nothing(tmp_path):
    source = tmp_path / "in.txt"
    output = tmp_path / "out.jsonl"
    source.write_text("hola\n")
    output.write_text("finished\n")
    flags = [
        "--input_file",
        source,
        "--output_file",
        output,
        "--overwrite",
        "--reasoning_parser",
        "none",
    ]
    assert "no-such-flag" in fails("create_data.py", *flags, "--no-such-flag", "3")
    assert output.read_text() == "finished\n"
