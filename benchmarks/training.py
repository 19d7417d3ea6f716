"""Tokens per second of step 2 against a bare PyTorch loop over the same batches, and its start.

    python benchmarks/training.py --repeats 3

Each run is a process of its own. The script is train_sft_trl.py as users call it, with its
checkpoints; the bare loop takes its LoRA model and its batches and does forward, backward,
clipping, AdamW, and saves the adapter. It scores the answers only, as the script does; --all_tokens
also takes the model's own loss, whose head scores every token. Step by step, the script's trainer
and the bare loop take turns in one process, from the second step on: after the start-up, and with
the least noise. All print the mean loss: the same one, since they do the same steps. The seconds to
the end of step 1 are shown by where they go.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from figures import ROOT, figures_of, finish, in_turn, parser_of, ratios, show, size, spread

from distill.evaluation.apart import apart

MIB = 2**20
SCRIPT = "train_sft_trl.py"
LOOP = "bare loop"


def script(flags: list[str], adapter: str) -> dict:
    """train_sft_trl.py as users call it, over an adapter that may exist; returns its JSON line."""
    command = [sys.executable, str(ROOT / "train_sft_trl.py"), *flags]
    command += ["--output_dir", adapter, "--overwrite", "true"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def parsed(flags: list[str], folder: str):
    """What train_sft_trl.py has before it loads the student.

    (its two sets of arguments, tokenizer, LoRA, rows)
    """
    from transformers import AutoConfig, AutoTokenizer

    from distill.training.arguments import OneLineParser, TrainArguments
    from distill.training.few_rows import follow_rows
    from distill.training.loading import empty_model
    from distill.training.lora import lora_of
    from distill.training.recipe import ScriptArguments
    from distill.training.rows import load_rows

    sys.argv = ["train_sft_trl.py", *flags, "--output_dir", folder]
    own, args = OneLineParser((ScriptArguments, TrainArguments)).parse()
    tokenizer = AutoTokenizer.from_pretrained(own.model_name)
    rows = load_rows(own.train_file, tokenizer, args.max_length)
    follow_rows(args, len(rows), processes=1, begun={})
    empty = empty_model(AutoConfig.from_pretrained(own.model_name))
    return own, args, tokenizer, lora_of(own, empty), rows


def prepared(flags: list[str], folder: str):
    """The trainer before it trains, and when each stage ended, in seconds since the epoch."""
    from distill.training.build import make_trainer

    stages = {"imports": time.time()}
    own, args, tokenizer, lora, rows = parsed(flags, folder)
    stages["arguments and rows"] = time.time()
    trainer = make_trainer(own, args, tokenizer, lora, rows, None)
    stages["model and trainer"] = time.time()
    return trainer, stages


def answers_loss(causal_lm, batch):
    """Mean cross-entropy of the learned tokens, the only ones that go to the head."""
    import torch.nn.functional as F

    inputs = {key: value for key, value in batch.items() if key != "labels"}
    hidden = causal_lm.model(**inputs, use_cache=False).last_hidden_state[:, :-1]
    labels = batch["labels"][:, 1:]
    learned = labels != -100
    return F.cross_entropy(causal_lm.lm_head(hidden[learned]), labels[learned])


@dataclass
class BareStep:
    """A step of the bare loop."""

    loss: float
    batch: dict
    gradients: int  # bytes
    optimizer: object


def bare_steps(trainer, answers_only: bool = True):
    """The loop itself over a trainer's batches; yields each step."""
    import torch

    model = trainer.model.train()
    args = trainer.args
    loader = trainer.get_train_dataloader()
    causal_lm = model.get_base_model()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=args.weight_decay)
    scheduler = trainer.create_scheduler(int(len(loader) * args.num_train_epochs), optimizer)
    for epoch in range(int(args.num_train_epochs)):
        trainer.sampler_epoch.sampler.set_epoch(epoch)
        for batch in loader:
            if answers_only:
                loss = answers_loss(causal_lm, batch)
            else:
                loss = model(**batch, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, args.max_grad_norm)
            optimizer.step()
            gradients = size(p.grad for p in trained)
            scheduler.step()
            optimizer.zero_grad()
            yield BareStep(float(loss.detach()), batch, gradients, optimizer)


