"""`accelerate launch` that ends as the scripts do.

`train_trl.sh` starts several processes through it.

    python launch.py [flags of accelerate launch] SCRIPT [flags of SCRIPT]

A signal ends all processes of this machine in one line, with exit code 130 (Ctrl-C) or 143
(SIGTERM). Where a process fails, its exit code is the launcher's. accelerate's own command ends
with 1 and a traceback of its own in all cases.
"""

if __name__ == "__main__":
    from distill import early_stop, quiet_start  # noqa: F401

import logging
import os
import signal
import subprocess
import sys
import threading

from distill.stopping import LAUNCHER_SAYS, end_children, say_stopped


def end_at_signals() -> None:
    """End this process and all below it at Ctrl-C, at SIGTERM and where the terminal is closed,
    from now on.

    A thread does it: the main one may be inside PyTorch for minutes, where it waits for the other
    machines.
    """
    ends = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        ends.append(signal.SIGHUP)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=end_at_number, args=[reader, ends], daemon=True).start()
    signal.set_wakeup_fd(writer)
    for number in ends:
        signal.signal(number, stand_still)


def stand_still(*_) -> None:
    """Let the main thread do nothing any more, or it would report the processes that the other one
    ends.
    """
    threading.Event().wait()


def end_at_number(reader: int, ends: list[int]) -> None:
    """Wait for the number of a signal on the pipe `reader`, and end everything if it is one of
    `ends`.
    """
    number = 0
    while number not in ends:
        number = os.read(reader, 1)[0]
    try:
        end_children()
        say_stopped()  # last, where it stays in sight
    finally:
        os._exit(128 + number)


def code_of_failure(rank: int, returncode: int) -> int:
    """Say in one line which process failed, after all that it said itself.

    Returns the exit code for its `returncode`. A negative `returncode` is the number of the signal
    that ended it.
    """
    code = returncode
    how = f"ended with exit code {code}"
    if returncode < 0:
        code = 128 - returncode
        how = f"was ended by {signal.Signals(-returncode).name}"
    # the process got a signal, and this one did not
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        say_stopped()
    else:
        print(f"launch.py: the process of rank {rank} {how}", file=sys.stderr)
    return code


def main() -> int:
    end_at_signals()
    os.environ[LAUNCHER_SAYS] = "1"
    # these take seconds to import, and a signal may come meanwhile
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    args = launch_command_parser().parse_args()
    # PyTorch would take the others for itself when the processes start
    args.signals_to_handle = "SIGQUIT"
    # we say it
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    try:
        launch_command(args)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return code_of_failure(rank, failure.exitcode)
    except subprocess.CalledProcessError as error:  # a configuration for one process
        return code_of_failure(0, error.returncode)
    return 0


if __name__ == "__main__":
    sys.exit(main())
