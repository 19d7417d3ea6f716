"""Ctrl-C while a script imports its modules ends it at once, without a traceback.

A script imports this first, and the exit code is 130. Its main() then puts handlers of its own in
the place. Modules that are imported by another program never import this.
"""

import os
import signal


def end(number, _):
    os._exit(128 + number)


signal.signal(signal.SIGINT, end)
