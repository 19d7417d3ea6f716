"""Tokens per second of step 2 against a bare PyTorch loop over the same batches, and where the time to step 1 goes.

    python benchmarks/training.py --repeats 3

Each run is a process of its own. The script is train_sft_trl.py as users call it, with its checkpoints; the bare loop
takes its LoRA model and its batches and does forward, backward, clipping, AdamW, and saves the adapter. It scores the
answers only, as the script does; --all_tokens also takes the model's own loss, whose head scores every token. Step by
step, the script's trainer and the bare loop take turns in one process, from the second step on: after the start-up, and
with the least noise. All print the mean loss: the same one, since they do the same steps.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from figures import ROOT, finish, in_turn, ratios, show, size, spread

from distill.evaluation.apart import apart

MIB = 2**20


def script(flags: list[str], adapter: str) -> dict:
    """train_sft_trl.py as users call it, over an adapter that may exist; returns its JSON line."""
    command = [sys.executable, str(ROOT / "train_sft_trl.py"), *flags, "--output_dir", adapter, "--overwrite", "true"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def parsed(flags: list[str], folder: str):
    """What train_sft_trl.py has before it loads the student: (its two sets of arguments, tokenizer, LoRA, rows)."""
    from transformers import AutoConfig, AutoTokenizer

    from distill.training.arguments import OneLineParser, ScriptArguments, TrainArguments
    from distill.training.loading import empty_model
    from distill.training.lora import lora_of
    from distill.training.rows import load_rows

    sys.argv = ["train_sft_trl.py", *flags, "--output_dir", folder]
    own, args = OneLineParser((ScriptArguments, TrainArguments)).parse()
    tokenizer = AutoTokenizer.from_pretrained(own.model_name)
    rows = load_rows(own.train_file, tokenizer, args.max_length)
    empty = empty_model(AutoConfig.from_pretrained(own.model_name))
    return own, args, tokenizer, lora_of(own, empty), rows


def prepared(flags: list[str], folder: str):
    """The trainer before it trains, and the seconds since the epoch after each stage."""
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
    hidden, labels = causal_lm.model(**inputs, use_cache=False).last_hidden_state[:, :-1], batch["labels"][:, 1:]
    learned = labels != -100
    return F.cross_entropy(causal_lm.lm_head(hidden[learned]), labels[learned])


def bare_steps(trainer, answers_only: bool = True):
    """The loop itself over a trainer's batches; yields (loss, batch, bytes of gradients, optimizer) of each step."""
    import torch

    model, args, loader = trainer.model.train(), trainer.args, trainer.get_train_dataloader()
    causal_lm, trained = model.get_base_model(), [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=args.weight_decay)
    scheduler = trainer.create_scheduler(int(len(loader) * args.num_train_epochs), optimizer)
    for epoch in range(int(args.num_train_epochs)):
        trainer.sampler_epoch.sampler.set_epoch(epoch)
        for batch in loader:
            loss = answers_loss(causal_lm, batch) if answers_only else model(**batch, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, args.max_grad_norm)
            optimizer.step()
            gradients = size(p.grad for p in trained)
            scheduler.step()
            optimizer.zero_grad()
            yield float(loss.detach()), batch, gradients, optimizer


def bare(flags: list[str], answers_only: bool = True) -> dict:
    """All steps of the bare loop: seconds, tokens, padding and memory."""
    with tempfile.TemporaryDirectory() as folder:
        trainer, _ = prepared(flags, folder)
        memory = {"weights": size(trainer.model.parameters()), "before training": resident()}
        losses, real, fed, start = [], 0, 0, time.perf_counter()
        for loss, batch, gradients, optimizer in bare_steps(trainer, answers_only):  # noqa: B007
            losses.append(loss)
            fed += batch["input_ids"].numel()
            mask = batch.get("attention_mask")
            real += batch["input_ids"].numel() if mask is None else int(mask.sum())
        trainer.model.save_pretrained(folder)
        seconds = time.perf_counter() - start
    memory["LoRA's gradients"] = gradients
    memory["Adam's states"] = size(value for state in optimizer.state.values() for value in state.values())
    result = {"seconds": seconds, "train_loss": sum(losses) / len(losses), "steps": len(losses), "memory": memory}
    return result | {"tokens": real, "tokens_per_second": real / seconds, "padding": fed / real}


def step_by_step(flags: list[str]) -> dict:
    """Both in one process, a step of each in turn, so that a slow moment hits both: rates from the second step on."""
    from transformers import TrainerCallback

    class BareStep(TrainerCallback):
        """After a step of the trainer: a step of the bare loop, and the time that each of them took."""

        def on_step_end(self, args, state, control, **kwargs):
            ends = time.perf_counter(), next(loop), time.perf_counter()
            seconds.append((ends[0] - before[-1], ends[2] - ends[0]))
            tokens.append(ends[1][1]["input_ids"].numel())
            before.append(ends[2])

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):  # the progress bar prints
        (other, _), (trainer, _) = prepared(flags, folder), prepared(flags, folder)
        loop, seconds, tokens, before = bare_steps(other), [], [], [0.0]
        trainer.add_callback(BareStep())
        loss = trainer.train().training_loss
    ours, loops = map(sum, zip(*seconds[1:], strict=True))
    return {"tokens_per_second": sum(tokens[1:]) / ours, "loop": sum(tokens[1:]) / loops, "train_loss": loss}


