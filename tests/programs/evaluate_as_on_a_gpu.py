"""evaluate.py that serves an adapter as on a machine with a GPU: by vLLM, then as a merged copy."""

import runpy

from distill.evaluation import run
from gpu_ways import plan_as_on_a_gpu
from helpers import ROOT

if __name__ == "__main__":
    run.plan_serving = plan_as_on_a_gpu
    runpy.run_path(str(ROOT / "evaluate.py"), run_name="__main__")
