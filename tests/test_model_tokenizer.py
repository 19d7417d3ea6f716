"""What is refused before a model is loaded: templates, thoughts, revisions, and that the revision
asked for is used.
"""

import json
import shutil
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from distill.evaluation.templates import try_templates
from distill.model_tokenizer import check_student_tokens, check_thinking, load_tokenizer
from distill.probes import check_probes, probe_tokens
from distill.revisions import check_loaded, resolve
from distill.task import Task
from distill.teacher.engine import engine_arguments
from distill.tokens import decode
from helpers import (
    ROOT,
    STUDENT,
    TEACHER,
    fails,
    in_fork,
    last_json,
    program,
    read_jsonl,
    run,
    trace,
)
from hub_cache import commit_of, make_hub_cache
from small_tokenizers import CHATML, DROPS, make_tokenizer, save_model, system, template

ALTERNATING = (
    "{% for m in messages | rejectattr('role', 'equalto', 'system') %}"
    "{% if (m.role == 'user') == (loop.index0 % 2) %}"
    "{{ raise_exception('user and assistant must take turns') }}{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}"
    "{{ raise_exception('no system messages here') }}{% endif %}"
)
NOT_THINKING = CHATML.replace("<think>\\n", "")


THOUGHTS = ("<think>", "</think>")
NONE = ("--reasoning_parser", "none")
BAD_TEACHERS = {
    "drops the prompt": (
        {"chat_template": DROPS},
        (),
        "its chat template drops the system message",
    ),
    "drops it, no thoughts": (
        {"chat_template": DROPS.replace("<think>\\n", "")},
        NONE,
        "its chat template drops the system message",
    ),
    "refuses the prompt": (
        {"chat_template": NO_SYSTEM + CHATML},
        (),
        "refuses the chat (no system messages here)",
    ),
    "no template": ({"chat_template": None}, (), "the tokenizer has no chat template"),
    "no template, no thoughts": (
        {"chat_template": None},
        NONE,
        "the tokenizer has no chat template",
    ),
    "</think> of several tokens": (
        {"chat_template": CHATML, "forget": THOUGHTS},
        (),
        "its </think> is several tokens, where no guard can follow; add --structured_outputs never",
    ),
    "no </think>": (
        {"chat_template": NOT_THINKING, "forget": THOUGHTS},
        (),
        "has no </think>; if it does not think add --reasoning_parser none",
    ),
    "opens a thought": (
        {"chat_template": CHATML},
        NONE,
        "its template opens a thought; --reasoning_parser must name",
    ),
    "revision of a directory": (
        {"chat_template": CHATML},
        ("--revision", "v2"),
        "is a directory; only a model on the hub has revisions",
    ),
}


@pytest.mark.parametrize(("model", "flags", "named"), BAD_TEACHERS.values(), ids=BAD_TEACHERS)
def test_a_teacher_that_cannot_be_asked_is_refused(model, flags, named, tmp_path):
    """In one line, before a model is loaded; and a thought never becomes an answer by following the
    line's advice.
    """
    folder = save_model(tmp_path / "model", **model)
    source = tmp_path / "in.txt"
    output = tmp_path / "out.jsonl"
    source.write_text("hola\n")
    said = fails(
        "create_data.py",
        "--model_name",
        folder,
        "--input_file",
        source,
        "--output_file",
        output,
        *flags,
    )
    assert named in said and str(folder) in said
    if "several tokens" in named:
        assert "none" not in said
    assert not output.exists()


def test_several_tokens_can_be_read_without_a_guard(tmp_path):
    tokenizer = load_tokenizer(str(save_model(tmp_path / "several", CHATML, THOUGHTS)))
    assert check_thinking("m", tokenizer, True, "never") is False  # vLLM's parser could not follow
    assert (
        check_thinking(
            "m", load_tokenizer(str(save_model(tmp_path / "one", CHATML))), True, "retry"
        )
        is True
    )


def test_a_special_end_of_thought_stays_in_the_text():
    """skip_special_tokens would leave it out, and with it the place where the answer begins."""
    tokenizer = make_tokenizer("byte level")
    ids = tokenizer("<think>A</think>text<|im_end|>", add_special_tokens=False)["input_ids"]
    assert decode(tokenizer, ids) == "<think>A</think>text"
    tokenizer.add_special_tokens({"additional_special_tokens": list(THOUGHTS)})
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Atext"
    special = byte_level_with_special_thoughts()
    ids = special("<think>A</think>text<|im_end|>", add_special_tokens=False)["input_ids"]
    assert decode(special, ids) == "<think>A</think>text"


def byte_level_with_special_thoughts():
    tokenizer = make_tokenizer("byte level")
    tokenizer.add_special_tokens({"additional_special_tokens": list(THOUGHTS)})
    return tokenizer


# step 2


