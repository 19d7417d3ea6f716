"""The lines of a text file, numbered and decoded: UTF-8 or another encoding, compressed or not.

No torch, no vLLM.
"""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

from distill.input_files import is_utf8, open_text


def text_lines(
    path: str | Path, are_inputs: bool = False, encoding: str | None = None
) -> Iterator[tuple[int, str]]:
    """Yield (line number, line with its end) of all lines, which only LF ends.

    `encoding` is what --encoding says; None is UTF-8 where there is no such flag. Where the lines
    `are_inputs` of their own, tables and JSON are bad files. Raises ValueError on a bad file or bad
    bytes.
    """
    number = 0
    try:
        with open_text(path, are_inputs, encoding) as file:
            for number, raw in enumerate(decodable(file, encoding), 1):
                text = raw if isinstance(raw, str) else raw.decode("utf-8")
                if number == 1:
                    text = text.removeprefix("\ufeff")
                if "\0" in text:
                    raise ValueError(
                        f"{path}:{number}: not {name_of(encoding)} text (it holds NUL); "
                        f"{remedy(encoding)}"
                    )
                yield number, text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: a damaged gzip file or none ({error})") from error
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; pass an existing file") from error
    except UnicodeDecodeError as error:
        if is_utf8(encoding):
            where = f"{path}:{number}: not UTF-8 (byte {error.start + 1})"
        else:  # which is decoded in larger pieces
            where = f"{path}: not {encoding} (after line {number})"
        raise ValueError(f"{where}; {remedy(encoding)}") from error
    except UnicodeError as error:  # such as UTF-16 without its mark
        raise ValueError(f"{path}: not {encoding} ({error}); {remedy(encoding)}") from error


def decodable(file: io.BufferedReader, encoding: str | None):
    """The lines of an open file: of bytes, which tell where a fault is, or of text.

    Other encodings than UTF-8 may write the end of a line otherwise.
    """
    if is_utf8(encoding):
        return file
    return io.TextIOWrapper(file, encoding, newline="\n")


def name_of(encoding: str | None) -> str:
    """How a message names an encoding."""
    return "UTF-8" if is_utf8(encoding) else encoding


def remedy(encoding: str | None) -> str:
    """What to do about bytes that cannot be decoded."""
    if encoding is None:
        return "convert the file to UTF-8"
    return "convert the file to UTF-8, or name its encoding with --encoding"


def check_encoding(encoding: str) -> None:
    """Raise ValueError for what is no encoding of texts that Python knows."""
    try:
        codecs.lookup(encoding)
        "".encode(encoding)
    except (LookupError, UnicodeError) as error:
        raise ValueError(
            f"--encoding {encoding}: no encoding that Python knows; such as cp1252 or utf-16"
        ) from error
