"""What one 80 GB GPU can show of step 2 with the 30B student: its memory against plan.py, its speed, and its adapter.

    python benchmarks/gpu.py

The weights are random, made on the device, so that nothing is downloaded; memory and speed do not depend on them, but
for the choice of experts, which is near to even. LoRA, batches, loss and optimizer are those of train_sft_trl.py. What
does not fit is a line of the table. Without a GPU a small configuration runs in fp32, where the memory that is compared
with plan.py is counted tensor by tensor. The last line is JSON; the exit code is 1 if anything failed for another
reason than memory. What the scripts themselves do on a GPU is gpu_paths.py's list.
"""

import argparse
import gc
import json
import sys
import time
import traceback
import warnings
from statistics import median

import peft
import torch
import transformers
from figures import finish, markdown, show, size, spread
from plan import GIB, Model, training
from random_student import EXACT_LAYERS, SMALL, adapted, batch_of, build, check_adapter, check_in_fp32, fill, now

from distill.training.lora import describe
from distill.training.student_ops import ATTENTION_IMPLEMENTATION, EXPERTS_IMPLEMENTATION, use_fewer_kernels

LENGTHS, SMALL_LENGTHS = (64, 512, 2048), (16, 32, 64)  # tokens of the longest row
BATCHES = (1, 4, 16)  # rows of a micro-batch: one, the default, and the whole effective batch at once
# How a step can be computed: by default as in train_sft_trl.py. Other experts than those of student_ops.py are those of
# transformers, with LoRA added to the weights by PEFT; what is not here of them needs kernels from the hub.
DEFAULT = {
    "padding_free": True,
    "attention": ATTENTION_IMPLEMENTATION,
    "experts": EXPERTS_IMPLEMENTATION,
    "checkpointing": True,
    "fewer": True,
}
WAYS = {
    "default": {},  # for micro-batches of --checkpoint_from_tokens and more; shorter ones are not checkpointed
    "padded": {"padding_free": False, "attention": "sdpa"},
    "one mask over all rows": {"attention": "sdpa"},
    "PEFT, grouped_mm": {"experts": "grouped_mm"},
    "PEFT, eager": {"experts": "eager"},
    "PEFT, batched_mm": {"experts": "batched_mm"},
    "no checkpointing": {"checkpointing": False},
    "norms and casts as they come": {"fewer": False},
}
WARM_UP = 2  # steps before the timed ones: kernels are chosen, memory is reserved
LONGEST_S = 12  # seconds after which a configuration takes no further step, but for one that is timed
COMPARED = {  # what random_student.check_adapter() finds
    "repeated": "largest difference: computed twice",
    "adapter": "with and without the adapter",
    "taken_off": "switched off and taken off",
    "reloaded": "before it is saved and loaded",
    "in_weights": "beside the experts and in PEFT's sum with them",
    "merged": "before it is merged",
    "merged_to_adapter": "mean difference that merging makes, to the adapter's own",
    "merged_same_token": "share of tokens whose likeliest next one stays, merged",
    "adapter_same_token": "without the adapter",
}
PROFILED = 12  # operations named in the profile of a step
NOT_REACHED = {"error": "not reached"}


def attempt(function, *arguments) -> dict:
    """What the function returns, or {"error": reason}; a failed attempt gives its memory back."""
    try:
        return function(*arguments)
    except torch.OutOfMemoryError:
        found = {"error": "out of memory"}
    except Exception as error:
        traceback.print_exc()
        reason = str(error).partition("\n")[0]
        found = {"error": f"{type(error).__name__}: {reason}"}
    gc.collect()  # only here, past the except clause, are the frames gone that hold the tensors
    torch.cuda.empty_cache()
    return found


