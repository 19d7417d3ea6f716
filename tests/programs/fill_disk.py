"""Decides an input and then another one, for which there is no room on the disk: fill_disk.py
FOLDER

The limit on a file's size fails a write in the middle of a line, as a full disk does.
"""

import resource
import sys
from pathlib import Path

from distill.labels.inputs import scan_inputs
from journals import decide, opened

folder = Path(sys.argv[1])
journal = opened(folder, scan_inputs(folder / "in.txt"))
journal.start()
decide(journal, 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (journal.own.stat().st_size + 40, -1))
try:
    decide(journal, 1)
except OSError as error:
    print("failed:", error.strerror)