def test_step_2_names_the_row_that_a_template_refuses(tmp_path):
    student = save_model(tmp_path / "student", ALTERNATING + NOT_THINKING)
    user, other, answer = (
        {"role": role, "content": "hola"} for role in ("user", "user", "assistant")
    )
    rows = [[user, answer], [user, other, answer], [user, answer]]
    train_file = tmp_path / "train.jsonl"
    train_file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    flags = ["--model_name", student, "--train_file", train_file, "--output_dir", tmp_path / "out"]
    said = fails("train_sft_trl.py", *flags, "--use_cpu", "true", "--bf16", "false")
    assert (
        f"{train_file}:2: the chat template refuses the chat (user and assistant must take turns)"
        in said
    )
    assert "--revision v2" in fails(
        "train_sft_trl.py", *flags, "--use_cpu", "true", "--revision", "v2"
    )
    assert not (tmp_path / "out").exists()


# step 3


def test_a_base_student_that_takes_no_prompt_is_left_out(tmp_path):
    good = save_model(tmp_path / "good", CHATML)
    dated = save_model(tmp_path / "dated", "{{ strftime_now('%Y') }}" + CHATML)
    refusing = save_model(tmp_path / "refusing", NO_SYSTEM + CHATML)
    dropping = save_model(tmp_path / "dropping", DROPS)
    common = (
        Task("Name the language.", (), "", ""),
        Counter({("user",): 3}),
        str(tmp_path / "no adapter"),
        [],
    )
    names = ("teacher", "base_prompt", "base", "student")
    assert try_templates([system(name, good) for name in names], *common) == ({}, [])
    assert try_templates([system(name, dated) for name in names], *common) == ({}, [str(dated)])
    students = [system("teacher", good), *(system(name, refusing) for name in names[1:])]
    does = f"{refusing}: its chat template refuses the chat (no system messages here)"
    assert try_templates(students, *common) == ({"base_prompt": does}, [])
    left_out, _ = try_templates([system("base_prompt", dropping)], *common)
    assert left_out == {"base_prompt": f"{dropping}: its chat template drops the system message"}
    for bad in (refusing, dropping):
        with pytest.raises(ValueError, match=f"^{bad}: its chat template"):
            try_templates([system("teacher", bad)], *common)


OTHER_TOKENS = {
    "another template": (NOT_THINKING, (), "plain text"),
    "a template that trims": (template(content="m.content | trim"), (), "white space"),
    "without white space": (CHATML, ("\n\n", "\n\n\n", "  ", "    "), "white space"),
    "without HTML": (CHATML, ("<table>", "</h1>"), "markup"),
    "without system messages": (NO_SYSTEM + CHATML, (), "a system message"),
}


@pytest.mark.parametrize(
    ("chat_template", "forget", "probe"), OTHER_TOKENS.values(), ids=OTHER_TOKENS
)
def test_other_tokens_than_trained_on_are_noticed(chat_template, forget, probe, tmp_path):
    adapter = tmp_path / "adapter"
    trained = load_tokenizer(str(save_model(adapter, CHATML)))
    student = save_model(tmp_path / "student", chat_template, forget)
    check_student_tokens(str(adapter), str(student), None)  # an old adapter has no run.json,
    (adapter / "run.json").write_text("{}")
    check_student_tokens(str(adapter), str(student), None)  # or one without probes
    (adapter / "run.json").write_text(json.dumps({"probe_tokens": probe_tokens(trained)}))
    check_probes(adapter, trained)
    with pytest.raises(
        ValueError,
        match=f"^{adapter}: was trained on other tokens .*{probe}.*--serve_adapter merged",
    ):
        check_student_tokens(str(adapter), str(student), None)


def test_probes_do_not_depend_on_the_day(tmp_path):
    dated = load_tokenizer(
        str(save_model(tmp_path / "dated", "{{ strftime_now('%d %H:%M:%S.%f') }}" + CHATML))
    )
    assert probe_tokens(dated) == probe_tokens(dated)
    plain = load_tokenizer(str(save_model(tmp_path / "plain", CHATML)))
    assert probe_tokens(dated)["plain text"] != probe_tokens(plain)["plain text"]


def test_all_steps_load_the_same_tokenizer_class(tmp_path):
    """Where Mistral's own files lie.

    Beside the usual ones, which vLLM and transformers would each read.
    """
    from vllm.tokenizers import get_tokenizer

    folder = save_model(tmp_path / "model", CHATML)
    (folder / "config.json").write_text('{"model_type": "mistral"}')
    (folder / "consolidated.safetensors").write_bytes(b"")
    (folder / "tekken.json").write_text("{}")
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.is_fast and tokenizer.chat_template == CHATML
    mode = engine_arguments(str(folder)).tokenizer_mode
    in_vllm = get_tokenizer(str(folder), tokenizer_mode=mode)
    assert probe_tokens(in_vllm) == probe_tokens(tokenizer)
    # if asked for
    assert (
        engine_arguments(str(folder), ["--tokenizer_mode", "mistral"]).tokenizer_mode == "mistral"
    )


# revisions


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A model in the hub's cache with the revisions main and v2, which have other templates."""
    revisions = {
        "main": save_model(tmp_path / "one", CHATML),
        "v2": save_model(tmp_path / "two", NO_SYSTEM + CHATML),
    }
    environment = make_hub_cache(tmp_path / "hub", "team/model", revisions)
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", environment["HF_HUB_CACHE"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return environment