def allocated(device: torch.device, peak: bool = False) -> int | None:
    """Bytes that PyTorch holds on a GPU now, or the most since the last reset; None on a CPU, which does not count."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)


def step(model, optimizer, batch: dict, device: torch.device) -> float:
    """One optimizer step as Trainer does it; returns the loss. The gradients stay until the next step."""
    optimizer.zero_grad()
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        loss = model(**batch, fused_lm_head=True).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    return loss.item()


def choose(model, way: str) -> dict:
    """Let the model compute as WAYS says; returns the settings."""
    base, settings = model.get_base_model(), DEFAULT | WAYS[way]
    base.set_experts_implementation(settings["experts"])
    base.set_attn_implementation(settings["attention"])
    use_fewer_kernels(model, settings["fewer"])
    (model.gradient_checkpointing_enable if settings["checkpointing"] else model.gradient_checkpointing_disable)()
    return settings


def timed(model, optimizer, length, rows, way, steps, deadline, device) -> dict:
    """Seconds of the steps and tokens per second without padding; from the deadline on, one timed step is enough."""
    settings = choose(model, way)
    batch, tokens = batch_of(length, rows, settings["padding_free"], model.config.vocab_size, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds, losses, deadline = [], [], min(deadline, time.perf_counter() + LONGEST_S)
    while len(seconds) < WARM_UP + steps and (len(seconds) <= WARM_UP or time.perf_counter() < deadline):
        start = now(device)
        losses.append(step(model, optimizer, batch, device))
        seconds.append(now(device) - start)
    seconds = seconds[WARM_UP:]
    fed = batch["input_ids"].numel()
    return {"tokens": tokens, "fed_tokens": fed, "steps": len(seconds), "loss": median(losses)} | {
        "seconds": spread(seconds),
        "tokens_per_second": spread([tokens / s for s in seconds]),
        "peak_bytes": allocated(device, peak=True),
    }


def profiled(model, optimizer, length: int, rows: int, device: torch.device) -> dict:
    """Milliseconds of a step, and of what the device works on longest in it: kernels of a GPU, operators of a CPU."""
    choose(model, "default")
    batch, _ = batch_of(length, rows, True, model.config.vocab_size, device)
    step(model, optimizer, batch, device)
    with torch.profiler.profile() as profile:
        start = now(device)
        step(model, optimizer, batch, device)
        seconds = now(device) - start
    events = [event for event in profile.key_averages() if not event.is_user_annotation]
    if device.type == "cuda":
        spent = {e.key: e.self_device_time_total / 1000 for e in events if e.device_type.name == "CUDA"}
    else:
        spent = {e.key: e.self_cpu_time_total / 1000 for e in events}
    longest = dict(sorted(spent.items(), key=lambda item: -item[1])[:PROFILED])
    found = {"milliseconds": 1000 * seconds, "device": sum(spent.values()), "spent": longest}
    return {"length": length, "rows": rows} | found


def memory_table(model, optimizer, base: int, adapter: int, stages: dict) -> list[dict]:
    """Bytes after each stage as planned, in the model's tensors, and as PyTorch counts them on a GPU.

    `base` and `adapter` are the bytes planned for the base, and for LoRA with its gradients and Adam's states.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    weights, lora = size(p for p in model.parameters() if not p.requires_grad), size(trained)
    states = (value for state in optimizer.state.values() for value in state.values())
    # Adam counts its steps in a number for each parameter, which no plan needs
    learning = lora + size(p.grad for p in trained) + size(s for s in states if s.dim())
    counts = {"base weights": (base, weights, "start", "weights"), "LoRA": (adapter // 4, lora, "weights", "LoRA")}
    if optimizer.state:
        counts |= {
            "LoRA, gradients, Adam": (adapter, learning, "weights", "step"),
            "one GPU": (base + adapter, weights + learning, "start", "step"),
            "peak of the second step": (base + adapter, None, "start", "peak"),  # the plan has no activations
        }
    table = []
    for what, (plan, found, before, after) in counts.items():
        grown = None if stages[after] is None else stages[after] - stages[before]
        table.append({"what": what, "planned": plan, "tensors": found, "allocated": grown})
    return table


def gib(count: int | None) -> str:
    return "-" if count is None else f"{count / GIB:.3f}"


def show_memory(table: list[dict]) -> str:
    """The table of memory in GiB; what is compared with the plan is PyTorch's count, on a CPU that of the tensors."""
    rows = []
    for line in table:
        measured = line["tensors"] if line["allocated"] is None else line["allocated"]
        ratio = "-" if measured is None else f"{measured / line['planned']:.4f}"
        rows.append([line["what"], *(gib(line[key]) for key in ("planned", "tensors", "allocated")), ratio])
    return markdown(["GiB after", "planned", "in tensors", "allocated", "measured to planned"], rows)


def show_runs(runs: list[dict]) -> str:
    """The table of speeds, one line for each configuration."""
    rows = []
    for run in runs:
        line = [str(run["length"]), str(run["rows"]), run["way"]]
        if "error" in run:
            line += [run["error"], *["-"] * 4]
        else:
            line += [show(run["tokens_per_second"], 0), show(run["seconds"], 3)]
            line += [f"{run['fed_tokens'] / run['tokens']:.2f}", f"{run['loss']:.4f}", gib(run["peak_bytes"])]
        rows.append(line)
    header = ["longest row", "rows", "computed", "tokens/s", "s per step", "fed to real tokens", "loss"]
    return markdown([*header, "peak GiB"], rows)


def show_profile(profile: dict) -> str:
    """One profiled step as Markdown."""
    if "error" in profile:
        return f"Profile: {profile['error']}."
    head = f"A step of {profile['rows']} rows of up to {profile['length']} tokens, profiled: "
    head += f"{profile['milliseconds']:.0f} ms, of which the device works {profile['device']:.0f}"
    rows = [[key[:90], f"{value:.1f}", f"{value / profile['device']:.1%}"] for key, value in profile["spent"].items()]
    return f"{head}\n\n{markdown(['operation', 'ms', 'share'], rows)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"], help="auto: a GPU if there is one")
    parser.add_argument("--small", action="store_true", help="the small configuration, also on a GPU")
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens of the longest row, two lengths or more")
    parser.add_argument("--steps", type=int, default=5, help=f"timed ones of each configuration, after {WARM_UP}")
    parser.add_argument("--lora_rank", type=int, default=32, help="on attention")
    parser.add_argument("--lora_expert_rank", type=int, default=0, help="on each expert (0: rank // active experts)")
    parser.add_argument("--budget_s", type=float, default=540, help="a fifth of it is kept for the adapter's check")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no GPU is visible")
    start = time.perf_counter()
    deadline = start + 0.8 * args.budget_s
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device)
    on_gpu = device.type == "cuda"
    small = args.small or not on_gpu
    plan, lengths = (SMALL, SMALL_LENGTHS) if small else (Model(), LENGTHS)
    lengths = args.lengths or lengths
    expert_rank = args.lora_expert_rank or max(1, args.lora_rank // plan.per_token)
    (_, base, _), (_, adapter, _), *_ = training(plan, 1, args.lora_rank, expert_rank)
    dtype, wider = (torch.bfloat16, 1) if on_gpu else (torch.float32, 2)  # the plan has weights in bf16
    warnings.filterwarnings("ignore", message=".*_pattern keys did not match")  # as in train_sft_trl.py
    torch.manual_seed(0)

    name = torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    device_bytes = torch.cuda.get_device_properties(device).total_memory if on_gpu else None
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    memory = [f"{gib(device_bytes)} GiB"] if on_gpu else []
    print(", ".join([name, *memory, *(f"{k} {v}" for k, v in versions.items())]), flush=True)
    stages, table, model, first, second = {"start": allocated(device)}, [], None, NOT_REACHED, NOT_REACHED
    found = built = attempt(build, plan, dtype, device)
    stages["weights"] = allocated(device)
    if "error" not in built:
        # popped, so that no other name keeps the model
        found = attempt(adapted, built.pop("model"), args.lora_rank, args.lora_expert_rank, device)
        stages["LoRA"] = allocated(device)
    notes = [f"No model: {found['error']}." if "error" in found else f"LoRA on {describe(found['model'])}."]
    if "error" not in found:
        model = found.pop("model")
        trained = [p for p in model.parameters() if p.requires_grad]
        # at a rate of 0 a step does all its work, and all configurations see the same weights
        optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0, fused=True)
        choose(model, "default")
        batch, _ = batch_of(lengths[0], 1, True, plan.vocabulary, device)
        first = attempt(lambda: {"loss": step(model, optimizer, batch, device)})
        stages["step"] = allocated(device)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        second = first if "error" in first else attempt(lambda: {"loss": step(model, optimizer, batch, device)})
        stages["peak"] = allocated(device, peak=True)
        if "error" in second:
            notes.append(f"A first and a second step: {second['error']}.")
        table = memory_table(model, optimizer, wider * round(base), round(adapter), stages)
        fill(model)
    print("\n### Memory\n", show_memory(table), sep="\n", flush=True)

    profiles = []
    for n in (lengths[0], lengths[-1]):
        found_profile = NOT_REACHED
        if model is not None and time.perf_counter() < deadline:
            found_profile = attempt(profiled, model, optimizer, n, BATCHES[1], device)
        profiles.append(found_profile)
        print(show_profile(found_profile), "", sep="\n", flush=True)

    usual = BATCHES[1]
    wanted = [(n, b, "default") for n in lengths for b in BATCHES]
    wanted += [(lengths[0], b, way) for way in ("PEFT, grouped_mm", "no checkpointing") for b in BATCHES[1:]]
    wanted += [(lengths[-2], usual, way) for way in list(WAYS)[2:]]
    further = ("one mask over all rows", "PEFT, grouped_mm", "norms and casts as they come")
    wanted += [(lengths[-1], usual, way) for way in further]
    wanted += [(n, b, "padded") for b in BATCHES for n in lengths]
    runs = []
    for n, b, way in wanted:
        run = {"length": n, "rows": b, "way": way}
        if model is None or time.perf_counter() >= deadline:
            run |= NOT_REACHED
        else:
            run |= attempt(timed, model, optimizer, n, b, way, args.steps, deadline, device)
            optimizer.zero_grad()
            print(json.dumps(run), file=sys.stderr, flush=True)  # not lost if the machine is taken away
        runs.append(run)
    print("\n### Training steps\n", show_runs(runs), "", sep="\n", flush=True)

    check, exact = NOT_REACHED, NOT_REACHED
    if model is not None and time.perf_counter() < start + args.budget_s:
        model.zero_grad()
        optimizer.state.clear()
        check = attempt(check_adapter, model, lengths[0], device)
        model = None  # the next one takes its place
        exact = attempt(check_in_fp32, plan, lengths[0], args.lora_rank, args.lora_expert_rank, device)
    rows = []
    for key, text in COMPARED.items():
        rows.append([text, *(f"{one[key]:.3g}" if key in one else one["error"] for one in (check, exact))])
    seconds = {"build": built.get("seconds"), "LoRA": found.get("seconds"), "all": time.perf_counter() - start}
    notes.append(f"{seconds['all']:.0f} s in all.")
    result = {"device": name, "device_bytes": device_bytes, "versions": versions, "small": small, "seconds": seconds}
    result |= {"parameters": plan.parameters, "memory": table, "first_step": first, "second_step": second, "runs": runs}
    result |= {"profiles": profiles, "adapter": check, "adapter_in_fp32": exact}
    columns = [f"{plan.layers} layers, {str(dtype)[6:]}", f"{min(EXACT_LAYERS, plan.layers)} layers, float32"]
    finish("Logits of the adapter", ["", *columns], rows, notes, {"gpu": result})
    errors = {one.get("error") for one in (built, found, second, check, exact, *runs, *profiles)}
    return 1 if errors - {None, "out of memory", NOT_REACHED["error"]} else 0


if __name__ == "__main__":
    sys.exit(main())
