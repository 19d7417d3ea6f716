"""Step 2: the student learns the teacher's answers without the prompt, through LoRA with TRL's SFTTrainer.

    bash train_trl.sh Qwen/Qwen3-30B-A3B-Instruct-2507 models/my_adapter data/prompt_distillation_lang.jsonl

Every SFTConfig flag is accepted, and --config FILE.yaml sets any of them. The loss falls on the answer and its end of
turn, in exactly the context that inference sees. The same command again resumes from the last complete checkpoint.
"""

import atexit
import json
import logging
import os
import sys
import time
import warnings
from collections import Counter
from copy import copy, deepcopy
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoConfig, IntervalStrategy, set_seed
from transformers.integrations import is_fsdp_enabled
from transformers.training_args import ParallelMode
from trl import SFTConfig, TrlParser

from hub import PushError, Repository, open_repository, push
from journal import end_with_parent
from lora_trainer import LoraTrainer
from model_tokenizer import PROBE, load_tokenizer, warn_of_date
from probes import probe_tokens
from revisions import check_loaded, resolve
from student_loading import (
    TO_LAUNCH,
    allocate_trained,
    check_fsdp,
    check_types,
    choose_gpus,
    empty_model,
    fsdp_settings,
    load_student,
)
from student_ops import attend_within_rows
from system import driver_problem, nvidia_driver
from task import check_model, read_chat
from templates import TemplateProblem
from tokens import encode
from training_run import CompleteCheckpoint, is_finished, prepare_output, steps_of, write_report

log = logging.getLogger("train_sft_trl")
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
# the schedules that take a lowest rate, or ignore it: runs of all of them were begun with it
KNOW_LOWEST_RATE = ["cosine_with_min_lr", "cosine_warmup_with_min_lr", "constant", "constant_with_warmup"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]  # fused parameters in transformers 5


@dataclass
class ScriptArguments:
    """What is ours; everything else is SFTConfig's."""

    model_name: str = field(default="Qwen/Qwen3-30B-A3B-Instruct-2507", metadata={"help": "the student"})
    revision: str | None = field(default=None, metadata={"help": "of the student on the hub: branch, tag or commit"})
    # found out, not asked for: which commit that is (None: a directory), and the student's tokens of a few texts
    commit: str | None = field(default=None, init=False)
    probe_tokens: dict | None = field(default=None, init=False)
    train_file: str = field(
        default="./data/prompt_distillation_lang.jsonl", metadata={"help": "chat JSONL from create_data.py"}
    )
    eval_file: str = field(default="", metadata={"help": "chat JSONL, scored at each evaluation (default: each epoch)"})
    eval_fraction: float = field(
        default=0.0, metadata={"help": "or this share of the train file, left out of training"}
    )
    lora_rank: int = field(default=32, metadata={"help": "rank on attention and dense layers"})
    lora_alpha: int = field(default=16, metadata={"help": "scale is alpha / rank"})
    lora_expert_rank: int = field(
        default=0, metadata={"help": "rank on each expert (0: lora_rank // experts per token)"}
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "not on experts, where PEFT has none"})
    lora_target: str = field(
        default="all-linear", metadata={"help": "all-linear (never head or router), attention, or names with commas"}
    )
    warmup_ratio: float = field(default=0.03, metadata={"help": "share of the steps with a rising learning rate"})
    checkpoint_from_tokens: int = field(
        default=1536, metadata={"help": "micro-batches with fewer keep all activations: 6.5 MiB a token of the 30B"}
    )
    load_in_4bit: bool = field(default=False, metadata={"help": "refused: fused experts cannot be"})
    overwrite: bool = field(default=False, metadata={"help": "start afresh, also over a finished adapter"})
    check_only: bool = field(default=False, metadata={"help": "stop where training would begin, with exit code 0 or 2"})

    def __post_init__(self):
        if self.lora_rank < 1:
            raise ValueError(f"--lora_rank {self.lora_rank}: must be at least 1")
        if self.load_in_4bit:  # bitsandbytes replaces linear layers, and the experts of transformers 5 are none
            raise ValueError("--load_in_4bit: fused experts cannot be loaded in 4 bits; shard with train_trl_fsdp.sh")
        if not 0 <= self.eval_fraction < 1 or self.eval_fraction and self.eval_file:
            raise ValueError(
                f"--eval_fraction {self.eval_fraction}: a share below 1, and not together with --eval_file"
            )
        if not Path(self.train_file).is_file():
            raise ValueError(f"{self.train_file}: no such file; run create_data.py first or pass --train_file")
        check_model(self.model_name)


