"""Which models' names are taken, and which are missing."""

import re

import pytest

from distill.cli import Parser, check_model


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen3-30B-A3B-Instruct-2507", "Qwen/Qwen3-30B-A3B-Thinking-2507", "a/b.c"]
)
def test_hub_name_passes(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert check_model(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "models/missing",
        "./a/b",
        "../b",
        "/no/such/model",
        "~/no/such/model",
        "missing",
        "models/a/b",
        "",
        "models",
    ],
)
def test_missing_model_is_named(tmp_path, monkeypatch, name):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^{re.escape(name)}: no model here"):
        check_model(name)


def test_a_folder_with_an_owners_name_does_not_hide_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen" / "notes").mkdir(parents=True)
    assert check_model("Qwen/Qwen3-30B-A3B-Instruct-2507")
    with pytest.raises(ValueError, match="^Qwen/notes: no model here"):
        check_model("Qwen/notes")
    (tmp_path / "Qwen" / "downloaded").mkdir()
    (tmp_path / "Qwen" / "downloaded" / "config.json").write_text("{}")
    assert check_model("Qwen/another")  # the owner's other models are still on the hub


@pytest.mark.parametrize(
    "name", ["models/tiny", "./models/tiny", "{root}/models/tiny", "~/models/tiny"]
)
def test_model_directory_passes_once_it_has_a_config(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    name = name.format(root=tmp_path)
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    with pytest.raises(ValueError, match="config.json is missing"):
        check_model(name)
    (tmp_path / "models" / "tiny" / "config.json").write_text("{}")
    assert check_model(name) == name


def test_rare_flags_are_shown_where_all_are(capsys):
    def parsed(*words):
        parser = Parser("What it does.")
        parser.add("common", 1, "often wanted")
        parser.add("rare", 2, "seldom wanted", rare=True)
        return parser.parse_args(words)

    assert parsed("--rare", "3").rare == 3
    for flag, shown in (("--help", False), ("--help_all", True)):
        with pytest.raises(SystemExit):
            parsed(flag)
        out = capsys.readouterr().out
        assert "--common" in out and ("seldom wanted [2]" in out) == shown