def bare(flags: list[str], answers_only: bool = True) -> dict:
    """All steps of the bare loop: seconds, tokens, padding and memory."""
    with tempfile.TemporaryDirectory() as folder:
        trainer, _ = prepared(flags, folder)
        memory = {"weights": size(trainer.model.parameters()), "before training": resident()}
        losses = []
        real = 0
        fed = 0
        start = time.perf_counter()
        for step in bare_steps(trainer, answers_only):
            losses.append(step.loss)
            tokens = step.batch["input_ids"].numel()
            mask = step.batch.get("attention_mask")
            fed += tokens
            real += tokens if mask is None else int(mask.sum())
        trainer.model.save_pretrained(folder)
        seconds = time.perf_counter() - start
    states = 0
    for state in step.optimizer.state.values():
        states += size(state.values())
    memory["LoRA's gradients"] = step.gradients
    memory["Adam's states"] = states
    return {
        "seconds": seconds,
        "train_loss": sum(losses) / len(losses),
        "steps": len(losses),
        "memory": memory,
        "tokens": real,
        "tokens_per_second": real / seconds,
        "padding": fed / real,
    }


def step_by_step(flags: list[str]) -> dict:
    """Both in one process, a step of each in turn, so that a slow moment hits both.

    The rates are from the second step on.
    """
    from transformers import TrainerCallback

    class TakeTurns(TrainerCallback):
        """After a step of the trainer: a step of the bare loop, and the time each of them took."""

        def __init__(self, loop):
            self.loop = loop
            self.ours = []  # seconds of each step
            self.loops = []
            self.tokens = []
            self.before = 0.0

        def on_step_end(self, args, state, control, **kwargs):
            ours_ended = time.perf_counter()
            step = next(self.loop)
            loop_ended = time.perf_counter()
            self.ours.append(ours_ended - self.before)
            self.loops.append(loop_ended - ours_ended)
            self.tokens.append(step.batch["input_ids"].numel())
            self.before = loop_ended

    # the progress bar prints
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        other, _ = prepared(flags, folder)
        trainer, _ = prepared(flags, folder)
        turns = TakeTurns(bare_steps(other))
        trainer.add_callback(turns)
        loss = trainer.train().training_loss
    tokens = sum(turns.tokens[1:])
    return {
        "tokens_per_second": tokens / sum(turns.ours[1:]),
        "loop": tokens / sum(turns.loops[1:]),
        "train_loss": loss,
    }


