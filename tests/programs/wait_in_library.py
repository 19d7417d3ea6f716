"""Waits as a process that is deep in a library, which a SIGTERM does not end.

Writes begun-RANK first.
"""

import os
import signal
import time
from pathlib import Path

signal.signal(signal.SIGTERM, signal.SIG_IGN)
Path("begun-" + os.environ.get("RANK", "0")).touch()
time.sleep(600)
