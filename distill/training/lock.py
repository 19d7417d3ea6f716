"""What the processes of step 2 agree on.

One run for an output directory, and the same train file for all.
"""

import atexit
import os
from pathlib import Path

from accelerate.utils import broadcast_object_list, gather_object

from distill.locks import lock, make_parents, remove_empty, unlock
from distill.system import TO_LAUNCH

NAME = "training.lock"  # empty, and gone when the run has ended


def lock_output(output_dir: str, process_index: int) -> None:
    """Keep other runs out of an output directory until this process ends.

    All processes of a run call it. Raises ValueError in all of them if another run is at work
    there.
    """
    if TO_LAUNCH in os.environ and os.environ.get("NUM_MACHINES", "1") != "1":
        return  # each machine checks by itself before the launch, whose rank 0 alone takes the lock
    problem = ""
    if process_index == 0:
        try:
            hold(Path(output_dir) / NAME)
        except (ValueError, OSError) as error:
            problem = str(error)
    shared = [problem]
    broadcast_object_list(shared)
    if shared[0]:
        raise ValueError(shared[0])


def hold(path: Path) -> None:
    """Lock a file until this process ends, and then remove it.

    With it the directories that were made for it.
    """
    made = make_parents(path)
    try:
        file = lock(path)
    except BaseException:
        remove_empty(made)
        raise
    atexit.register(remove_empty, made)  # which is called after what is registered next
    atexit.register(unlock, path, file)


def same_everywhere(sha256: str | None, path: str) -> str | None:
    """`sha256` of a file or a directory, if all processes have read the same.

    Raises ValueError in all of them if not.
    """
    if len(set(gather_object([sha256]))) > 1:
        raise ValueError(
            f"{path}: the processes have read different contents; "
            "wait until it is the same everywhere"
        )
    return sha256
