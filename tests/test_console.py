"""What a user sees while a script works: lines that say something, and bars."""

import io
import json
import logging
import os
import pty
import re
import shlex
import subprocess
import termios
import warnings
from pathlib import Path

import pytest

import evaluate
import predict
import serve
import serve_servers
from distill import next_step, progress, quiet
from distill.calibration import CALIBRATION
from distill.cascade.servers import on_gpus_of_its_own
from distill.cli import TASK, TEACHER
from distill.evaluation import console
from distill.evaluation.console import say_next
from distill.streams import LogFile, Terminal
from distill.task import load_task
from distill.teacher.engine_flags import given
from helpers import ROOT, program

# All that the three steps may write to stderr where it is no terminal. Nothing else passes, so a
# line that is added here is one that a user can use.
BAR = r"\s*\d+%\|.{10}\| [\d,]+/[\d,]+ \[[^\]]*\]"
STEP_1 = [
    r"create_data\.py: 2,101 inputs, 2,\d{3} to ask( \(the others .*\))?, teacher .*, output .*",
    rf"labelling: {BAR}",
    r"next, step 2, with your student's model for STUDENT: bash .*train_trl\.sh STUDENT .*",
    r"\d+ of \d+ answers were guarded .*",
]
STEP_2 = [
    r"train_sft_trl\.py: [\d,]+ rows of .*, student .*, adapter .*",
    r"LoRA on .*: [\d,]+ of [\d,]+ parameters \(.* %\)",
    r"effective batch \d+, \d+ optimizer steps; the first row's loss is on '.*'",
    rf"training: {BAR}",
    r"[\d,]+ rows are fewer than 2,000: to come near 150 optimizer steps, .* override",
    r"[\d,]+ more rows of .* are kept away from training, in .*",
    r"training starts from the weights of .*",
    r"only \d+ optimizer steps; more come from --num_train_epochs or a smaller batch",
    r"step \d+: [\d.]+ % of the evaluated answers are exact, eval_loss [\d.]+",
    r"next, step 3(, with your task and held-out rows .*)?: python .*evaluate\.py .*",
]
STEP_3 = [
    r"evaluate\.py: 441 rows, report .*, systems: .*",
    r"evaluating: .*",
    rf"(teacher|base student|distilled student)[^:]*: {BAR}",
    r"comparing 8 rows with PEFT",
    r"calibration: temperature [\d.]+, threshold [\d.]+; \d+ of its \d+ rows go to the teacher",
    r"next, its answer for every row of a file: python .*predict\.py .*",
    r"next, that model with its teacher where it is unsure: STUDENT=.* bash .*serve\.sh .*",
    r"next, a model to serve \(docs/serving\.md has other ways\): python .*merge_adapter\.py .*",
]


def assert_only(stderr: str, allowed: list[str]) -> None:
    """Every line of stderr is one of those that are allowed, and nothing is written over."""
    assert "\r" not in stderr
    for line in stderr.splitlines():
        assert any(re.fullmatch(pattern, line) for pattern in allowed), line


NOISE = [
    "/env/torch/x.py:1: FutureWarning: `torch.distributed.reduce_op` is deprecated",
    "(EngineCore pid=1) WARNING 11-28 02:41:21 [cpu.py:224] Triton is not installed.",
    "labelling:   0%|          | 0/9 [00:00<?, ?row/s]\rlabelling: 100%|██████████| 9/9 [00:01<0]",
    "",
]


@pytest.mark.parametrize("noise", NOISE)
def test_noise_does_not_pass(noise):
    first = "create_data.py: 2,101 inputs, 2,101 to ask, teacher models/x, output data/x.jsonl\n"
    assert_only(first, STEP_1)
    with pytest.raises(AssertionError):
        assert_only(f"{first}{noise}\n", STEP_1)


