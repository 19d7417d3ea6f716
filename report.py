"""Write the results table of README.md, in six columns.

All figures are in report.md beside metrics.json.

    python report.py --metrics models/tiny-distilled/report/metrics.json

Writes the table into README.md.
"""

import json
import sys
from pathlib import Path

from distill.cli import Parser
from distill.evaluation.report import markdown, sentences, tables
from distill.files import write_between

MARKS = "<!-- quickstart results -->", "<!-- end of quickstart results -->"
METRICS = "models/tiny-distilled/report/metrics.json"
COLUMNS = [  # what a newcomer needs of the first table
    "system",
    "accuracy on gold (rows; 95 % interval)",
    "agrees with teacher",
    "tokens per request (prompt + output)",
    "seconds per request (median, p95)",
    "speed-up",
]


def narrowed(header: list[str], rows: list[list[str]]) -> list[list[str]]:
    """The cells of these rows that stand under COLUMNS."""
    places = [header.index(name) for name in COLUMNS]
    found = []
    for row in rows:
        found.append([row[place] for place in places])
    return found


def main() -> int:
    parser = Parser(__doc__)
    parser.add("metrics", METRICS, "what evaluate.py wrote")
    parser.add("readme", "README.md", f"holds {MARKS[0]} and its end")
    args = parser.parse_args()
    try:
        metrics = json.loads(Path(args.metrics).read_text("utf-8"))
        compared = tables(metrics)[0]
        table = markdown(COLUMNS, narrowed(compared.header, compared.rows))
        section = f"{compared.title}:\n\n{table}\n\n{' '.join(sentences(metrics))}"
        write_between(Path(args.readme), MARKS, section)
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
