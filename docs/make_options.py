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
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import create_data  # noqa: E402
import evaluate  # noqa: E402
import merge_adapter  # noqa: E402
import predict  # noqa: E402
import report  # noqa: E402
import serve  # noqa: E402
from distill.cli import shown_default  # noqa: E402
from distill.files import write_between  # noqa: E402
from distill.teacher.engine_flags import ENGINE, ENGINE_FLAGS  # noqa: E402
from distill.training.short_help import short_parser  # noqa: E402
from distill.wording import markdown  # noqa: E402

OPTIONS = ROOT / "docs" / "options.md"
HEADER = ["flag", "default", "meaning"]
WORDS = ("", "off", "true", "false", "must be given")  # defaults that are not typed as they stand


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


def rows_of_parser(parser: argparse.ArgumentParser) -> list[list[str]]:
    """One row for each flag of an argparse script."""
    rows = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:  # --help itself
            continue
        meaning = action.help
        if action.choices:
            meaning += f" ({', '.join(action.choices)})"
        default = shown_default(action)
        if default not in WORDS:
            default = f"`{default}`"
        meaning = meaning.replace("<", "&lt;")  # a mark would be invisible
        rows.append([f"`{action.option_strings[0]}`", default, meaning])
    return rows


def rows_of_engine() -> list[list[str]]:
    """One row for each flag of vLLM's that --help of steps 1 and 3 and of predict.py names."""
    rows = []
    for name, meaning in ENGINE_FLAGS.items():
        rows.append([f"`--{name}`", meaning])
    return rows


def tables() -> dict[str, str]:
    """The table of each script, in markdown."""
    return {
        "create_data.py": markdown(HEADER, rows_of_parser(parser_of(create_data.parse_args))),
        ENGINE: markdown(["flag", "meaning"], rows_of_engine()),
        "train_sft_trl.py": markdown(HEADER, rows_of_parser(short_parser(""))),
        "evaluate.py": markdown(HEADER, rows_of_parser(parser_of(evaluate.parse_args))),
        "predict.py": markdown(HEADER, rows_of_parser(parser_of(predict.parse_args))),
        "serve.py": markdown(HEADER, rows_of_parser(parser_of(serve.parse_args))),
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
