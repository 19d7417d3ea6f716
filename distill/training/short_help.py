"""--help of step 2, answered before torch and TRL are imported, which takes seconds."""

import sys
from dataclasses import fields

from distill.cli import HELP_ALL, Parser
from distill.streams import lasting_streams
from distill.training.recipe import CHANGED, Recipe, ScriptArguments

# the flag that begins each group, and the group's title
TITLES = {
    "model_name": "the student and its rows",
    "lora_rank": "LoRA",
    "warmup_ratio": "ours, for training",
    "overwrite": "the run",
    "output_dir": "TRL's, with the defaults of this recipe",
}
TRL = "TRL's SFTConfig"


def answer_help(description: str) -> None:
    """Print the help and end the process, if the command line asks for it."""
    asked = sys.argv[1:]
    if set(HELP_ALL).intersection(asked):
        lasting_streams()
        print_all()
        sys.exit(0)
    if "--help" in asked or "-h" in asked:
        lasting_streams()
        short_parser(description).print_help()
        sys.exit(0)


def short_parser(description: str) -> Parser:
    """A parser that shows the flags of the recipe, and those of TRL's that people change."""
    parser = Parser(description)
    for arguments in (ScriptArguments, Recipe):
        for field in fields(arguments):
            if field.name in TITLES:
                parser.group(TITLES[field.name])
            if field.init:
                parser.add(field.name, field.default, field.metadata["help"])
    parser.mention(f"{TRL}, the flags that people change", CHANGED)
    parser.help_all(print_all, whose=TRL)
    return parser


def print_all() -> None:
    """Print every flag as TRL's parser shows it, ours too."""
    from distill.training.arguments import OneLineParser, TrainArguments

    OneLineParser((ScriptArguments, TrainArguments)).print_help()
