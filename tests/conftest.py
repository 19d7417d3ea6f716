"""What several test files share: the stages of the tiny pair, each made once."""

import json
import os
import signal
import subprocess

import pytest
from filelock import FileLock

from helpers import (
    AS_A_USER,
    FSDP_REPOSITORY,
    MODES,
    ROOT,
    SENTENCES,
    STEPS,
    STUDENT,
    TEACHER,
    labelling_flags,
    last_json,
    python,
    run,
    training_command,
)
from loopback_hub import LoopbackHub
from nodes import NODES
from vllm_server import server


def pytest_addoption(parser):
    parser.addoption(
        "--rebuild-pair",
        action="store_true",
        help="also train the tiny pair from scratch, which takes up to an hour, and compare it",
    )


def pytest_configure():
    """Heed Ctrl-C in what tests start, also where a shell has started pytest in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Fixtures that take minutes, of which one process makes each: tests of the same one stay together.
SHARED = ("labelled", "trained")

# Groups that take longest, in this order: one that begins when others have ended leaves a core
# idle. The others follow, slow ones first.
LONGEST = [
    *SHARED,
    "test_replicas.py",
    "test_create_data.py",
    "test_create_data_killed.py",
    "test_loading.py",
    "test_train_sft_trl.py",
    "test_benchmarks.py",
    "test_engine.py",
    "test_hub.py",
    "test_create_data_url.py",
    "test_serve_flywheel.py",
    "test_tickets.py",
]


def group_of(item) -> str:
    """The tests that run in one process, one after the other, where several share the work.

    Those of a file stay together, for what its fixtures make.
    """
    for fixture in SHARED:
        if fixture in item.fixturenames:
            return fixture
    return item.path.name


def place_of(item) -> int:
    """Where a test's group stands in the order of the groups."""
    group = group_of(item)
    return LONGEST.index(group) if group in LONGEST else len(LONGEST)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups
def pytest_collection_modifyitems(config, items):
    """Long groups and slow tests come first, so that no process is left alone with them at the
    end.

    Those that train the tiny pair as a whole are left out unless they are asked for.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    items.sort(key=place_of)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
    if not config.getoption("--rebuild-pair"):
        left_out = [item for item in items if item.get_closest_marker("rebuild_pair")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def pair():
    """Both models below models/, put there by one process while the others wait.

    Trained only where task or sentences are not those of the shipped pair.
    """
    TEACHER.parent.mkdir(exist_ok=True)
    with FileLock(TEACHER.parent / ".pair.lock"):
        python("tests/tiny_pair.py")


@pytest.fixture(scope="session")
def said():
    """What the steps below and the runs of `trained` have printed to stderr, by their names."""
    return {}


@pytest.fixture(scope="session")
def labelled(pair, tmp_path_factory, said):
    """Step 1 over all sentences: (output file, JSON line)."""
    output = tmp_path_factory.mktemp("data") / "labels.jsonl"
    process = python("create_data.py", *labelling_flags(output), env={**os.environ, **AS_A_USER})
    said["step 1"] = process.stderr
    return output, last_json(process)


@pytest.fixture(scope="session")
def distilled(labelled, tmp_path_factory, said):
    """Step 2 on what step 1 wrote: (adapter directory, JSON line)."""
    adapter = tmp_path_factory.mktemp("adapter") / "out"
    flags = ["--config", ROOT / "configs" / "tiny.yaml", "--calibration_fraction", 0.2]
    process = run("bash", ROOT / "train_trl.sh", STUDENT, adapter, labelled[0], *flags)
    said["step 2"] = process.stderr
    return adapter, last_json(process)


@pytest.fixture(scope="session")
def evaluated(distilled, tmp_path_factory, said):
    """Step 3 on what step 2 trained.

    Of 21 inputs without gold one is far too long: (report directory, process).
    """
    further = tmp_path_factory.mktemp("further") / "inputs.txt"
    lines = [*SENTENCES.read_text(encoding="utf-8").splitlines()[:20], "hola " * 20000]
    further.write_text("\n".join(lines), encoding="utf-8")
    flags = [
        "--teacher_model",
        TEACHER,
        "--student_model",
        STUDENT,
        "--adapter",
        distilled[0],
        "--max_tokens",
        128,
    ]
    flags += [
        "--test_file",
        ROOT / "example-data" / "heldout.jsonl",
        "--inputs_without_gold",
        further,
        "--latency_rows",
        20,
    ]
    prices = ["--price_input", 0.1, "--price_cached", 0.01, "--price_output", 0.4]
    process = python("evaluate.py", *flags, *prices, env={**os.environ, **AS_A_USER})
    said["step 3"] = process.stderr
    return distilled[0] / "report", process


@pytest.fixture(scope="session")
def student_server(distilled, tmp_path_factory):
    """vLLM's server of the merged student, under the name student: (client, directory of it)."""
    folder = tmp_path_factory.mktemp("served")
    merged = folder / "merged"
    python("merge_adapter.py", "--adapter", distilled[0], "--output_dir", merged)
    flags = ["--served-model-name", "student", "--dtype", "float32"]  # as step 3 without AVX-512
    with server(folder / "log", merged, *flags) as client:
        yield client, merged