@pytest.mark.slow
def test_the_three_steps_say_nothing_that_nobody_can_act_on(evaluated, said):
    assert_only(said["step 1"], STEP_1)
    assert_only(said["step 2"], STEP_2)
    assert_only(said["step 3"], STEP_3)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["single", "ddp", "fsdp"])
def test_training_on_two_processes_says_no_more_than_on_one(trained, said, mode):
    assert_only(said[mode], STEP_2)
    assert said[mode].count("train_sft_trl.py: ") == 1


@pytest.mark.slow
def test_each_step_says_how_to_go_on(evaluated, labelled, distilled, said):
    """The commands are read back: their scripts are there, and step 3 takes its flags."""
    started_in = Path("/")  # as run() does
    lines = {step: said[step].splitlines() for step in ("step 1", "step 2", "step 3")}
    for step, (first, *_, last) in lines.items():
        assert re.match(r"\w+\.py: [\d,]+ (inputs|rows)", first), step
        assert last.startswith("next, "), step
    bash, script, *words = shlex.split(lines["step 1"][-1].partition(": ")[2])
    assert (bash, (started_in / script).resolve()) == ("bash", ROOT / "train_trl.sh")
    assert words == ["STUDENT", "models/labels", str(labelled[0])]
    python, script, *words = shlex.split(lines["step 2"][-1].partition(": ")[2])
    assert (python, (started_in / script).resolve()) == ("python", ROOT / "evaluate.py")
    asked = evaluate.parse_args(words)
    assert (asked.adapter, asked.max_tokens, asked.engine_flags) == (str(distilled[0]), 128, [])
    assert asked.teacher_model.endswith("tiny-thinking")
    assert asked.student_model.endswith("tiny-instruct")
    assert asked.task_file == evaluate.parse_args([]).task_file


def test_step_3_is_named_with_the_teacher_and_the_task_of_the_rows(tmp_path, monkeypatch):
    train_file = tmp_path / "my rows.jsonl"
    monkeypatch.chdir(ROOT)
    line = next_step.evaluation_command("out", "org/student", str(train_file))
    words = shlex.split(line)
    asked = evaluate.parse_args(words[2:])  # of labels from elsewhere
    assert (asked.adapter, asked.student_model) == ("out", "org/student")
    assert asked.systems == ["base", "student"]
    assert (asked.task_file, asked.test_file) == (next_step.TASK_FILE, next_step.GOLD)
    manifest = {"model": "org/teacher", "revision": "v2", "task": "0", "task_file": "my task.yaml"}
    manifest.update(reasoning_parser="none", temperature=0.15, max_tokens=512)
    (tmp_path / "my rows.jsonl.manifest.json").write_text(json.dumps(manifest))
    words = shlex.split(next_step.evaluation_command("out", "org/student", str(train_file)))
    asked = evaluate.parse_args(words[2:])
    assert asked.engine_flags == []
    assert (asked.teacher_model, asked.teacher_revision) == ("org/teacher", "v2")
    assert (asked.reasoning_parser, asked.max_tokens) == ("none", 512)
    assert (asked.task_file, asked.test_file) == ("my task.yaml", next_step.GOLD)
    assert "--temperature" not in words


def test_step_3_finds_the_examples_rows_from_another_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = {"model": "org/teacher", "task": load_task(TASK).hash, "task_file": TASK}
    (tmp_path / "rows.jsonl.manifest.json").write_text(json.dumps(manifest))
    words = shlex.split(next_step.evaluation_command("out", "org/student", "rows.jsonl"))
    assert evaluate.parse_args(words[2:]).test_file == str(ROOT / "example-data" / "heldout.jsonl")
    (tmp_path / "rows.jsonl.manifest.json").write_text("[1]")  # nothing that step 1 has written
    words = shlex.split(next_step.evaluation_command("out", "org/student", "rows.jsonl"))
    assert evaluate.parse_args(words[2:]).test_file == next_step.GOLD


