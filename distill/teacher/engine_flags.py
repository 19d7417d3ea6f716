"""The flags of vLLM's engine in the help of the scripts that start one. No torch, no vLLM."""

from distill.teacher.engine import engine_parser

ENGINE = "vLLM's engine"
ENGINE_TITLE = f"{ENGINE}, the flags that people change"
# each in one line, in our words
ENGINE_FLAGS = {
    "max_model_len": "tokens of prompt and answer together [the model's, or what fits]",
    "gpu_memory_utilization": "share of each GPU's memory that the engine takes",
    "max_num_seqs": "requests that run at once",
    "max_num_batched_tokens": "tokens of one step, prompts included",
    "kv_cache_dtype": "of the cache; fp8 makes room for twice as many tokens",
    "dtype": "of weights and computation, such as bfloat16",
    "quantization": "how weights are quantized; fp8 does it while they are loaded",
    "enforce_eager": "neither compile nor capture graphs: starts sooner, runs slower",
    "enable_expert_parallel": "whole experts on each GPU, not a part of every expert",
    "pipeline_parallel_size": "groups of layers, each on GPUs or a node of its own",
    "trust_remote_code": "run the code that a model brings along",
    "download_dir": "where models of the hub are kept",
}

# for a server: as much of the model's context as fits the memory, and not all of it or no start
FITTING = ["--max-model-len", "auto"]
SHARE_OF_TWO = 0.45  # of a GPU's memory, for each of two engines on it

# vLLM's flags that split a model over GPUs, and how it spells them in short
SPLITTING = {
    "tensor_parallel_size": "-tp",
    "pipeline_parallel_size": "-pp",
    "data_parallel_size": "-dp",
}


def given(engine_flags: list[str], name: str) -> str | None:
    """What a flag of vLLM's has been given, read without vLLM, which takes seconds to import.

    The last one counts. None: it is not there, or has no value of its own.
    """
    value = None
    spellings = (f"--{name}", f"--{name.replace('_', '-')}", SPLITTING.get(name))
    for place, word in enumerate(engine_flags):
        flag, equals, after = word.partition("=")
        if flag not in spellings:
            continue
        if equals:
            value = after
        elif place + 1 < len(engine_flags):
            value = engine_flags[place + 1]
    return value


def refuse_ours(engine_flags: list[str], model_flag: str) -> None:
    """Refuse vLLM's flags that ours take the place of, which would be passed over in silence.

    `model_flag` says what names the model. Raises ValueError.
    """
    if given(engine_flags, "config") is not None:
        raise ValueError("--config: a file of vLLM's flags is not read here; give them as flags")
    ours = {"model": model_flag, "tensor_parallel_size": "--tensor_parallel_size"}
    for name, flag in ours.items():
        if given(engine_flags, name) is not None:
            spelled = SPLITTING.get(name, f"--{name}")
            raise ValueError(f"{spelled}: is {flag} here")


def further_gpus(engine_flags: list[str]) -> int:
    """By how much vLLM's own flags multiply the GPUs that a model is split over."""
    count = 1
    for name in ("pipeline_parallel_size", "data_parallel_size"):
        value = given(engine_flags, name)
        if value and value.isdecimal():
            count *= int(value)
    return count


def beside_another(engine_flags: list[str]) -> list[str]:
    """vLLM's flags, with no more of each GPU's memory than two engines on one can have."""
    share = given(engine_flags, "gpu_memory_utilization")
    if share and float(share) <= SHARE_OF_TWO:
        return engine_flags
    return [*engine_flags, "--gpu-memory-utilization", str(SHARE_OF_TWO)]


def print_engine_flags() -> None:
    """Print every flag as vLLM describes it, and end the process with exit code 0."""
    engine_parser().parse_args(["--help=all"])