@dataclass
class TrainArguments(SFTConfig):
    """SFTConfig with the defaults of this recipe (the OpenAI Cookbook's numbers)."""

    output_dir: str = field(default="./models/prompt_distillation_trl", metadata={"help": "the adapter goes here"})
    learning_rate: float = field(default=2e-4, metadata={"help": "peak; ten times that of full fine-tuning"})
    lr_scheduler_type: str = field(default="cosine_with_min_lr", metadata={"help": "of the learning rate"})
    lr_scheduler_kwargs: dict | str | None = field(
        default=None, metadata={"help": "of the schedule (cosine_with_min_lr: ends at a tenth of the peak)"}
    )
    # 16 short rows take a GPU hardly longer than one
    per_device_train_batch_size: int = field(default=16, metadata={"help": "rows per process and micro-batch"})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "micro-batches per optimizer step"})
    max_length: int | None = field(default=2048, metadata={"help": "tokens; a longer row is refused, not cut"})
    num_train_epochs: float = field(default=1.0, metadata={"help": "passes over the data"})
    gradient_checkpointing: bool = field(
        default=True, metadata={"help": "long micro-batches compute activations twice instead of keeping them"}
    )
    padding_free: bool = field(default=True, metadata={"help": "no padding between the rows of a batch"})
    # the same rows in each optimizer step as at random, none dropped or repeated, dealt out so that no GPU waits
    train_sampling_strategy: str = field(default="batch_rebalance", metadata={"help": "how rows become batches"})
    # Trainer's own choice for a PEFT model is true: a search of the graph in each step
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "DDP: every LoRA weight is used"})
    bf16: bool = field(default=True, metadata={"help": "weights and computation in bfloat16"})
    # TRL turns the load-balancing loss on by default, which would train something the answers do not ask for
    router_aux_loss_coef: float | None = field(default=0.0, metadata={"help": "load-balancing loss of a MoE"})
    report_to: str = field(default="none", metadata={"help": "wandb, tensorboard, trackio or none"})
    save_strategy: str = field(default="epoch", metadata={"help": "when checkpoints are written"})
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "a checkpoint, or none to start afresh (default: the last complete one)"}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints kept"})
    # with FSDP the others wait while rank 0 reads the student, or downloads it
    ddp_timeout: int = field(default=7200, metadata={"help": "seconds that a process waits for the others"})

    def __post_init__(self):
        processes = int(os.environ.get(TO_LAUNCH, 1))
        if not self.use_cpu:
            problem = driver_problem(torch.version.cuda, nvidia_driver())
            if problem:
                raise ValueError(problem)
            choose_gpus(processes)
        if self.chat_template_path:
            raise ValueError("--chat_template_path: the student keeps its own template, with which it will be served")
        if self.report_to != "none" and not find_spec(self.report_to):
            raise ValueError(f"--report_to {self.report_to}: not installed; pip install {self.report_to}")
        if self.lr_scheduler_type in KNOW_LOWEST_RATE and self.lr_scheduler_kwargs is None:
            self.lr_scheduler_kwargs = {"min_lr_rate": 0.1}
        super().__post_init__()
        if self.n_gpu > 1 and processes == 1:  # CUDA was initialised before choose_gpus()
            raise ValueError(f"{self.n_gpu} GPUs are visible to one process; set CUDA_VISIBLE_DEVICES=0")


class OneLineParser(TrlParser):
    """TrlParser whose errors are one line, an unknown flag before anything else."""

    def parse(self):
        unknown = [flag for flag in self.parse_known_args()[1] if flag.startswith("-") and flag != "--config"]
        if unknown:
            self.error(f"unknown flag {unknown[0]}")
        return self.parse_args_and_config()

    def error(self, message):
        raise ValueError(f"{message} (see --help)")


