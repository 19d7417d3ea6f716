"""What an engine said, in one line, and what of it reaches the screen. No model, no vLLM."""

import subprocess
import time

import pytest

from distill.teacher.engine_log import (
    LESS_MEMORY,
    LONGEST_REASON,
    EngineLog,
    before_an_error,
    root_cause,
)
from helpers import program

TRACEBACK = "Traceback (most recent call last):\n"
FRAME = (
    '  File "/env/lib/python3.11/site-packages/vllm/v1/worker.py", line 219, in load\n'
    "    raise X(\n          ^^\n"
)
FAILED_START = "WorkerProc failed to start.\n"
BECAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
MEANWHILE = "\nDuring handling of the above exception, another exception occurred:\n\n"


def raised(error: str) -> str:
    """An exception as Python prints it."""
    return TRACEBACK + FRAME + error + "\n"


def logged(process: str, text: str) -> str:
    """Lines as vLLM's loggers print them."""
    prefix = f"({process} pid=5549) ERROR 11-28 02:41:21 [multiproc_executor.py:1063] "
    return "".join(f"{prefix}{line}\n" for line in text.splitlines())


def with_consequences(said: str, error: str) -> str:
    """What the engine's process prints because of its worker's failure, and then ours."""
    said += logged("EngineCore", "EngineCore failed to start.\n" + raised(error))
    said += "Process EngineCore:\n" + raised(error)
    ours = (
        "Engine core initialization failed. See root cause above. "
        "Failed core proc(s): {'EngineCore': 1}"
    )
    return said + raised(f"RuntimeError: {ours}")


def worker_failed(process: str, error: str) -> str:
    """What is printed when a worker cannot start."""
    generic = "WorkerProc initialization failed due to an exception in a background process. "
    generic += "See stack trace for root cause."
    return with_consequences(logged(process, FAILED_START + raised(error)), f"Exception: {generic}")


# Recorded from the CPU build of vLLM 0.32.0; tracebacks are shortened to one frame.

LOADING = (
    "Loading shards:   0% Completed | 0/1 [00:00<?]\r"
    "Loading shards: 100% Completed | 1/1 [00:00<00:00]\n\n"
)
NO_ROOM = """Available memory on node 0 (4.98/8.09 GiB) on kv cache allocation is less than requested memory for kv \
(4000.0 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory used by other processes."""  # noqa: E501
IN_A_CALL = (
    "WorkerProc hit an exception.\n"
    + raised(f"ValueError: {NO_ROOM}")
    + raised(f"ValueError: {NO_ROOM}")
)
AFTER_IT = (
    f"RuntimeError: Worker failed with error '{NO_ROOM}', "
    "please check the stack trace above for the root cause"
)
CUT_OFF = (
    "SafetensorError: Error while deserializing header: incomplete metadata, file not fully covered"
)
RECORDED = {
    "key-value cache": (
        LOADING + with_consequences(logged("Worker", IN_A_CALL), AFTER_IT),
        NO_ROOM,
    ),
    "worker class": (
        worker_failed("VllmWorker-0", "ModuleNotFoundError: No module named 'nosuch'"),
        "ModuleNotFoundError: No module named 'nosuch'",
    ),
    "cut-off weights": (
        worker_failed("Worker", f"safetensors._safetensors_rust.{CUT_OFF}"),
        CUT_OFF,
    ),
    "a worker is killed while it works": (
        with_consequences(
            logged(
                "EngineCore",
                "Worker proc VllmWorker-1 died unexpectedly (exit code: -9), "
                "shutting down executor.",
            ),
            "RuntimeError: cancelled",
        ),
        "a worker was killed by signal 9",
    ),
    "no message": (
        logged("Worker", raised("MemoryError") + "and further"),
        "MemoryError in load (vllm/v1/worker.py, line 219)",
    ),
}

# Not recorded, most for want of a GPU: messages of PyTorch, FlashInfer, NCCL, huggingface_hub,
# pydantic and Ray.

NOT_A_FLOAT = "TypeError: Field 'rms_norm_eps' expected float, got str (value: 'x')"
STRICT = (
    "huggingface_hub.errors.StrictError: Validation error for field 'rms_norm_eps':\n"
    f"    {NOT_A_FLOAT}"
)
GPU_MEMORY = """OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of \
79.11 GiB of which 1.50 GiB is free."""  # noqa: E501
WARM_UP = "CUDA out of memory occurred when warming up sampler with 1024 dummy requests."
DRIVER = (
    "The NVIDIA driver on your system is too old (found version 12040). "
    "Please update your GPU driver."
)
NVCC = "Could not find nvcc and default cuda_home='/usr/local/cuda' doesn't exist"
SEGMENT = "Error while creating shared memory segment /dev/shm/nccl-AbCdEf (size 9637888)"
NCCL = f"""torch.distributed.DistBackendError: NCCL error in: NCCLUtils.cpp:94, unhandled system error
ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.
Last error:
{SEGMENT}"""  # noqa: E501
OTHER_WORKER = (
    "RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234"
)
SETTING = """pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig
  Value error, no such thing [type=value_error, input_value=1]
    For further information visit https://errors.pydantic.dev/"""
