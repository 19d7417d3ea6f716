"""Imported first by a script, so that Ctrl-C while its other modules are read ends it without a traceback."""

import signal
import sys

SCRIPTS = ("evaluate.py",)


def stop(number, _) -> None:
    """End as a script that is interrupted does; nothing has been done yet."""
    sys.exit(128 + number)


# not where a test or another program imports the script's functions
if sys.argv[0].endswith(SCRIPTS):
    signal.signal(signal.SIGINT, stop)
