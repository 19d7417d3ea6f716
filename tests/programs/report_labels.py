"""Writes a report of many labels as evaluate.py does: report_labels.py FOLDER NUMBER_OF_LABELS

Prints its peak of memory in MiB.
"""

import re
import sys
from pathlib import Path

from distill.evaluation.report import write_report
from distill.evaluation.scores import Prices, measure

gold = [f"category number {i} of the catalogue" for i in range(int(sys.argv[2]))] * 2
results = {"teacher": {"answers": gold[1:] + gold[:1]}, "student": {"answers": [*gold[:-1], None]}}
metrics = measure(results, gold, [None] * len(gold), True, Prices())
write_report(Path(sys.argv[1]), metrics, [])
status = Path("/proc/self/status").read_text()
print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024)
