"""The process of one rank ends and the others wait: fail_on_rank.py RANK HOW

HOW is the line that it says before exit code 1, or an exit code without a line, or SIGKILL for all
of its group.
"""

import os
import signal
import sys
import time

rank = sys.argv[1]
how = sys.argv[2]
if os.environ.get("RANK", "0") != rank:
    time.sleep(600)
if how == "SIGKILL":
    os.kill(0, signal.SIGKILL)
if how.isdecimal():
    os._exit(int(how))
sys.exit(how)
