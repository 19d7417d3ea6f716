"""What all scripts share: flags, errors of one line, checks of paths and models."""

import argparse
import os
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from distill.input_files import check_regular

ROOT = Path(__file__).resolve().parent.parent  # of the repository
# defaults that several scripts share
TASK = str(ROOT / "example-data/language_classification.yaml")
TEACHER = "Qwen/Qwen3-30B-A3B-Thinking-2507"
STUDENT = "Qwen/Qwen3-30B-A3B-Instruct-2507"
HELDOUT = "./example-data/heldout.jsonl"  # gold rows of the example's task
LABELS = "./data/prompt_distillation_lang.jsonl"  # what step 1 writes, and step 2 reads
ADAPTER = "./models/prompt_distillation_trl"  # what step 2 writes, and step 3 reads
# how the teacher is asked, in steps 1 and 3 alike
REASONING_PARSER = "qwen3"
TEMPERATURE = 0.15
MAX_TOKENS = 4096
ANSWER_TOKENS = 64  # of a student, which answers without thinking
HELP_ALL = ("--help_all", "--help-all")


class ShortHelp(argparse.RawDescriptionHelpFormatter):
    """--help on one page: a line for each flag with its first spelling, meaning and default."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=FLAG_COLUMN, width=100)

    def _format_action_invocation(self, action):
        return action.option_strings[0]

    def _split_lines(self, text, width):
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)

    def _get_help_string(self, action):
        choices = f" ({', '.join(action.choices)})" if action.choices else ""
        default = shown_default(action)
        return f"{action.help}{choices} [{default}]" if default else f"{action.help}{choices}"


FLAG_COLUMN = 34  # of the text beside the flags of --help, at most


def shown_default(action: argparse.Action) -> str:
    """A flag's default as it is typed; empty where there is none."""
    if action.required:
        return "must be given"
    if action.nargs == 0:
        return "off"
    if action.default in (None, ""):
        return ""
    if isinstance(action.default, bool):
        return "true" if action.default else "false"
    return str(action.default).removeprefix(f"{ROOT}/")  # the task is found from any directory


class ShowAll(argparse.Action):
    """--help_all: what --help shows, and then the flags that another parser reads."""

    def __call__(self, parser, *_):
        parser.shows_rare = True
        parser.print_help()
        if parser.print_others:
            parser.print_others()
        parser.exit()


class Parser(argparse.ArgumentParser):
    """Accepts --a_b and --a-b alike, and no abbreviations; an error is one line."""

    def __init__(self, description: str):
        super().__init__(
            description=description,
            usage="%(prog)s [flags]",
            epilog="",
            formatter_class=ShortHelp,
            allow_abbrev=False,
            add_help=False,
        )
        self.add_argument("--help", "-h", action="help", help=argparse.SUPPRESS)
        self.add_argument(*HELP_ALL, action=ShowAll, nargs=0, help=argparse.SUPPRESS)
        self.print_others = None
        self.rare: set[str] = set()  # flags that --help leaves out
        self.shows_rare = False
        self.titled = self  # the group that flags are added to
        self.ranges: dict[str, Range] = {}  # by flag

    def format_help(self) -> str:
        """The page, without the flags that are rare unless all are asked for."""
        meanings = {}
        for action in self._actions:
            if action.dest in self.rare and not self.shows_rare:
                meanings[action] = action.help
                action.help = argparse.SUPPRESS
        try:
            return super().format_help()
        finally:
            for action, meaning in meanings.items():
                action.help = meaning

    def mention(self, title: str, flags: dict[str, str]) -> None:
        """Name flags that another parser reads, with what they mean, at the end of --help."""
        lines = [f"{title}:"]
        longest = max(len(name) for name in flags)
        for name, meaning in flags.items():
            lines.append(f"  --{name:<{longest}}  {meaning}")
        self.epilog += "\n".join([*lines, ""])

    def help_all(self, print_others: Callable[[], None], whose: str) -> None:
        """Let --help_all go on with all flags that another parser reads."""
        self.print_others = print_others
        self.epilog += f"\n{HELP_ALL[0]} shows every flag of {whose}."

    def group(self, title: str) -> None:
        """Put the flags that are added from now on under a title."""
        self.titled = self.add_argument_group(title)

    def add(
        self,
        name: str,
        default,
        help: str,
        at_least=None,
        at_most=None,
        kind=None,
        rare=False,
        **kwargs,
    ) -> None:
        """Add a flag of a type: `kind`, or else that of its default; None is a text's.

        A value below `at_least` or above `at_most` is refused; both are inclusive. A `rare` one is
        shown by --help_all alone.
        """
        if rare:
            self.rare.add(name)
        if at_least is not None:
            self.ranges[name] = Range(at_least, at_most)
        if kind is None:
            kind = type(default) if isinstance(default, int | float) else str
        self.titled.add_argument(*spellings(name), type=kind, default=default, help=help, **kwargs)

    def switch(self, name: str, help: str) -> None:
        """Add a flag without a value, which is off by default."""
        self.titled.add_argument(*spellings(name), action="store_true", help=help)

    def parse_known_args(self, args=None, namespace=None):
        """As argparse does it, and then refuse what is out of its range."""
        found, others = super().parse_known_args(args, namespace)
        for name, allowed in self.ranges.items():
            value = getattr(found, name)
            problem = ""
            if value is not None:  # a flag without a default may be left out
                problem = allowed.problem(value)
            if problem:
                self.error(f"--{name} {value}: {problem}")
        return found, others

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


@dataclass(frozen=True)
class Range:
    """The values that a flag may have, both ends included."""

    at_least: float
    at_most: float | None  # None: without an end

    def problem(self, value: float) -> str:
        """What is wrong with a value; empty if nothing is. NaN is in no range."""
        if self.at_most is None:
            return "" if value >= self.at_least else f"must be at least {self.at_least}"
        if self.at_least <= value <= self.at_most:
            return ""
        return f"must be between {self.at_least} and {self.at_most}"


def spellings(name: str) -> list[str]:
    """A flag with underscores, and with hyphens where that differs."""
    return list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))


def from_flags(kind: type, args: argparse.Namespace, **others):
    """The dataclass `kind`: each field is the flag of its name, or is given in `others`."""
    values = dict(others)
    for field in fields(kind):
        if field.name not in others:
            values[field.name] = getattr(args, field.name)
    return kind(**values)


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
