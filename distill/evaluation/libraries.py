"""The libraries of an engine and of the comparison with PEFT, imported once for all processes.

A server of forks imports this module, and every process of step 3 that it forks has them at once.
What cannot be imported is left to the process that needs it, which says what is wrong.
"""

import contextlib

from distill.teacher.child import begin_child
from distill.teacher.engine import set_environment

begin_child()
set_environment()
with contextlib.suppress(Exception):
    import peft.peft_model  # noqa: F401
    import vllm.v1.engine.core  # noqa: F401
    import vllm.v1.worker.cpu_worker  # noqa: F401