# Training on the tiny student, 40 steps of 16 rows in fp32


@pytest.fixture(scope="session")
def train_file(tmp_path_factory):
    """168 gold rows: ten batches of 16 and one of 8, which no launcher may fill up or drop."""
    path = tmp_path_factory.mktemp("train") / "train.jsonl"
    lines = (
        (ROOT / "example-data" / "multilingual_gold.jsonl")
        .read_text(encoding="utf-8")
        .splitlines(keepends=True)
    )
    path.write_text("".join(lines[:168]), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def hub():
    """A stand-in for the Hugging Face hub, to which every run of `trained` is pushed."""
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture(scope="session")
def trained(pair, train_file, hub, tmp_path_factory, said):
    """An uninterrupted run in each mode: {mode: (directory, JSON line)}.

    Two processes checkpoint long batches.
    """
    folder = tmp_path_factory.mktemp("trained")
    lines = (
        (ROOT / "example-data" / "multilingual_gold.jsonl")
        .read_text(encoding="utf-8")
        .splitlines(keepends=True)
    )
    eval_file = folder / "eval.jsonl"
    eval_file.write_text("".join(lines[200:232]), encoding="utf-8")
    flags = ["--eval_file", eval_file, "--eval_strategy", "steps", "--eval_steps", STEPS]
    # 8 rows have 351 on average
    some = ["--gradient_checkpointing", "true", "--checkpoint_from_tokens", 350]
    further = {"single": [], "ddp": some, "fsdp": [*some, *FSDP_REPOSITORY]}
    runs = {}
    for mode in MODES:
        both = [*flags, *further[mode], "--push_to_hub", "true"]
        line, own = training_command(mode, folder / mode, train_file, *both)
        process = run(*line, env={**own, **hub.environment}, cwd=ROOT)
        said[mode] = process.stderr
        runs[mode] = (folder / mode, last_json(process))
    return runs


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with a small random student, base, and rows for it, train.jsonl."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from small_tokenizers import byte_tokenizer

    folder = tmp_path_factory.mktemp("small")
    tokenizer = byte_tokenizer()
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = LlamaConfig(**sizes, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    chat = {
        "messages": [{"role": "user", "content": "hola"}, {"role": "assistant", "content": "es"}]
    }
    (folder / "train.jsonl").write_text((json.dumps(chat) + "\n") * 4)
    return folder


@pytest.fixture(scope="module")
def nodes():
    """Names of the namespaces; skipped where the kernel does not let us make them."""

    def ip(*command, check=True):
        return subprocess.run(["ip", *command], capture_output=True, text=True, check=check)

    try:
        for name in NODES:
            ip("netns", "delete", name, check=False)
            ip("netns", "add", name)
        first, second = NODES
        cable = f"link add pd0 netns {first} type veth peer name pd1 netns {second}"
        ip(*cable.split())
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', error)}")
    for number, (name, address) in enumerate(NODES.items()):
        ip("-n", name, "address", "add", f"{address}/24", "dev", f"pd{number}")
        ip("-n", name, "link", "set", f"pd{number}", "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield list(NODES)
    for name in NODES:
        ip("netns", "delete", name)