def load_rows(path: str, tokenizer, max_length: int | None) -> list[dict]:
    """Encode the train file; raises ValueError that names file and line."""
    rows = []
    for number, messages in read_chat(path, last_role="assistant"):
        if len(messages) < 2:
            raise ValueError(f"{path}:{number}: an answer without a question; expected a user and an assistant message")
        try:
            row = encode(tokenizer, messages)
        except TemplateProblem as error:
            raise ValueError(f"{path}:{number}: the chat template {error}; drop the row or change it") from error
        if max_length and len(row["input_ids"]) > max_length:
            raise ValueError(f"{path}:{number}: {len(row['input_ids'])} tokens; raise --max_length or drop the row")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: no rows; run create_data.py first")
    return rows


def warn_about_rows(rows: list[dict], eval_rows: list[dict] | None) -> None:
    """Count what is allowed but rarely meant: one question with two answers, and evaluation rows in the train file."""

    def split(row):
        start = row["labels"].count(-100)
        return tuple(row["input_ids"][:start]), tuple(row["input_ids"][start:])

    answers = {}
    for question, answer in map(split, rows):
        answers.setdefault(question, set()).add(answer)
    if contradictory := sum(len(found) > 1 for found in answers.values()):
        log.warning("%d inputs of the train file have more than one answer", contradictory)
    if shared := sum(split(row)[0] in answers for row in eval_rows or []):
        log.warning("%d of %d rows of --eval_file are in the train file too", shared, len(eval_rows))


