"""What a process does first that an engine or a replica has started."""

import atexit
import gc
import os

from distill.quiet import leave_out_noise
from distill.streams import lasting_streams
from distill.system import end_with_parent
from distill.teacher.engine_log import print_to_engine_log


def begin_child() -> None:
    """What a process of a script does first.

    Where an engine has started it, Ctrl-C is for the script alone.
    """
    end_with_parent()
    leave_out_noise()
    if print_to_engine_log():
        os.setpgid(0, 0)
        atexit.register(end_quickly)
    lasting_streams()


def end_quickly() -> None:
    """The last thing that an engine's spawned process does.

    It leaves without a search for garbage, of seconds. Some libraries would then report as
    leaked what nobody has collected. What had to be said is said by now.
    """
    gc.freeze()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)


if __name__ == "__mp_main__":  # an engine's process that a replica has spawned
    begin_child()
