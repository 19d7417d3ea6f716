"""Files that appear complete or not at all."""

import os
from pathlib import Path


class Replacing:
    """A file, of text unless it is `binary`, that appears under its name only when complete."""

    def __init__(self, path: Path, binary: bool = False):
        self.path = path
        self.binary = binary
        self.temporary = path.with_name(path.name + ".tmp")

    def __enter__(self):
        if self.binary:
            self.file = open(self.temporary, "wb")  # noqa: SIM115
        else:
            self.file = open(self.temporary, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        return self.file

    def __exit__(self, error, *_):
        if error is None:
            self.file.flush()
            os.fsync(self.file.fileno())
        self.file.close()
        if error is None:
            os.replace(self.temporary, self.path)
        else:
            self.temporary.unlink(missing_ok=True)


def write_between(path: Path, marks: tuple[str, str], text: str) -> None:
    """Replace what stands between two marks in a file.

    Raises ValueError if it does not hold both.
    """
    before, _, rest = path.read_text("utf-8").partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not end:
        raise ValueError(f"{path}: holds no {marks[0]} ... {marks[1]}")
    with Replacing(path) as file:
        file.write("\n".join([before + marks[0], text, marks[1] + after]))
