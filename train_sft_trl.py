"""Step 2: the student learns the teacher's answers without the prompt, through LoRA with TRL's SFTTrainer.

    bash train_trl.sh Qwen/Qwen3-30B-A3B-Instruct-2507 models/my_adapter data/prompt_distillation_lang.jsonl

Every SFTConfig flag is accepted, and --config FILE.yaml sets any of them. The loss falls on the answer and its end of
turn, in exactly the context that inference sees.
"""

import json
import logging
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import SFTConfig, SFTTrainer, TrlParser

from task import check_model, prompt_ids, read_chat, text_ids

log = logging.getLogger("train_sft_trl")
PLACEHOLDER = "\ue002"  # a private-use character, which no template touches


@dataclass
class ScriptArguments:
    """What is ours; everything else is SFTConfig's."""

    model_name: str = field(default="Qwen/Qwen3-30B-A3B-Instruct-2507", metadata={"help": "the student"})
    train_file: str = field(
        default="./data/prompt_distillation_lang.jsonl", metadata={"help": "chat JSONL from create_data.py"}
    )
    lora_rank: int = field(default=32, metadata={"help": "rank on attention and dense layers"})
    lora_alpha: int = field(default=16, metadata={"help": "scale is alpha / rank"})
    lora_expert_rank: int = field(
        default=0, metadata={"help": "rank on each expert (0: lora_rank // experts per token)"}
    )
    warmup_ratio: float = field(default=0.03, metadata={"help": "share of the steps with a rising learning rate"})

    def __post_init__(self):
        if self.lora_rank < 1:
            raise ValueError(f"--lora_rank {self.lora_rank}: must be at least 1")
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
        default_factory=lambda: {"min_lr_rate": 0.1}, metadata={"help": "ends at a tenth of the peak"}
    )
    per_device_train_batch_size: int = field(default=4, metadata={"help": "rows per process and step"})
    gradient_accumulation_steps: int = field(default=4, metadata={"help": "micro-batches per optimizer step"})
    max_length: int | None = field(default=2048, metadata={"help": "tokens; a longer row is refused, not cut"})
    num_train_epochs: float = field(default=1.0, metadata={"help": "passes over the data"})
    gradient_checkpointing: bool = field(
        default=True, metadata={"help": "without it expert LoRA keeps a merged copy of every layer's experts"}
    )
    padding_free: bool = field(default=True, metadata={"help": "no padding between the rows of a batch"})
    bf16: bool = field(default=True, metadata={"help": "weights and computation in bfloat16"})
    # TRL turns the load-balancing loss on by default, which would train something the answers do not ask for
    router_aux_loss_coef: float | None = field(default=0.0, metadata={"help": "load-balancing loss of a MoE"})
    report_to: str = field(default="none", metadata={"help": "wandb, tensorboard, trackio or none"})
    save_strategy: str = field(default="epoch", metadata={"help": "when checkpoints are written"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints kept"})

    def __post_init__(self):
        if not self.use_cpu and not torch.cuda.is_available():
            raise ValueError("no GPU is visible; to train on a CPU add --use_cpu true --bf16 false")
        super().__post_init__()


class OneLineParser(TrlParser):
    """TrlParser whose errors are one line, an unknown flag before anything else."""

    def parse(self):
        unknown = [flag for flag in self.parse_known_args()[1] if flag.startswith("-") and flag != "--config"]
        if unknown:
            self.error(f"unknown flag {unknown[0]}")
        return self.parse_args_and_config()

    def error(self, message):
        raise ValueError(f"{message} (see --help)")


def encode(tokenizer, messages: list[dict]) -> dict[str, list[int]]:
    """input_ids and labels of one row; labels are -100 everywhere but on the answer and its end of turn."""
    *prompt, answer = messages
    context = prompt_ids(tokenizer, prompt)
    probe = [*prompt, {"role": "assistant", "content": PLACEHOLDER}]
    rendered = tokenizer.apply_chat_template(probe, tokenize=False)
    # what the template writes after an answer, without the newline that inference never generates
    ending = rendered.rpartition(PLACEHOLDER)[2].rstrip() or tokenizer.eos_token
    target = text_ids(tokenizer, answer["content"])
    target += tokenizer(ending, add_special_tokens=False)["input_ids"]
    return {"input_ids": context + target, "labels": [-100] * len(context) + target}


def load_rows(path: str, tokenizer, max_length: int | None) -> list[dict]:
    """Encode the train file; raises ValueError that names file and line."""
    rows = []
    for number, messages in read_chat(path, last_role="assistant"):
        if len(messages) < 2:
            raise ValueError(f"{path}:{number}: an answer without a question; expected a user and an assistant message")
        row = encode(tokenizer, messages)
        if max_length and len(row["input_ids"]) > max_length:
            raise ValueError(f"{path}:{number}: {len(row['input_ids'])} tokens; raise --max_length or drop the row")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: no rows; run create_data.py first")
    return rows


def lora_config(config, rank: int, alpha: int, expert_rank: int):
    """LoRA on every linear layer but the head and the router.

    Experts of a mixture are fused parameters in transformers 5. Each token passes only num_experts_per_tok of them, so
    the rank is split over the active ones, as in Thinking Machines' "LoRA Without Regret" (2025).
    """
    per_token = getattr(config, "num_experts_per_tok", None)
    if not per_token:
        return LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        )
    expert_rank = expert_rank or max(1, rank // per_token)
    experts = r"mlp\.experts(\.gate_up_proj|\.down_proj|\.base_layer)*"
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,  # PEFT cannot apply dropout to a parameter
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        rank_pattern={experts: expert_rank},
        alpha_pattern={experts: alpha * expert_rank / rank},  # the same scale alpha / rank everywhere
        task_type="CAUSAL_LM",
    )


class LoraTrainer(SFTTrainer):
    """SFTTrainer that under FSDP2 gathers and writes the adapter alone, not the frozen base."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fsdp = getattr(self.accelerator.state, "fsdp_plugin", None)
        if self.fsdp is not None and self.args.bf16:
            # accelerate's own policy also casts the loss's inputs and the gradient reduction to bf16
            self.fsdp.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
            )

    def save_model(self, output_dir=None, _internal_call=False):
        if self.fsdp is None:
            return super().save_model(output_dir, _internal_call)
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        state = get_model_state_dict(self.model, options=options)
        if self.args.should_save:
            directory = Path(output_dir or self.args.output_dir)
            directory.mkdir(parents=True, exist_ok=True)
            peft_model = self.accelerator.unwrap_model(self.model)
            name = peft_model.active_adapter
            config = peft_model.peft_config[name]
            training, config.inference_mode = config.inference_mode, True
            config.save_pretrained(directory)
            config.inference_mode = training
            tensors = {key.replace(f".{name}.", "."): value.contiguous() for key, value in state.items()}
            if not tensors or not all("lora_" in key for key in tensors):
                raise RuntimeError("FSDP gathered no adapter weights; nothing was saved")
            save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
            self.processing_class.save_pretrained(directory)
        self.accelerator.wait_for_everyone()


def main() -> int:
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    try:
        script, args = OneLineParser((ScriptArguments, TrainArguments)).parse()
        config = AutoConfig.from_pretrained(script.model_name)
        tokenizer = AutoTokenizer.from_pretrained(script.model_name)
        if not tokenizer.chat_template:
            raise ValueError(f"{script.model_name}: the tokenizer has no chat template; use an instruct model")
        rows = load_rows(script.train_file, tokenizer, args.max_length)
    except (ValueError, OSError) as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"train_sft_trl.py: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2

    set_seed(args.seed)
    args.warmup_steps = args.warmup_steps or script.warmup_ratio  # below 1 transformers reads it as a ratio
    args.padding_free = args.padding_free and args.per_device_train_batch_size > 1  # one row has no padding
    if args.padding_free:
        args.max_length = None  # load_rows has refused longer rows; TRL cannot enforce it without padding
    args.dataset_kwargs = {**(args.dataset_kwargs or {}), "skip_prepare_dataset": True}
    is_main = args.process_index == 0
    model = AutoModelForCausalLM.from_pretrained(
        script.model_name, dtype=torch.bfloat16 if args.bf16 else torch.float32
    )
    model.config.use_cache = False
    trainer = LoraTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora_config(config, script.lora_rank, script.lora_alpha, script.lora_expert_rank),
    )
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in trainer.model.parameters())
    effective = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    if is_main:
        learned = [t for t in rows[0]["labels"] if t != -100]
        log.info("trainable parameters %s of %s (%.2f %%)", f"{trainable:,}", f"{total:,}", 100 * trainable / total)
        log.info(
            "%d rows, effective batch %d; first row's loss is on %r", len(rows), effective, tokenizer.decode(learned)
        )

    start = time.perf_counter()
    result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model()
    if is_main:
        steps = trainer.state.global_step
        if steps < 100:
            log.warning("only %d optimizer steps; more come from --num_train_epochs or a smaller batch", steps)
        summary = {
            "output_dir": args.output_dir,
            "steps": steps,
            "rows": len(rows),
            "effective_batch_size": effective,
            "train_loss": round(result.training_loss, 4),
            "trainable_parameters": trainable,
            "seconds": round(time.perf_counter() - start, 1),
        }
        print(json.dumps(summary))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
