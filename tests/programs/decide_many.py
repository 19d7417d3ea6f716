"""Decides each input of many.txt and prints what that took as a JSON object: decide_many.py FOLDER

Planned, journalled, read back and written, without an engine; `megabytes` is by how much the peak
of memory rose.
"""

import json
import resource
import sys
from pathlib import Path

from distill.labels.inputs import scan_inputs
from journals import decide, opened


def peak() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


folder = Path(sys.argv[1])
before = peak()
inputs = scan_inputs(folder / "many.txt")
journal = opened(folder, inputs)
missing = journal.missing()
journal.start()
for index, _ in inputs.read(missing):
    decide(journal, index)
journal.replay()
manifest = journal.write_outputs(True)
report = {
    "megabytes": peak() - before,
    "asked": int(missing.sum()),
    "accepted": manifest["accepted"],
}
print(json.dumps(report))
