"""The commands that a script names at its end, as they can be pasted into a shell."""

import json
import shlex
from pathlib import Path

from distill.adapter_files import Base, recorded_base
from distill.cli import (
    ANSWER_TOKENS,
    HELDOUT,
    MAX_TOKENS,
    REASONING_PARSER,
    ROOT,
    TASK,
    TEACHER,
    TEMPERATURE,
)
from distill.outputs import beside
from distill.task import load_task
from distill.teacher.engine import CACHE_ON_CPU, CACHE_VARIABLE
from distill.teacher.engine_flags import FITTING, beside_another
from distill.teacher.server import Server

# What step 3 asks the teacher with, if it is told nothing else.
SAMPLING = {
    "reasoning_parser": REASONING_PARSER,
    "temperature": TEMPERATURE,
    "max_tokens": MAX_TOKENS,
}
WITHOUT_TEACHER = "base,student"  # systems of step 3
# Stand for what only the user knows: a task of his own, and its held-out rows.
TASK_FILE = "TASK.yaml"
GOLD = "GOLD.jsonl"
BACKLOG = "BACKLOG.csv"
ANSWERS = "ANSWERS.csv"
# Of a teacher behind a URL, where step 1 has asked one.
BEHIND_URL = ("teacher_url", "api_key_env", "teacher_tokenizer")


def command(program: str, script: str, *words: str | Path) -> str:
    """How a script of this repository is called from the directory that we are in."""
    path = ROOT / script
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return shlex.join([program, *map(str, [path, *words])])


def training_command(output_file: str, teacher: str) -> str:
    """How step 2 is started on what step 1 wrote to `output_file`.

    With the default teacher its student is the default one too. Another teacher's is not known:
    STUDENT stands for it.
    """
    if teacher == TEACHER:
        return command("bash", "train_trl.sh", "--train_file", output_file)
    adapter = Path("models") / Path(output_file).stem
    return command("bash", "train_trl.sh", "STUDENT", adapter, output_file)


def evaluation_command(adapter: str, student: str, train_file: str) -> str:
    """How step 3 is started for an adapter, with the teacher and the task of its rows.

    Step 1 has written them beside the rows. What is not there is left to the defaults of step 3.
    Labels from elsewhere have neither a teacher to be asked nor a task that is known here.
    """
    words = ["--adapter", adapter, "--student_model", student]
    manifest = manifest_of(train_file)
    if not manifest:
        words += ["--systems", WITHOUT_TEACHER, "--task", TASK_FILE, "--test_file", GOLD]
        return command("python", "evaluate.py", *words)
    if "model" in manifest:
        words += ["--teacher_model", manifest["model"]]
    for name in BEHIND_URL:
        if manifest.get(name):
            words += [f"--{name}", manifest[name]]
    if manifest.get("revision"):
        words += ["--teacher_revision", manifest["revision"]]
    for name, default in SAMPLING.items():
        value = manifest.get(name, default)
        if value != default:
            words += [f"--{name}", value]
    if "task_file" in manifest and not is_example(manifest.get("task")):
        words += ["--task", manifest["task_file"], "--test_file", GOLD]
    elif Path.cwd() != ROOT:  # where the default would not be found
        words += ["--test_file", ROOT / HELDOUT]
    return command("python", "evaluate.py", *words)


def student_evaluation_command(adapter: str, student: str, task_file: str, max_tokens: int) -> str:
    """How step 3 is started for the student alone, on gold that only the user has."""
    words = ["--systems", "student", "--adapter", adapter, "--student_model", student]
    words += student_words(task_file, max_tokens)
    return command("python", "evaluate.py", *words)


def served_evaluation_command(server: Server, task_file: str, max_tokens: int) -> str:
    """The same for a student that a server has."""
    words = ["--systems", "student", "--student_url", server.url, "--student_name", server.model]
    if server.api_key_env:
        words += ["--student_api_key_env", server.api_key_env]
    if server.tokenizer:
        words += ["--student_tokenizer", server.tokenizer]
    words += student_words(task_file, max_tokens)
    return command("python", "evaluate.py", *words)


def student_words(task_file: str, max_tokens: int) -> list:
    """How a student alone is asked on gold that only the user has."""
    words = ["--task", task_file, "--test_file", GOLD]
    if max_tokens != ANSWER_TOKENS:
        words += ["--student_max_tokens", max_tokens]
    return words