def test_a_revision_is_a_commit(cached, tmp_path):
    assert resolve("team/model") == resolve("team/model", "main") == commit_of("main")
    assert resolve("team/model", "v2") == resolve("team/model", commit_of("v2")) == commit_of("v2")
    assert resolve(str(tmp_path)) is None
    with pytest.raises(
        ValueError,
        match="^team/model: --student_revision v3 is neither on the hub nor in its cache",
    ):
        resolve("team/model", "v3", "--student_revision")
    with pytest.raises(
        ValueError, match=f"^team/model: --revision {commit_of('v3')} is neither on the hub nor in"
    ):
        resolve("team/model", commit_of("v3"))
    with pytest.raises(ValueError, match="--revision v2: .* is a directory"):
        resolve(str(tmp_path), "v2")


@pytest.mark.parametrize("status", [401, 403, 429, 500])
def test_a_cached_model_does_where_the_hub_does_not_answer(status, tmp_path):
    """Such as with a token that has expired, or too many requests at once."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(status)

        do_HEAD = do_GET

    environment = make_hub_cache(
        tmp_path / "hub", "team/model", {"main": save_model(tmp_path / "one", CHATML)}
    )
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment.update(HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HUB_OFFLINE="0")
        result = run(*program("resolve_revision.py", "team/model"), env=environment)
        server.shutdown()
    assert result.stdout.strip() == commit_of("main")


def test_the_tokenizer_is_of_the_revision(cached):
    assert load_tokenizer("team/model", resolve("team/model")).chat_template == CHATML
    assert (
        load_tokenizer("team/model", resolve("team/model", "v2")).chat_template
        == NO_SYSTEM + CHATML
    )


def test_another_commit_than_asked_for_is_refused():
    class Config:
        _commit_hash = commit_of("main")

    check_loaded("team/model", commit_of("main"), Config)
    check_loaded("/a/directory", None, Config)
    with pytest.raises(
        ValueError,
        match=f"^team/model: commit {commit_of('main')} was loaded, not {commit_of('v2')}",
    ):
        check_loaded("team/model", commit_of("v2"), Config)


def test_step_1_tries_the_template_of_the_revision(cached, tmp_path):
    source = tmp_path / "in.txt"
    output = tmp_path / "out.jsonl"
    source.write_text("hola\n")
    flags = ["--model_name", "team/model", "--input_file", source, "--output_file", output]
    flags += ["--revision", "v2"]
    said = in_fork(ROOT / "create_data.py", *flags, environment=cached, code=2).stderr
    assert "no system messages here" in said and len(said.splitlines()) == 1


@pytest.mark.slow
def test_step_1_asks_the_revision_and_rejects_rows_that_do_not_fit(pair, tmp_path):
    """The revision v2 of a cached model: its template wants turns, and its tokenizer calls </think>
    special.
    """
    shutil.copytree(TEACHER, tmp_path / "v2")
    chat_template = tmp_path / "v2" / "chat_template.jinja"
    chat_template.write_text(ALTERNATING + chat_template.read_text())
    tokenizer = tmp_path / "v2" / "tokenizer.json"
    description = json.loads(tokenizer.read_text())
    for token in description["added_tokens"]:
        token["special"] = True
    tokenizer.write_text(json.dumps(description))
    environment = make_hub_cache(
        tmp_path / "hub", "team/teacher", {"main": STUDENT, "v2": tmp_path / "v2"}
    )

    gold = read_jsonl(ROOT / "example-data" / "multilingual_gold.jsonl")[:12]
    rows = [row["messages"][:1] for row in gold]
    rows[5:5] = [[{"role": "user", "content": text} for text in ("first part", "second part")]]
    source = tmp_path / "in.jsonl"
    output = tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    flags = [
        "--model_name",
        "team/teacher",
        "--revision",
        "v2",
        "--input_file",
        source,
        "--output_file",
        output,
    ]
    flags += ["--max_tokens", 256, "--min_success_rate", 0.9]
    summary = last_json(in_fork(ROOT / "create_data.py", *flags, environment=environment))
    assert (summary["rows"], summary["accepted"], summary["rejected"]) == (13, 12, 1)
    [rejected] = read_jsonl(tmp_path / "out.jsonl.rejected.jsonl")
    assert (rejected["index"], rejected["reason"]) == (5, "refused_by_template")
    answers = [row["messages"][-1]["content"] for row in read_jsonl(output)]
    assert sum(a == g["messages"][-1]["content"] for a, g in zip(answers, gold, strict=True)) >= 10
    first_attempts = [record["attempts"][0] for record in trace(output) if record["attempts"]]
    assert all("</think>" in attempt["response"] for attempt in first_attempts)
    assert all(
        0 < attempt["thinking_tokens"] < attempt["output_tokens"] for attempt in first_attempts
    )
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert (manifest["revision"], manifest["commit"]) == ("v2", commit_of("v2"))