def lora_config(model, rank, alpha, expert_rank=0, target="all-linear", dropout=0.0) -> LoraConfig:
    """LoRA on every linear layer but the head and the router; `model` may be empty. Raises ValueError.

    Each token passes only num_experts_per_tok of the experts, so the rank is split over the active ones, as in Thinking
    Machines' "LoRA Without Regret" (2025), with the same scale alpha / rank everywhere.
    """
    linear = {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    fused = any(name.endswith(EXPERTS[0]) for name, _ in model.named_parameters())
    per_token = getattr(model.config, "num_experts_per_tok", None)
    if per_token and not fused and target == "all-linear":
        raise ValueError(
            f"{model.config.model_type}: its experts are not fused parameters; use --lora_target attention"
        )
    modules = {
        "all-linear": sorted(n for n in linear if n != "lm_head" and not n.endswith(("gate", "router"))),
        "attention": [name for name in ATTENTION if name in linear],
    }.get(target) or target.split(",")
    if unknown := set(modules) - linear:
        raise ValueError(f"--lora_target {target}: no linear layer {sorted(unknown)[0]!r}; there are {sorted(linear)}")
    settings = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": modules}
    if fused and target == "all-linear":
        if dropout:
            raise ValueError(f"--lora_dropout {dropout}: PEFT has none for fused experts; use --lora_target attention")
        expert_rank = expert_rank or max(1, rank // per_token)
        experts = r"mlp\.experts(\.gate_up_proj|\.down_proj|\.base_layer)*"
        settings |= {"target_parameters": EXPERTS, "rank_pattern": {experts: expert_rank}}
        settings["alpha_pattern"] = {experts: alpha * expert_rank / rank}
    return LoraConfig(task_type="CAUSAL_LM", **settings)


def describe(model) -> str:
    """What is trained: how many modules of which name, and their rank."""
    found = Counter()
    for name, module in model.named_modules():
        rank = getattr(module, "r", None)  # of PEFT's layers, a rank for each adapter
        if isinstance(rank, dict):
            parameter = getattr(module, "parameter_name", None)  # of the wrapper of a fused parameter
            found[parameter or name.rpartition(".")[2], *rank.values()] += 1
    return ", ".join(f"{count} {name} (rank {rank})" for (name, rank), count in found.items())


def make_trainer(
    script, args, tokenizer, lora, rows: list[dict], eval_rows: list[dict] | None, model=None
) -> LoraTrainer:
    """Load the student, put LoRA on it and give it its rows; completes `args` where defaults depend on others.

    `model` takes the student's place, and nothing is loaded.
    """
    set_seed(args.seed)
    train_data, eval_data = Dataset.from_list(rows), Dataset.from_list(eval_rows) if eval_rows else None
    if script.eval_fraction:
        train_data, eval_data = train_data.train_test_split(script.eval_fraction, seed=args.seed).values()
    if eval_data is not None and args.eval_strategy == "no":
        args.eval_strategy = IntervalStrategy.EPOCH
    args.warmup_steps = args.warmup_steps or script.warmup_ratio  # below 1 transformers reads it as a ratio
    args.padding_free = args.padding_free and args.per_device_train_batch_size > 1  # one row has no padding
    if args.padding_free:
        args.max_length = None  # load_rows has refused longer rows; TRL cannot enforce it without padding
    args.dataset_kwargs = {**(args.dataset_kwargs or {}), "skip_prepare_dataset": True}
    load = model is None
    if load:
        dtype = torch.bfloat16 if args.bf16 else torch.float32
        fsdp = parse_flag_from_env("ACCELERATE_USE_FSDP") or bool(args.fsdp)
        broadcast = is_fsdp_enabled()  # and fsdp_cpu_ram_efficient_loading
        where = (args.device, args.process_index, fsdp, broadcast)
        model = load_student(script.model_name, dtype, *where, script.commit)
        check_loaded(script.model_name, script.commit, model.config)
    model.config.use_cache = False
    if args.padding_free:
        attend_within_rows(model)
    trainer = LoraTrainer(
        model=model,
        args=args,
        train_dataset=train_data,
        eval_dataset=eval_data,
        processing_class=tokenizer,
        peft_config=lora,
        checkpoint_from_tokens=script.checkpoint_from_tokens,
        callbacks=[CompleteCheckpoint()],
    )
    if load:
        allocate_trained(trainer.model)
    return trainer


def check_trainer(script, args, tokenizer, lora, empty, rows: list[dict], eval_rows: list[dict] | None) -> None:
    """Let Trainer and SFTTrainer refuse flags before the student is loaded: make one for `empty`.

    `empty` is the student without weights. Nothing is written. Raises ValueError.
    """
    script = copy(script)
    args = deepcopy(args)
    tokenizer = deepcopy(tokenizer)
    lora = deepcopy(lora)
    first_rows = rows[:1]
    first_eval_rows = eval_rows[:1] if eval_rows else None
    if script.eval_fraction:
        first_eval_rows = first_rows
        script.eval_fraction = 0
    args.push_to_hub = False
    empty.hf_device_map = {"": "meta"}  # where Trainer then leaves it
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
    with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.device("meta"):
        args.output_dir = folder
        warnings.simplefilter("ignore")  # they come again with the student
        try:
            trainer = make_trainer(script, args, tokenizer, lora, first_rows, first_eval_rows, empty)
            trainer.get_optimizer_cls_and_kwargs(args, trainer.model)
            trainer.create_scheduler(num_training_steps=10, optimizer=optimizer)
        except RuntimeError:
            return  # it may need weights; with them it either goes well or says why not
        except Exception as error:
            raise ValueError(f"Trainer takes no such flags: {type(error).__name__}: {error}") from error


def finish(output_dir: Path, summary: dict, repository: Repository | None, tokenizer) -> int:
    """Push a finished run if it has a repository, print the last line; returns 1 where only the push failed."""
    code = 0
    line = dict(summary)
    if repository is not None:
        try:
            push(repository, output_dir, tokenizer)
            line["hub_url"] = repository.url
        except PushError as error:
            print(f"train_sft_trl.py: {error}", file=sys.stderr)
            code = 1
    print(json.dumps(line))
    return code


def leave(code: int) -> int:
    """Wait for the other processes, if there are any, and end with `code`."""
    if torch.distributed.is_initialized():
        PartialState().wait_for_everyone()
        # gloo's destructor joins a thread that may wait for the GIL, and then a finished process never ends
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)
    return code


def main() -> int:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()  # the launcher puts its processes into sessions of their own, where its death leaves them
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    # PEFT looks for the experts' rank among the modules, where they are not; tests pin the rank they get
    warnings.filterwarnings("ignore", message=".*_pattern keys did not match")
    try:
        script, args = OneLineParser((ScriptArguments, TrainArguments)).parse()
        script.commit = resolve(script.model_name, script.revision)
        config = AutoConfig.from_pretrained(script.model_name, revision=script.commit or "main")
        tokenizer = load_tokenizer(script.model_name, script.commit)
        script.probe_tokens = probe_tokens(tokenizer)
        warn_of_date(script.model_name, tokenizer, [{"role": "user", "content": PROBE}])
        rows = load_rows(script.train_file, tokenizer, args.max_length)
        eval_rows = load_rows(script.eval_file, tokenizer, args.max_length) if script.eval_file else None
        empty, ranks = empty_model(config), (script.lora_rank, script.lora_alpha, script.lora_expert_rank)
        lora = lora_config(empty, *ranks, script.lora_target, script.lora_dropout)
        lora.revision = script.revision
        fsdp = fsdp_settings()
        if fsdp:
            check_fsdp(fsdp, args.save_only_model, args.load_best_model_at_end)
            check_types(empty, torch.bfloat16 if args.bf16 else torch.float32)
        if args.parallel_mode != ParallelMode.DISTRIBUTED:  # a launch has been checked by one process
            check_trainer(script, args, tokenizer, lora, empty, rows, eval_rows)
        repository = None
        if args.push_to_hub and args.process_index == 0:
            repository = open_repository(args)  # before prepare_output deletes what --overwrite replaces
        checkpoint = prepare_output(script, args)
    except (ValueError, OSError) as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"train_sft_trl.py: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    if script.check_only:
        return 0
    output_dir = Path(args.output_dir)
    # prepare_output lets it pass for --push_to_hub alone; a network's file system may still show what it deleted
    if is_finished(output_dir) and not script.overwrite:
        code = 0
        if args.process_index == 0:
            summary = json.loads((output_dir / "results.json").read_text())
            code = finish(output_dir, summary, repository, tokenizer)
        return leave(code)

    args.push_to_hub = False  # Trainer would push the whole folder, with TRL's card; finish does
    args.hub_token = None  # Trainer would write it into training_args.bin
    trainer = make_trainer(script, args, tokenizer, lora, rows, eval_rows)
    is_main, train_data = args.process_index == 0, trainer.train_dataset
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in trainer.model.parameters())
    effective = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps = args.max_steps if args.max_steps > 0 else ceil(len(train_data) / effective) * args.num_train_epochs
    if is_main:
        warn_about_rows(rows, eval_rows)
        learned = [t for t in rows[0]["labels"] if t != -100]
        log.info("LoRA on %s", describe(trainer.model))
        log.info("trainable parameters %s of %s (%.2f %%)", f"{trainable:,}", f"{total:,}", 100 * trainable / total)
        log.info("%d rows, effective batch %d, %d optimizer steps", len(train_data), effective, steps)
        log.info("the first row's loss is on %r", tokenizer.decode(learned))
        if steps < 100:
            log.warning("only %d optimizer steps; more come from --num_train_epochs or a smaller batch", steps)

    resumed = steps_of(checkpoint) if checkpoint else 0  # read now: training deletes old checkpoints
    start = time.perf_counter()
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    code = 0
    if is_main:
        steps = trainer.state.global_step
        seconds, last = time.perf_counter() - start, {}
        for entry in trainer.state.log_history:
            last.update(entry)
        tokens = sum(map(len, train_data["input_ids"])) * trainer.state.epoch
        peak = (
            torch.cuda.max_memory_allocated() if torch.cuda.is_available() else getrusage(RUSAGE_SELF).ru_maxrss * 1024
        )
        summary = {
            "output_dir": args.output_dir,
            "steps": steps,
            "rows": len(train_data),
            "tokens": round(tokens),
            "effective_batch_size": effective,
            "train_loss": round(result.training_loss, 4),
            **{key: round(last[key], 4) for key in ("eval_loss", "eval_exact_answers") if key in last},
            "trainable_parameters": trainable,
            "seconds": round(seconds, 1),
            "tokens_per_second": round(tokens * (1 - resumed / steps) / seconds, 1),
            "peak_memory_gib": round(peak / 2**30, 2),
        }
        write_report(output_dir, trainer.state.log_history, summary)
        code = finish(output_dir, summary, repository, tokenizer)
    return leave(code)


if __name__ == "__main__":
    sys.exit(main())
