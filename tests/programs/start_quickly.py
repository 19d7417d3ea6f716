"""Prints what a process of step 3 has at its start, before it has imported anything itself.

It finds the package as a script does, not through PYTHONPATH.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from distill.evaluation.apart import Apart  # noqa: E402


def loaded() -> list[str]:
    return [name for name in ("peft.peft_model", "vllm.v1.engine.core") if name in sys.modules]


if __name__ == "__main__":
    with Apart(quickly=True) as process:
        print(json.dumps(process.call(loaded)))
