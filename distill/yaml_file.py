"""Reading a YAML file so that what is wrong with it is named with its line."""

from pathlib import Path

import yaml


class DuplicateKey(yaml.YAMLError):
    """A key that is given twice, of which YAML's readers take the last one without a word."""


class OneValueLoader(yaml.SafeLoader):
    """PyYAML's safe loader that refuses a key which is given twice."""

    def construct_mapping(self, node, deep=False):
        """What PyYAML makes of a mapping; raises DuplicateKey with both lines."""
        lines = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise DuplicateKey(
                    f"key {key.value!r} in line {lines[key.value]} and again in line {line}"
                )
            lines[key.value] = line
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path, raw: bytes, example: str):
    """What the YAML file `path` holds, of which `raw` are the bytes.

    Raises ValueError that names file, line and reason; `example` is a file that shows how it should
    look.
    """
    try:
        text = raw.decode("utf-8")
        return yaml.load(text, OneValueLoader)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8"
        ) from error
    except DuplicateKey as error:
        raise ValueError(f"{path}: {error}; keep one of them") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        found = f"the control character U+{error.character:04X}"
        raise ValueError(f"{path}: line {line} not valid YAML ({found}); remove it") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}:{problem_of(error)}; see {example}") from error
    except ValueError as error:
        raise ValueError(
            f"{path}: a value that YAML cannot read ({error}); put it in quotes"
        ) from error
    except RecursionError as error:
        raise ValueError(f"{path}: not valid YAML (too deeply nested); see {example}") from error


def problem_of(error: yaml.YAMLError) -> str:
    """Where and why YAML cannot be read, such as " line 2 not valid YAML (...)"."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    where = f" line {mark.line + 1}" if mark else ""
    if problem and "'\\t'" in problem:
        problem = "a tab, where YAML takes only spaces"
    reason = f" ({problem})" if problem else ""
    return f"{where} not valid YAML{reason}"


def whole_characters(text: str) -> str:
    r"""A text whose surrogate pairs have become the characters they stand for.

    JSON escapes emoji as such pairs (\ud83d\ude00). Raises ValueError where half of a pair is
    left, which is no character.
    """
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise ValueError(
            "holds half of a surrogate pair; write the character itself, as UTF-8"
        ) from None
