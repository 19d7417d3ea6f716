"""Step 1 on several GPUs of one machine: instances of create_data.py, each on GPUs of its own.

`create_data_h100x8.sh` starts it.

    python create_data_instances.py [any flag of create_data.py that several runs can share]

The environment variables INSTANCES and GPUS_PER_INSTANCE say how many, LOG_DIR where their logs
go, and PYTHON which Python they run in (else in that of this script). Each instance labels a part
of the inputs; one more call of create_data.py then writes the output. A signal ends all of them,
with exit code 130.
"""

if __name__ == "__main__":
    from distill import early_stop  # noqa: F401

import os
import signal
import sys
from pathlib import Path

from distill.cli import HELP_ALL
from distill.labels.instances import is_given, not_shared, start_all, stop, wait_for
from distill.system import VISIBLE, engines_on_gpus, listed_gpus, named_gpus

PYTHON = os.environ.get("PYTHON") or sys.executable
STEP_1 = [PYTHON, str(Path(__file__).resolve().parent / "create_data.py")]


def refuse(problem: str) -> None:
    """End with exit code 2 and one line."""
    print(problem, file=sys.stderr)
    sys.exit(2)


def count_in(variable: str, default: int) -> int:
    """The whole number above 0 that an environment variable holds."""
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or int(text) == 0:
        refuse(f"{variable}={text}: must be a whole number above 0")
    return int(text)


def what_fits(gpus: int, visible: int) -> str:
    """The variables under which `visible` GPUs suffice, with at most `gpus` for an instance."""
    while gpus > visible:
        gpus //= 2  # a model is split over 1, 2, 4, ... GPUs
    if gpus == 0:
        return "none fits"
    return f"INSTANCES={visible // gpus} GPUS_PER_INSTANCE={gpus} fit"


def choose_devices(
    listed: list[str], named: list[str] | None, instances: int, gpus: int
) -> list[str]:
    """The GPUs to share out: those that are `named` as visible, or else `listed`.

    Ends with exit code 2 where they are too few. Where nobody lists them they are taken to be
    there, and a CPU does not care.
    """
    needed = instances * gpus
    if named is not None:
        devices = named
    elif listed:
        devices = listed
    else:
        devices = [str(number) for number in range(needed)]
    if len(devices) < needed:
        refuse(
            f"INSTANCES={instances}, GPUS_PER_INSTANCE={gpus}: need {needed} GPUs, "
            f"{len(devices)} are visible; {what_fits(gpus, len(devices))}"
        )
    return devices


def answer_alone(flags: list[str]) -> None:
    """Let step 1 answer what needs no GPU, help or a dry run of all inputs, and end with it."""
    for flag in flags:
        if flag in ("-h", "--help", *HELP_ALL):
            os.execvp(STEP_1[0], [*STEP_1, flag])
    if is_given(flags, "dry_run"):
        os.execvp(STEP_1[0], [*STEP_1, *flags])


def main() -> None:
    flags = sys.argv[1:]
    answer_alone(flags)
    count = count_in("INSTANCES", 2)
    gpus = count_in("GPUS_PER_INSTANCE", 4)
    problem = not_shared(flags) if count > 1 else ""
    if problem:
        refuse(problem)
    label = list(STEP_1)
    try:
        listed = listed_gpus()
    except OSError as error:
        refuse(str(error))
    named = None
    if engines_on_gpus():
        label += ["--tensor_parallel_size", str(gpus)]
        named = named_gpus()
    devices = choose_devices(listed, named, count, gpus)
    of_each = []
    for number in range(count):
        of_each.append(",".join(devices[number * gpus : (number + 1) * gpus]))
    if count == 1:  # the only one writes the output itself
        os.environ[VISIBLE] = of_each[0]
        os.execvp(label[0], [*label, *flags])

    signals = []  # that have come
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.append(number))
    try:
        instances = start_all(label, flags, of_each)
    except OSError as error:
        refuse(f"an instance cannot be started: {error}")
    failed = wait_for(instances, signals)
    if signals:
        stop(instances)
        print("stopped; what is finished is kept, the same command continues", file=sys.stderr)
        sys.exit(130)
    if failed:
        sys.exit(failed)
    os.execvp(label[0], [*label, *flags])


if __name__ == "__main__":
    main()