FIELD = SETTING.replace("  Value error, no such thing", "block_size\n  Input should be 8")
ON_RAY = "".join(
    f"(RayWorkerProc pid=7, ip=10.0.0.2) {line}\n" for line in raised("ValueError: x").splitlines()
)
SEGMENTATION = (
    "(Worker pid=1) Fatal Python error: Segmentation fault\n\n"
    "Current thread 0x01 (most recent call first):\n"
)
WRITTEN = {
    "on two lines": (raised(NOT_A_FLOAT) + BECAUSE + raised(STRICT), f"StrictError: {NOT_A_FLOAT}"),
    "GPU memory": (
        logged("Worker_TP1", FAILED_START + raised(OTHER_WORKER))
        + worker_failed("Worker_TP0", f"torch.{GPU_MEMORY}"),
        f"{GPU_MEMORY}; {LESS_MEMORY}",
    ),
    "explained": (
        logged(
            "EngineCore",
            raised(f"torch.{GPU_MEMORY}") + BECAUSE + raised(f"RuntimeError: {WARM_UP}"),
        ),
        f"{WARM_UP}; {LESS_MEMORY}",
    ),
    "a consequence on top": (
        logged(
            "EngineCore",
            raised("KeyError: 'w'") + MEANWHILE + raised("RuntimeError: Executor failed."),
        ),
        "KeyError: 'w'",
    ),
    "on the next line": (raised("RuntimeError:\n  no such thing"), "no such thing"),
    "driver": (worker_failed("Worker", f"RuntimeError: {DRIVER}"), DRIVER),
    "nvcc": (worker_failed("Worker", f"RuntimeError: {NVCC}"), NVCC),
    "shared memory": (worker_failed("Worker_TP0_EP0", NCCL), f"DistBackendError: {SEGMENT}"),
    "a setting": (logged("EngineCore", raised(SETTING)), "ValidationError: no such thing"),
    "a field": (
        logged("EngineCore", raised(FIELD)),
        "ValidationError: block_size: Input should be 8",
    ),
    "native code": (SEGMENTATION, "Fatal Python error: Segmentation fault"),
    "an actor of Ray": (ON_RAY, "x"),
}


@pytest.mark.parametrize(
    ("said", "reason"), [*RECORDED.values(), *WRITTEN.values()], ids=[*RECORDED, *WRITTEN]
)
def test_the_root_cause_in_one_line(said, reason):
    assert root_cause(said) == reason
    coloured = said.replace("ERROR 11-28", "\x1b[31mERROR\x1b[0m 11-28").replace(
        "(Worker", "\x1b[0;36m(Worker"
    )
    assert root_cause(coloured) == reason


def test_workers_that_print_at_the_same_time_are_kept_apart():
    one = logged("Worker_TP0", FAILED_START + raised(GPU_MEMORY)).splitlines()
    other = logged("Worker_TP1", FAILED_START + raised(OTHER_WORKER)).splitlines()
    mixed = [line for pair in zip(one, other, strict=True) for line in pair]
    assert root_cause("\n".join(mixed)).startswith(GPU_MEMORY)


def test_no_reason_and_a_long_one():
    assert root_cause("") is None
    assert (
        root_cause(
            "(EngineCore pid=1) WARNING 11-28 02:41:20 [cpu.py:224] Triton is not installed.\n"
        )
        is None
    )
    assert root_cause(worker_failed("EngineCore", "RuntimeError: Executor failed.")) is None
    assert len(root_cause(raised("KeyError: " + "word " * 999))) <= LONGEST_REASON


def test_what_is_shown_while_an_engine_starts():
    shown = b"(Worker pid=1) WARNING 11-28 02:41:20 [x.py:1] slow\nLoading:  50%\rLoading: 100%\r\n"
    assert before_an_error(shown) == len(shown)
    assert before_an_error(shown + b"(Worker pid=1) ERR") == len(shown)  # half a line
    for held in (logged("Worker", "failed"), TRACEBACK, "Fatal Python error: x\n"):
        assert before_an_error(shown + held.encode() + shown) == len(shown), held


def shown_within(capfd, seconds: float, wanted: str) -> str:
    """What is on stderr when `wanted` has come there, or after some seconds."""
    shown = ""
    end = time.monotonic() + seconds
    while wanted not in shown and time.monotonic() < end:
        time.sleep(0.05)
        shown += capfd.readouterr().err
    return shown


def test_errors_are_held_back_until_the_engine_has_started(capfd):
    command = program("print_to_engine_log.py")
    engine_log = EngineLog()
    with engine_log.named_to_children():
        subprocess.run(command, check=True)
    assert shown_within(capfd, 5, "100%") == "Loading: 100%\n"
    assert shown_within(capfd, 0.5, "ERROR") == ""
    assert engine_log.said() == "Loading: 100%\nERROR of it\n"
    engine_log.pass_on_everything()
    assert capfd.readouterr().err == "ERROR of it\n"
    subprocess.run(command, check=True)  # started by somebody else, so on a screen of its own
    assert capfd.readouterr() == ("Loading: 100%\n", "ERROR of it\n")
    with engine_log.named_to_children():
        subprocess.run(command, check=True)
    engine_log.close()
    assert capfd.readouterr().err == "Loading: 100%\nERROR of it\n"


def test_a_failed_start_is_kept_in_a_file(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    engine_log = EngineLog()
    with engine_log.named_to_children():
        subprocess.run(program("print_to_engine_log.py"), check=True)
    assert list(tmp_path.iterdir()) == []
    kept = engine_log.keep("and ours")
    engine_log.close()
    assert capfd.readouterr().err == "Loading: 100%\n"
    assert [str(path) for path in tmp_path.iterdir()] == [kept]
    assert (tmp_path / kept).read_text() == "Loading: 100%\nERROR of it\nand ours"
