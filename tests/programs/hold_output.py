"""Holds an output as a run or a shard does, until its stdin ends: hold_output.py OUTPUT_FILE SHARD
NUM_SHARDS
"""

import sys
from pathlib import Path

from distill.locks import OutputLock

with OutputLock(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])):
    print("held", flush=True)
    sys.stdin.read()
