"""How a script that asks about inputs ends: by its exit code, whatever happened."""

import logging
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from distill.labels.inputs import InputsChanged


def end_with(main: Callable[[], int], script: str, log: logging.Logger) -> NoReturn:
    """End the process with the exit code of `main`, or with 1 where its files let it down."""
    try:
        code = main()
    except InputsChanged as changed:
        log.error("%s: %s; what is finished is kept", script, changed)
        code = 1
    except OSError as full_disk:
        log.error("%s: %s; what is finished is kept, the same command continues", script, full_disk)
        code = 1
    # what the libraries do at the exit takes a second,
    # and a signal would only make them print tracebacks
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.exit(code)
