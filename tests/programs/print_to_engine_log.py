"""Prints a line to each stream, as a process of an engine does: to the engine's log, if the caller
has named one.
"""

import sys

from distill.teacher.engine_log import print_to_engine_log

print_to_engine_log()
print("Loading: 100%", flush=True)
print("ERROR of it", file=sys.stderr, flush=True)
