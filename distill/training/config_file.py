"""The YAML file of --config, which sets flags of step 2."""

import re
from pathlib import Path

from distill.yaml_file import read_yaml

EXAMPLE = "configs/tiny.yaml"
# YAML 1.1, which PyYAML reads, takes 1e-1 for a text, since there is no dot in it
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")


def take_config(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The file that --config FILE or --config=FILE names, and the other arguments.

    Raises ValueError.
    """
    path = None
    others = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if name != "--config":
            others.append(argument)
            continue
        if path is not None:
            raise ValueError("--config is given twice; put all into one file")
        if not equals and not rest:
            raise ValueError("--config: no file is named; pass a YAML file")
        path = value if equals else rest.pop(0)
    return path, others


def read_config(path: str) -> dict:
    """What the YAML file sets, by flag.

    Raises ValueError that names the file and where it can the line.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path}: {error.strerror}; pass an existing file with --config"
        ) from error
    settings = read_yaml(path, raw, EXAMPLE)
    if not isinstance(settings, dict):
        raise ValueError(
            f"{path}: expected a line with name and value for each flag; see {EXAMPLE}"
        )
    return {str(name): with_numbers(value) for name, value in settings.items()}


def with_numbers(value):
    """The value with numbers where a text inside of lists and mappings spells one, such as 1e-1.

    What is not nested is turned into the type of its flag later.
    """
    if isinstance(value, dict):
        return {name: number(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [number(inner) for inner in value]
    return value


def number(value):
    """A number where a text spells one; lists and mappings are searched."""
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value)
    return with_numbers(value)
