"""Write the results of README.md: the verdict and the table of six columns.

All figures are in report.md beside metrics.json.

    python report.py --metrics models/tiny-distilled/report/metrics.json

Writes them into README.md.
"""

import json
import sys
from pathlib import Path

from distill.cli import Parser
from distill.evaluation.report import in_readme
from distill.files import write_between

MARKS = "<!-- quickstart results -->", "<!-- end of quickstart results -->"
METRICS = "models/tiny-distilled/report/metrics.json"


def main() -> int:
    parser = Parser(__doc__)
    parser.add("metrics", METRICS, "what evaluate.py wrote")
    parser.add("readme", "README.md", f"holds {MARKS[0]} and its end")
    args = parser.parse_args()
    try:
        metrics = json.loads(Path(args.metrics).read_text("utf-8"))
        write_between(Path(args.readme), MARKS, in_readme(metrics))
    except (OSError, ValueError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2
    print(
        json.dumps(
            {"readme": args.readme, "rows": metrics["rows"], "commit": metrics.get("commit")}
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