def first_step(flags: list[str], launched: float) -> dict:
    """Seconds of each stage from `launched`, a time since the epoch, to the first step's end."""
    from transformers import ProgressCallback, TrainerCallback

    class FirstStep(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            stages.setdefault("first step", time.time())

    with tempfile.TemporaryDirectory() as folder:
        trainer, stages = prepared([*flags, "--max_steps", "1", "--save_strategy", "no"], folder)
        trainer.add_callback(FirstStep())
        trainer.remove_callback(ProgressCallback)  # it prints on stdout
        trainer.train()
    seconds = {}
    before = launched
    for name, ended in stages.items():
        seconds[name] = ended - before
        before = ended
    return seconds


def wrapper(flags: list[str]) -> dict:
    """Seconds of `bash train_trl.sh` for one step, from the call to its exit."""
    _, model, _, train_file, *further = flags
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = ["bash", str(ROOT / "train_trl.sh"), model, f"{folder}/adapter", train_file]
        command += [*further, "--max_steps", "1"]
        subprocess.run(command, capture_output=True, check=True)
    return {"seconds": time.perf_counter() - start}


@dataclass
class Start:
    """Spreads of the seconds on the way to the first step."""

    stages: dict[str, dict]
    whole: dict  # of train_trl.sh for one step

    def note(self) -> str:
        parts = ", ".join(f"{name} {show(seconds)}" for name, seconds in self.stages.items())
        return (
            f"Seconds to the end of the first step: {parts}. "
            f"`train_trl.sh` for one step, from call to exit: {show(self.whole)}."
        )


def measure_start(flags: list[str], repeats: int) -> Start:
    """The way to the first step, in its stages and by train_trl.sh."""
    ways = {
        "stages": lambda: apart(first_step, flags, time.time()),
        "whole": partial(wrapper, flags),
    }
    found = in_turn(ways, repeats)
    stages = {}
    for name in found["stages"][0]:
        stages[name] = spread(figures_of(found["stages"], name))
    return Start(stages, spread(figures_of(found["whole"], "seconds")))


def memory_note(memory: dict[str, int], peak_mib: float) -> str:
    """The script's peak beside what a training cannot do without."""
    needed = sum(memory.values()) / MIB
    parts = ", ".join(f"{name} {value / MIB:,.1f}" for name, value in memory.items())
    return (
        f"Peak memory of the script {peak_mib:,.0f} MiB; must be there {needed:,.0f} MiB: {parts}."
    )


def parse_args():
    """(the flags below, those of train_sft_trl.py)"""
    parser = parser_of(__doc__)
    gold = ROOT / "example-data" / "multilingual_gold.jsonl"

    def add(name: str, default, help: str) -> None:
        parser.add_argument(name, type=type(default), default=default, help=help)

    add("--model_name", str(ROOT / "models" / "tiny-instruct"), "the student")
    add("--train_file", str(gold), "its rows")
    add("--config", str(ROOT / "configs" / "tiny.yaml"), "hyperparameters")
    add("--repeats", 3, "of each way, taken in turn")
    add("--start_repeats", 1, "of the way to the first step")
    all_help = "also the bare loop with the model's own loss"
    parser.add_argument("--all_tokens", action="store_true", help=all_help)
    return parser.parse_known_args()


def main() -> int:
    mine, further = parse_args()
    flags = ["--model_name", mine.model_name, "--train_file", mine.train_file]
    flags += ["--config", mine.config, *further]
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            LOOP: partial(apart, bare, flags),
            SCRIPT: partial(script, flags, f"{folder}/adapter"),
        }
        if mine.all_tokens:
            ways["bare loop, all tokens"] = partial(apart, bare, flags, False)
        beside = [apart(step_by_step, flags) for _ in range(mine.repeats)]
        found = in_turn(ways, mine.repeats)
    start = measure_start(flags, mine.start_repeats)

    table = []
    rates = {}
    shares = {}
    loop_rates = figures_of(found[LOOP], "tokens_per_second")
    for way, runs in found.items():
        values = figures_of(runs, "tokens_per_second")
        rates[way] = spread(values)
        shares[way] = ratios(values, loop_rates)
        loss = f"{runs[-1]['train_loss']:.4f}"
        table.append([way, show(rates[way], 0), show(shares[way], 3), loss])
    stepwise = figures_of(beside, "tokens_per_second")
    after_start = ratios(stepwise, figures_of(beside, "loop"))
    rates["step by step"] = spread(stepwise)
    loss = f"{beside[-1]['train_loss']:.4f}"
    cells = [show(rates["step by step"], 0), show(after_start, 3), loss]
    table.append([f"{SCRIPT}, step by step", *cells])

    loop = found[LOOP][-1]
    peak_mib = found[SCRIPT][-1]["peak_memory_gib"] * 1024
    notes = [
        f"{loop['steps']} steps, {loop['tokens']:,} tokens; "
        f"fed tokens to real ones: {loop['padding']:.3f}.",
        start.note(),
        memory_note(loop["memory"], peak_mib),
    ]
    result = {
        "ratio": shares[SCRIPT],
        "after_start": after_start,
        "rates": rates,
        "padding": loop["padding"],
        "first_step": start.stages,
        "memory": loop["memory"],
        "wrapper": start.whole,
        "peak_mib": peak_mib,
    }
    header = ["way", "tokens/s", "to the bare loop", "mean loss"]
    title = "Training against a bare loop"
    return finish(title, header, table, notes, {"training": result})


if __name__ == "__main__":
    sys.exit(main())
