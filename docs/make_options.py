"""Write the tables of docs/options.md from the definitions of the flags, which --help shows too.

    python docs/make_options.py

What stands between the tables is written by hand and stays. tests/test_docs.py compares, so a flag
that has changed makes it fail until this has run again.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import create_data  # noqa: E402
import evaluate  # noqa: E402
import merge_adapter  # noqa: E402
import report  # noqa: E402
from distill.evaluation.tables import markdown  # noqa: E402
from distill.files import write_between  # noqa: E402
from distill.training.arguments import ScriptArguments, TrainArguments  # noqa: E402

OPTIONS = ROOT / "docs" / "options.md"
HEADER = ["flag", "default", "meaning"]


def parser_of(read_flags: Callable) -> argparse.ArgumentParser:
    """The parser that a script makes.

    Caught at the moment where it begins to read the command line.
    """
    caught = []

    def catch(parser, *_):
        caught.append(parser)
        raise SystemExit

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_known_args", catch),
        contextlib.suppress(SystemExit),
    ):
        read_flags()
    return caught[0]


def shown_default(default) -> str:
    """A default as it is typed; empty where there is none."""
    if default in (None, ""):
        return ""
    if isinstance(default, bool):
        return "true" if default else "false"
    text = str(default).removeprefix(f"{ROOT}/")  # the example task is found from any directory
    return f"`{text}`"


def rows_of_parser(parser: argparse.ArgumentParser) -> list[list[str]]:
    """One row for each flag of an argparse script."""
    rows = []
    for action in parser._actions:
        if action.dest == "help":
            continue
        meaning = action.help
        if action.choices:
            meaning += f" ({', '.join(action.choices)})"
        is_switch = action.nargs == 0
        default = "off" if is_switch else shown_default(action.default)
        if action.required:
            default = "must be given"
        meaning = meaning.replace("<", "&lt;")  # a mark would be invisible
        rows.append([f"`{action.option_strings[0]}`", default, meaning])
    return rows


def rows_of_training() -> list[list[str]]:
    """One row for each flag of step 2 that is ours,
    or SFTConfig's with a default or a meaning of this recipe.
    """
    rows = []
    for arguments in (ScriptArguments, TrainArguments):
        for field in fields(arguments):
            is_own = field.name in arguments.__annotations__
            if not is_own or not field.init:
                continue
            default = field.default if field.default is not MISSING else field.default_factory()
            rows.append([f"`--{field.name}`", shown_default(default), field.metadata["help"]])
    return rows


def tables() -> dict[str, str]:
    """The table of each script, in markdown."""
    return {
        "create_data.py": markdown(HEADER, rows_of_parser(parser_of(create_data.parse_args))),
        "train_sft_trl.py": markdown(HEADER, rows_of_training()),
        "evaluate.py": markdown(HEADER, rows_of_parser(parser_of(evaluate.parse_args))),
        "merge_adapter.py": markdown(HEADER, rows_of_parser(parser_of(merge_adapter.main))),
        "report.py": markdown(HEADER, rows_of_parser(parser_of(report.main))),
    }


def write_tables(path: Path) -> None:
    """Put each table between its marks in `path`; raises ValueError where a mark is missing."""
    for script, table in tables().items():
        marks = (f"<!-- flags of {script} -->", f"<!-- end of flags of {script} -->")
        write_between(path, marks, table)


def main() -> int:
    write_tables(OPTIONS)
    print(json.dumps({"written": str(OPTIONS)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
