"""What a script prints must not end it.

A reader may have gone away, or a terminal cannot show a letter. `python create_data.py 2>&1 | head`
must label all rows, although nobody reads the progress bar any more.
"""

import os
import sys


class Lasting:
    """A text stream that goes on into nothing once nobody reads it.

    Everything else is the stream's own.
    """

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        """Point the file descriptor to nowhere.

        What is still in the buffer finds an end there.
        """
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)


def lasting_streams() -> None:
    """Let stdout and stderr outlive their readers, and escape what their encoding lacks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, Lasting):
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, Lasting(stream))
