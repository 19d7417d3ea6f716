"""In the place of step 2: which process of how many it is, and with which flags, in one line.

The check before a launch, which is one process too, says nothing.
"""

import os
import sys

rank = os.environ.get("RANK", "0")
of_all = os.environ.get("WORLD_SIZE", "1")
shared = "shared" if "SHARE_BATCH" in os.environ else "its own"
if "--check_only" not in sys.argv:
    sys.stdout.write(f"{rank} of {of_all}, {shared}: {' '.join(sys.argv[1:])}\n")
