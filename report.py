"""How step 3's figures are shown: report.md, report.html, PNGs, and the results table of README.md.

python report.py --metrics models/tiny-distilled/report/metrics.json    # writes the table into README.md
"""

import argparse
import json
import sys
from pathlib import Path

from distill.evaluation.report import LABELS_TITLE, markdown, sentences, tables
from distill.files import write_between

MARKS = "<!-- quickstart results -->", "<!-- end of quickstart results -->"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", default="models/tiny-distilled/report/metrics.json", help="what evaluate.py wrote")
    parser.add_argument("--readme", default="README.md", help=f"holds {MARKS[0]} and its end")
    args = parser.parse_args()
    try:
        metrics = json.loads(Path(args.metrics).read_text("utf-8"))
        section = [" ".join(sentences(metrics))]
        for table in tables(metrics):
            if table.title != LABELS_TITLE:
                section.append(f"{table.title}:\n\n{markdown(table.header, table.rows)}")
        write_between(Path(args.readme), MARKS, "\n\n".join(section))
    except (OSError, ValueError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"readme": args.readme, "rows": metrics["rows"], "commit": metrics.get("commit")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