def is_example(task: str | None) -> bool:
    """Whether this is the hash of the example's task."""
    try:
        return task == load_task(TASK).hash
    except (OSError, ValueError):  # somebody is editing it
        return False


def manifest_of(train_file: str) -> dict:
    """Read what step 1 says of the rows that it wrote; empty for rows of another origin."""
    try:
        manifest = json.loads(beside(Path(train_file), "manifest.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def task_of_rows(train_file: str) -> dict[str, str]:
    """Which task file step 1 has labelled these rows by, and its hash at that time.

    As results.json of step 2 has it, where predict.py looks. Empty for rows of another origin.
    """
    manifest = manifest_of(train_file)
    if "task" not in manifest or "task_file" not in manifest:
        return {}
    task_file = str(Path(manifest["task_file"]).absolute())
    return {"task_file": task_file, "task_hash": manifest["task"]}


def prediction_command(adapter: str, base: Base, task_file: str, max_tokens: int) -> str:
    """How the rows of a file get the student's answers; `base` is the model as step 3 had it."""
    words = ["--adapter", adapter, "--task", task_file]
    recorded = recorded_base(adapter)
    if base.name != recorded.name:
        words += ["--model_name", base.name]
    if base.revision and base.revision != recorded.revision:
        words += ["--revision", base.revision]
    if max_tokens != ANSWER_TOKENS:
        words += ["--max_tokens", max_tokens]
    words += ["--input_file", BACKLOG, "--output_file", ANSWERS]
    return command("python", "predict.py", *words)


def merging_command(adapter: str) -> str:
    """How the stand-alone model of an adapter is made beside it."""
    words = ["--adapter", adapter, "--output_dir", merged_beside(adapter)]
    return command("python", "merge_adapter.py", *words)


def merged_beside(adapter: str) -> str:
    """Where merging_command() puts the model."""
    return f"{adapter.rstrip('/')}-merged"


def cascade_command(
    adapter: str,
    task_file: str,
    teacher: str,
    revision: str | None,
    asked_with: dict,
    engine_flags: list[str],
    gpus: list[str],
    gpus_of_each: int,
) -> str:
    """How the merged student is served with its teacher behind it, on this machine.

    `asked_with` has what the teacher was asked with, by the names in SAMPLING. `engine_flags` are
    vLLM's, for both models. Of this machine's `gpus` each model is on so many, and where these are
    too few for both, the two share them.
    """
    parser = asked_with["reasoning_parser"]
    of_student = gpus[:gpus_of_each]
    of_teacher = gpus[gpus_of_each : 2 * gpus_of_each]
    apart = len(of_teacher) == gpus_of_each
    if gpus and not apart:
        engine_flags = beside_another(engine_flags)
    settings = [f"STUDENT={shlex.quote(merged_beside(adapter))}"]
    if apart:
        settings.append(f"STUDENT_GPUS={shlex.quote(','.join(of_student))}")
    if engine_flags:
        settings.append(f"STUDENT_FLAGS={shlex.quote(shlex.join(engine_flags))}")
    settings.append(f"TEACHER={shlex.quote(teacher)}")
    if apart:
        settings.append(f"TEACHER_GPUS={shlex.quote(','.join(of_teacher))}")
    if parser != REASONING_PARSER or revision or engine_flags:
        own = [] if parser == "none" else ["--reasoning-parser", parser]
        own += ["--revision", revision] if revision else []
        own += engine_flags
        # empty flags would be taken for none that are given
        settings.append(f"TEACHER_FLAGS={shlex.quote(shlex.join(own) or ' ')}")
    words = ["--adapter", adapter, "--task", task_file]
    for name, default in SAMPLING.items():
        flag = "teacher_temperature" if name == "temperature" else name
        if asked_with[name] != default:
            words += [f"--{flag}", asked_with[name]]
    return f"{' '.join(settings)} {command('bash', 'serve.sh', *words)}"


def serving_command(model: str, on_gpus: bool) -> str:
    """How vLLM serves a model that needs nothing else; its CPU build has no command of its own."""
    words = ["--served-model-name", "student", *FITTING]
    if on_gpus:
        return shlex.join(["vllm", "serve", model, *words])
    module = ["python", "-m", "vllm.entrypoints.openai.api_server"]
    line = shlex.join([*module, "--model", model, *words, "--enforce-eager"])
    return f"{CACHE_VARIABLE}={CACHE_ON_CPU} {line}"
