"""`accelerate launch` that ends as the scripts do.

`train_trl.sh` starts several processes through it.

    python launch.py [--check_first] [flags of accelerate launch] SCRIPT [flags of SCRIPT]
    python launch.py --for_all_gpus MACHINES

The second form prints how many processes there are with one for each GPU, on so many machines.

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

from distill.stopping import LAUNCHER_SAYS, end_children, exit_code, say_stopped
from distill.system import TO_LAUNCH

CHECK_FIRST = "--check_first"
FOR_ALL_GPUS = "--for_all_gpus"


def end_at_signals() -> None:
    """End this process and all below it at Ctrl-C and at SIGTERM, from now on.

    And where the terminal is closed. A thread does it: the main one may be inside PyTorch for
    minutes, where it waits for the other machines.
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
    """Let the main thread do nothing any more.

    It would report the processes that the other one ends.
    """
    threading.Event().wait()


def end_at_number(reader: int, ends: list[int]) -> None:
    """Wait for the number of a signal on the pipe `reader`, and end everything.

    It does so if the number is one of `ends`.
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
    code = exit_code(returncode)
    how = f"ended with exit code {code}"
    if returncode < 0:
        how = f"was ended by {signal.Signals(-returncode).name}"
    if stopped(code):
        say_stopped()
    else:
        print(f"launch.py: the process of rank {rank} {how}", file=sys.stderr)
    return code


def stopped(code: int) -> bool:
    """Whether a process ended by a signal that stops a run, which this one did not get."""
    return code in (128 + signal.SIGINT, 128 + signal.SIGTERM)


def check(args) -> int:
    """Let one process check what `args`, accelerate's, would launch; its exit code.

    It says what is wrong in one line, before many start.
    """
    command = [sys.executable, args.training_script, *args.training_script_args]
    processes = (args.num_processes or 1) // (args.num_machines or 1)
    environment = {**os.environ, TO_LAUNCH: str(processes)}
    done = subprocess.run([*command, "--check_only", "true"], env=environment)
    code = exit_code(done.returncode)
    if stopped(code):
        say_stopped()
    elif done.returncode < 0:  # it could not say so itself
        name = signal.Signals(-done.returncode).name
        print(f"launch.py: the check before the launch was ended by {name}", file=sys.stderr)
    return code


def configuration_problem(args) -> str:
    """What is wrong with the configuration that `args`, accelerate's, name; else empty.

    With one that is for one process accelerate would start one and say nothing.
    """
    if not args.config_file:
        return ""
    if not os.path.isfile(args.config_file):
        return f"{args.config_file}: no such file; ACCELERATE_CONFIG names a configuration"
    wanted = args.num_processes or 1
    of_flags = args.multi_gpu or args.use_fsdp or args.use_deepspeed or args.use_megatron_lm
    if wanted == 1 or of_flags or args.tpu:
        return ""
    example = "accelerate_configs/ddp.yaml"
    import yaml
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        if load_config_from_file(args.config_file).distributed_type != "NO":
            return ""
    except (AttributeError, TypeError, ValueError, OSError, yaml.YAMLError):
        return f"{args.config_file}: not a configuration of accelerate; see {example}"
    return (
        f"{args.config_file}: its distributed_type NO is for one process, not for {wanted}; "
        f"name another file, such as {example}"
    )


def for_all_gpus(machines: int) -> int:
    """The number of processes with one for each visible GPU, on so many machines alike."""
    import torch

    return max(1, torch.cuda.device_count()) * machines


def main() -> int:
    flags = sys.argv[1:]
    if flags[:1] == [FOR_ALL_GPUS]:
        print(for_all_gpus(int(flags[1])))
        return 0
    check_first = flags[:1] == [CHECK_FIRST]
    if check_first:
        flags = flags[1:]
    end_at_signals()
    os.environ[LAUNCHER_SAYS] = "1"
    # these take seconds to import, and a signal may come meanwhile
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    args = launch_command_parser().parse_args(flags)
    problem = configuration_problem(args)
    if problem:
        print(f"launch.py: {problem}", file=sys.stderr)
        return 2
    if check_first:
        code = check(args)
        if code:
            return code
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
