"""What all scripts share: flags in two spellings, errors of one line, checks of paths and
models.
"""

import argparse
import os
from pathlib import Path

from distill.input_files import check_regular

ROOT = Path(__file__).resolve().parent.parent  # of the repository


class Parser(argparse.ArgumentParser):
    """Accepts --a_b and --a-b alike, and no abbreviations; an error is one line."""

    def __init__(self, description: str):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=formatter, allow_abbrev=False)

    def add(self, name: str, **kwargs):
        self.add_argument(
            f"--{name}", *([f"--{name.replace('_', '-')}"] if "_" in name else []), **kwargs
        )

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def one_line(error: Exception) -> str:
    """An error's message without what follows its first line.

    Pydantic, which vLLM uses, has it elsewhere.
    """
    message = error.errors()[0]["msg"] if hasattr(error, "errors") else str(error)
    return next(iter(message.removeprefix("Value error, ").splitlines()), "")


def on_one_line(error: Exception) -> str:
    """An error's whole message, with spaces in the place of the ends of its lines."""
    return " ".join(str(error).split())


def check_model(name: str) -> str:
    """Refuse a model path that does not exist.

    A hub name such as Qwen/Qwen3-30B-A3B-Instruct-2507 passes.
    """
    parts = Path(name).parts
    is_path = (
        name.startswith((".", "/", "~"))
        or len(parts) != 2
        or Path(name).exists()
        or parts[0] == "models"
    )
    if is_path and not (Path(name).expanduser() / "config.json").is_file():
        raise ValueError(
            f"{name}: no model here (config.json is missing); pass a model directory or a hub name"
        )
    return name


def check_writable(output: Path) -> None:
    """Refuse, before a model is loaded, an output that could not be written."""
    for path in (output.absolute(), *output.absolute().parents):
        if path.is_symlink() and not path.exists():
            raise ValueError(
                f"{path}: is a link to {os.readlink(path)}, which is not there; "
                "create it or remove it"
            )
    check_regular(output)
    directory = next(p for p in output.absolute().parents if p.exists())
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        raise ValueError(f"{output}: cannot be written below {directory}; choose another output")
    if output.is_dir():
        raise ValueError(f"{output}: is a directory; the output must be a file")