def first_step(flags: list[str], launched: float) -> dict:
    """Seconds of each stage from `launched`, a time since the epoch, to the end of the first optimizer step."""
    from transformers import ProgressCallback, TrainerCallback

    class FirstStep(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            stages.setdefault("first step", time.time())

    with tempfile.TemporaryDirectory() as folder:
        trainer, stages = prepared([*flags, "--max_steps", "1", "--save_strategy", "no"], folder)
        trainer.add_callback(FirstStep())
        trainer.remove_callback(ProgressCallback)  # it prints on stdout
        trainer.train()
    times = [launched, *stages.values()]
    return {name: times[i + 1] - times[i] for i, name in enumerate(stages)}


def wrapper(flags: list[str]) -> dict:
    """Seconds of `bash train_trl.sh` for one step, from the call to its exit."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = ["bash", str(ROOT / "train_trl.sh"), *flags[1:2], f"{folder}/adapter", flags[3], *flags[4:]]
        subprocess.run([*command, "--max_steps", "1"], capture_output=True, check=True)
    return {"seconds": time.perf_counter() - start}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name", default=str(ROOT / "models" / "tiny-instruct"), help="the student")
    parser.add_argument("--train_file", default=str(ROOT / "example-data" / "multilingual_gold.jsonl"), help="its rows")
    parser.add_argument("--config", default=str(ROOT / "configs" / "tiny.yaml"), help="hyperparameters")
    parser.add_argument("--repeats", type=int, default=3, help="of each way, taken in turn")
    parser.add_argument("--start_repeats", type=int, default=1, help="of the way to the first step")
    parser.add_argument("--all_tokens", action="store_true", help="also the bare loop with the model's own loss")
    mine, further = parser.parse_known_args()
    flags = ["--model_name", mine.model_name, "--train_file", mine.train_file, "--config", mine.config, *further]
    with tempfile.TemporaryDirectory() as folder:
        step2 = partial(script, flags, f"{folder}/adapter")
        ways = {"bare loop": partial(apart, bare, flags), "train_sft_trl.py": step2}
        if mine.all_tokens:
            ways["bare loop, all tokens"] = partial(apart, bare, flags, False)
        beside = [apart(step_by_step, flags) for _ in range(mine.repeats)]
        found = in_turn(ways, mine.repeats)
    rates = {way: [run["tokens_per_second"] for run in runs] for way, runs in found.items()}
    shares = {way: ratios(rates[way], rates["bare loop"]) for way in rates}
    rates, table, loop = {way: spread(values) for way, values in rates.items()}, [], found["bare loop"][-1]
    for way, runs in found.items():
        table.append([way, show(rates[way], 0), show(shares[way], 3), f"{runs[-1]['train_loss']:.4f}"])
    stepwise = {key: [run[key] for run in beside] for key in ("tokens_per_second", "loop")}
    after_start = ratios(stepwise["tokens_per_second"], stepwise["loop"])
    rates["step by step"] = spread(stepwise["tokens_per_second"])
    step = ["train_sft_trl.py, step by step", show(rates["step by step"], 0), show(after_start, 3)]
    table.append([*step, f"{beside[-1]['train_loss']:.4f}"])
    starts = {"stages": lambda: apart(first_step, flags, time.time()), "whole": partial(wrapper, flags)}
    starts = in_turn(starts, mine.start_repeats)
    stages = {name: spread([run[name] for run in starts["stages"]]) for name in starts["stages"][0]}
    whole = spread([run["seconds"] for run in starts["whole"]])
    memory = loop["memory"]
    peak, needed = found["train_sft_trl.py"][-1]["peak_memory_gib"] * 1024, sum(memory.values()) / MIB
    notes = [
        f"{loop['steps']} steps, {loop['tokens']:,} tokens; fed tokens to real ones: {loop['padding']:.3f}.",
        "Seconds to the end of the first step: "
        + ", ".join(f"{name} {show(seconds)}" for name, seconds in stages.items())
        + f". `train_trl.sh` for one step, from call to exit: {show(whole)}.",
        f"Peak memory of the script {peak:,.0f} MiB; must be there {needed:,.0f} MiB: "
        + ", ".join(f"{name} {value / MIB:,.1f}" for name, value in memory.items())
        + ".",
    ]
    result = {"ratio": shares["train_sft_trl.py"], "after_start": after_start, "rates": rates}
    result |= {"padding": loop["padding"], "first_step": stages, "memory": memory, "wrapper": whole, "peak_mib": peak}
    header = ["way", "tokens/s", "to the bare loop", "mean loss"]
    return finish("Training against a bare loop", header, table, notes, {"training": result})


if __name__ == "__main__":
    sys.exit(main())
