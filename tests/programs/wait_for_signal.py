"""Waits as a script does that says how a signal has ended it. Writes `begun` first."""

import time
from pathlib import Path

from distill.stopping import end_at_signals

end_at_signals()
Path("begun").touch()
time.sleep(600)