def test_defaults_that_are_left_out_are_those_of_step_3():
    asked = evaluate.parse_args([])
    for name, value in next_step.SAMPLING.items():
        assert getattr(asked, name) == value
    assert (asked.task_file, asked.teacher_model) == (TASK, TEACHER)


@pytest.fixture
def adapter(tmp_path, monkeypatch):
    """The directory of an adapter, as far as step 3 looks there for what comes next.

    No GPU is there.
    """
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(console, "visible_gpus", lambda: [])
    config = {"base_model_name_or_path": "org/student"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    return tmp_path


def said_after(adapter, caplog, *flags, cascade=True):
    """The commands that step 3 names at its end, as words."""
    caplog.clear()
    given = ["--adapter", adapter, "--student_model", "org/student", "--test_file", "x", *flags]
    choices = evaluate.parse_args([str(word) for word in given])
    say_next(choices, ["teacher", "student", *(["cascade"] if cascade else [])])
    return [shlex.split(line.split(": ", 1)[1]) for line in caplog.messages]


def test_step_3_names_the_backlog_and_with_a_calibration_the_cascade(adapter, caplog):
    """The flags are read back by the scripts that get them."""
    caplog.set_level("INFO")
    asking, merging = said_after(adapter, caplog, cascade=False)
    assert asking[:2] == ["python", "predict.py"] and merging[:2] == ["python", "merge_adapter.py"]
    found = predict.parse_args(asking[2:])
    assert (found.adapter, found.task_file, found.model_name) == (str(adapter), TASK, "")
    assert len(said_after(adapter, caplog)) == 2  # nothing was written
    (adapter / CALIBRATION).write_text("{}")
    *_, serving = said_after(adapter, caplog)
    assert serving[:3] == [f"STUDENT={adapter}-merged", f"TEACHER={TEACHER}", "bash"]
    assert serving[3:] == ["serve.sh", "--adapter", str(adapter), "--task", TASK]
    # what differs from the defaults goes on
    flags = ["--task", "my task.yaml", "--student_max_tokens", 9, "--teacher_revision", "v2"]
    flags += ["--temperature", 0.5, "--max_tokens", 100, "--reasoning_parser", "none"]
    flags += ["--student_model", "moved/student", "--student_revision", "v3"]
    asking, _, serving = said_after(adapter, caplog, *flags)
    found = predict.parse_args(asking[2:])
    assert (found.model_name, found.revision, found.max_tokens) == ("moved/student", "v3", 9)
    assert serving[2] == "TEACHER_FLAGS=--revision v2"
    urls = ["--student_url", "http://h/v1", "--teacher_url", "http://t/v1"]
    names = ["--student_name", "s", "--teacher_name", "t"]
    served = serve.parse_args([*serving[serving.index("serve.sh") + 1 :], *urls, *names])
    assert (served.task_file, served.settings.max_tokens) == ("my task.yaml", 100)
    assert (served.settings.temperature, served.settings.thinks) == (0.5, False)
    flags = ["--tensor_parallel_size", 4, "--max_model_len", "8192"]
    *_, serving = said_after(adapter, caplog, *flags)
    on_four = "--tensor-parallel-size 4 --max_model_len 8192"
    assert serving[1] == f"STUDENT_FLAGS={on_four}"
    assert serving[3] == f"TEACHER_FLAGS=--reasoning-parser qwen3 {on_four}"
    (own_flags,) = said_after(adapter, caplog, "--reasoning_parser", "none")[2][2:3]
    assert own_flags == "TEACHER_FLAGS= "  # which the shell does not take for none given
    behind_url = ["--teacher_url", "http://t/v1", "--teacher_model", "t"]
    assert len(said_after(adapter, caplog, *behind_url)) == 2


ON_GPUS = {
    "two": (2, 1, ("0", "1"), None),
    "eight, four each": (8, 4, ("0,1,2,3", "4,5,6,7"), None),
    "one": (1, 1, None, "0.45"),
    "four that both need": (4, 4, None, "0.45"),
}


@pytest.mark.parametrize(("visible", "split", "gpus", "share"), ON_GPUS.values(), ids=ON_GPUS)
def test_the_cascade_is_named_with_the_gpus_of_both(
    visible, split, gpus, share, adapter, caplog, monkeypatch
):
    caplog.set_level("INFO")
    (adapter / CALIBRATION).write_text("{}")
    listed = [str(number) for number in range(visible)]
    monkeypatch.setattr(console, "visible_gpus", lambda: listed)
    *_, serving = said_after(adapter, caplog, "--tensor_parallel_size", split)
    settings = dict(word.split("=", 1) for word in serving[: serving.index("bash")])
    assert settings.get("STUDENT_GPUS") == (gpus and gpus[0])
    assert settings.get("TEACHER_GPUS") == (gpus and gpus[1])
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    both = on_gpus_of_its_own(serve_servers.models([]), listed)  # which serve.sh starts
    assert [given(model.flags, "gpu_memory_utilization") for model in both] == [share] * 2
    assert [model.needs() for model in both] == [split] * 2


def test_two_engines_on_a_gpu_get_less_memory_than_one_had(adapter, caplog, monkeypatch):
    caplog.set_level("INFO")
    (adapter / CALIBRATION).write_text("{}")
    monkeypatch.setattr(console, "visible_gpus", lambda: ["0"])
    for had, wanted in (("0.9", "0.45"), ("0.3", "0.3")):
        *_, serving = said_after(adapter, caplog, "--gpu_memory_utilization", had)
        flags = serving[1].removeprefix("STUDENT_FLAGS=").split()
        assert given(flags, "gpu_memory_utilization") == wanted


def test_step_2_is_named_with_what_is_known(monkeypatch):
    monkeypatch.chdir(ROOT)
    line = next_step.training_command("data/a b.jsonl", TEACHER)
    assert line == "bash train_trl.sh --train_file 'data/a b.jsonl'"
    line = next_step.training_command("data/x.jsonl", "org/teacher")
    assert line == "bash train_trl.sh STUDENT models/x data/x.jsonl"


def test_scripts_are_named_from_the_directory_that_we_are_in(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    script = shlex.split(next_step.merging_command("out/"))[1]
    assert (tmp_path / script).resolve() == ROOT / "merge_adapter.py"
    assert next_step.merging_command("out/").endswith("--adapter out/ --output_dir out-merged")


def test_a_merged_model_is_served_as_its_machine_needs_it():
    on_gpu = next_step.serving_command("models/a b", on_gpus=True)
    assert on_gpu == "vllm serve 'models/a b' --served-model-name student --max-model-len auto"
    on_cpu = next_step.serving_command("models/merged", on_gpus=False)
    documented = (ROOT / "docs" / "serving.md").read_text("utf-8").replace("\\\n  ", "")
    assert on_cpu in documented


def test_a_bar_in_a_log_file_is_lines():
    stream = io.StringIO()
    log = LogFile(stream)
    for text in ("\r  0%|", "\r 50%| ", "\r     ", "\r", "said\n", "\r100%|", "\n", "end\n", "\n"):
        assert log.write(text) == len(text)
    assert stream.getvalue() == "0%|\n50%|\nsaid\n100%|\nend\n\n"


def test_what_is_said_beside_a_bar_on_a_terminal_has_a_line_of_its_own():
    stream = io.StringIO()
    terminal = Terminal(stream)
    for text in ("\r 50%|", "said\n", "\r100%|", "\n", "end\n"):
        terminal.write(text)
    assert stream.getvalue() == "\r 50%|\nsaid\n\r100%|\nend\n"


def shown_by(command, columns: int | None) -> str:
    """What a program writes to stderr, a terminal of so many columns (0: it does not say it) or a
    pipe.
    """
    if columns is None:
        return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True).stderr
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (24, columns))
    process = subprocess.Popen(command, stderr=its)
    os.close(its)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # nobody writes there any more
            break
    os.close(ours)
    assert process.wait() == 0
    return shown.decode()


