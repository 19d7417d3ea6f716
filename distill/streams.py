"""What a script prints must not end it.

A reader may have gone away, or a terminal cannot show a letter. `python create_data.py 2>&1 | head`
must label all rows, although nobody reads the progress bar any more. And lines are whole: what is
said beside a progress bar has one of its own, and where there is no terminal so has each state of
the bar.
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


class Terminal(Lasting):
    """Such a stream to a terminal.

    A bar's state begins with a carriage return, which moves back over the last one, and has no end
    of a line.
    """

    after_bar = False

    def write(self, text: str) -> int:
        if text.startswith("\r"):
            self.after_bar = bool(text.strip())  # else the bar is taken away
        elif text:
            # a bar below another one goes down and up by itself
            moves = text.startswith(("\n", "\x1b"))
            if self.after_bar and not moves:
                super().write("\n")
            self.after_bar = False
        return super().write(text)


class LogFile(Lasting):
    """Such a stream to what is no terminal, where nothing can be written over.

    Each state of a bar is a line, and the end of the line that follows the last one is left out.
    """

    after_bar = False

    def write(self, text: str) -> int:
        if text.startswith("\r"):
            self.after_bar = True
            shown = text.strip()
            if shown:
                super().write(f"{shown}\n")
        elif text == "\n" and self.after_bar:
            self.after_bar = False
        elif text:
            self.after_bar = False
            super().write(text)
        return len(text)


def lasting_streams() -> None:
    """Let stdout and stderr outlive their readers, and escape what their encoding lacks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, Lasting):
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        kind = Terminal if stream.isatty() else LogFile
        setattr(sys, name, kind(stream))