# 300 steps in three seconds: states come each second, or each 30 s, and the last one is shown.


def test_a_bar_in_a_log_file_has_a_state_each_30_seconds_and_the_last_one():
    lines = shown_by(program("show_bar.py"), columns=None).splitlines()
    assert [re.sub(r"\|.*", "", line) for line in lines] == ["working:   0%", "working: 100%"]
    assert "300/300" in lines[-1] and "end" in lines[-1]


@pytest.mark.parametrize("columns", [0, 70])
def test_a_bar_on_a_terminal_is_one_line(columns):
    on_terminal = shown_by(program("show_bar.py"), columns)
    states = on_terminal.split("\r")
    assert max(map(len, states)) <= (columns or 80)
    assert 4 <= sum("working: " in state for state in states) <= 6
    assert on_terminal.count("\n") == 1 and "300/300" in on_terminal
    assert "library" not in on_terminal  # its bar took too short to appear


def test_a_second_process_shows_no_bar(capsys, monkeypatch):
    """Of a launch. Runs of step 1 show one each, though a manager may have numbered them so."""
    monkeypatch.setenv("RANK", "1")
    list(progress.bar(range(3), of_first=True))
    assert capsys.readouterr().err == ""
    list(progress.bar(range(3)))
    assert "3/3" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "0")
    list(progress.bar(range(3), of_first=True))
    assert "3/3" in capsys.readouterr().err


def test_a_message_that_does_not_fit_its_values_is_left_to_its_logger():
    record = logging.LogRecord("x", logging.WARNING, "x.py", 1, "a %s %s", ("b",), None)
    assert quiet.LeaveOut(("a b",)).filter(record)


def test_work_that_is_mostly_short_shows_no_bar(capsys):
    list(progress.bar(range(3), later=True))
    assert capsys.readouterr().err == ""


@pytest.fixture
def quiet_here(monkeypatch):
    """This process leaves the noise out, and afterwards is as before."""
    monkeypatch.setattr("sys.warnoptions", [])
    monkeypatch.setattr(quiet, "is_cpu_build", lambda: True)
    for name in ("TQDM_DELAY", "TQDM_MININTERVAL", "TQDM_MAXINTERVAL", "TORCH_CPP_LOG_LEVEL"):
        monkeypatch.setenv(name, "")
    names = [*quiet.EVERYWHERE, *quiet.ON_CPU]
    before = {name: list(logging.getLogger(name).filters) for name in names}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet.leave_out_noise()
        yield caught
    for name, filters in before.items():
        logging.getLogger(name).filters = filters


def test_only_known_messages_are_left_out(quiet_here, caplog):
    warnings.warn("The following rank_pattern keys did not match any", RuntimeWarning, stacklevel=1)
    message = "The following rank_pattern keys did not match any targeted module and were ignored"
    warnings.warn(message, RuntimeWarning, stacklevel=1)
    warnings.warn(message, UserWarning, stacklevel=1)
    said = [(str(one.message), one.category) for one in quiet_here]
    assert said == [
        ("The following rank_pattern keys did not match any", RuntimeWarning),
        (message, UserWarning),
    ]
    worker = logging.getLogger("vllm.v1.worker.cpu_worker")
    worker.propagate = True
    worker.addHandler(caplog.handler)
    try:
        worker.warning("%s is not found in LD_PRELOAD.", "libtcmalloc")
        worker.warning("Node %s is not in available memory nodes", 1)
        worker.error("broken")
    finally:
        worker.removeHandler(caplog.handler)
    lines = {record.getMessage() for record in caplog.records}
    assert lines == {"Node 1 is not in available memory nodes", "broken"}
