"""The flags of TRL's SFTConfig that are refused here; docs/training_flags.md lists all of them.

Most would do nothing. They are refused instead of being accepted without a word.
"""

from dataclasses import MISSING, fields

ROWS = "rows are encoded here, and not by TRL"
LOSS = "the loss is on the last answer and its end of turn, in any case"
OWN_FIGURES = "evaluation counts its own figures, eval_loss and eval_exact_answers"
LOADED = "the student is loaded here, and not by TRL"
# Why each is refused, with what takes its place.
REFUSED = {
    "packing": f"{ROWS}; --padding_free, on by default, leaves out the padding",
    "packing_strategy": f"{ROWS}; --padding_free, on by default, leaves out the padding",
    "eval_packing": f"{ROWS}; --padding_free, on by default, leaves out the padding",
    "assistant_only_loss": LOSS,
    "completion_only_loss": LOSS,
    "dataset_text_field": f"{ROWS}; --train_file takes chat JSONL",
    "dataset_kwargs": f"{ROWS}; --train_file takes chat JSONL",
    "dataset_num_proc": f"{ROWS}, in one process",
    "shuffle_dataset": (
        "rows are shuffled in each epoch; --train_sampling_strategy sequential keeps their order"
    ),
    "truncation_mode": "a row that is too long is refused and not cut; raise --max_length",
    "length_column_name": "rows have no such column; their tokens are counted",
    "label_names": "rows have no other column than labels",
    "pad_token": "no loss sees padding, which is the tokenizer's own",
    "chat_template_path": "the student keeps its own template, with which it will be served",
    "model_init_kwargs": LOADED,
    "trust_remote_code": f"{LOADED}, without code of its own",
    "use_cache": "training has no use for one",
    "prediction_loss_only": OWN_FIGURES,
    "include_for_metrics": OWN_FIGURES,
    "batch_eval_metrics": OWN_FIGURES,
    "eval_do_concat_batches": OWN_FIGURES,
    "eval_use_gather_object": OWN_FIGURES,
    "eval_accumulation_steps": OWN_FIGURES,
    "bf16_full_eval": "evaluation during training computes as training does; see --bf16",
    "fp16_full_eval": "evaluation during training computes as training does; see --fp16",
    "do_train": "step 2 always trains",
    "do_eval": "--eval_file or --eval_fraction turn evaluation on",
    "do_predict": "step 3 (evaluate.py) asks the student",
    # its handler takes the place of ours, and a run that it has stopped looks like a finished one
    "enable_jit_checkpoint": (
        "SIGTERM ends a run at once, and the same command goes on from the last complete "
        "checkpoint; --save_strategy steps with --save_steps writes them more often"
    ),
    "hub_always_push": "--push_to_hub pushes once, when the run is finished",
}


def refuse_flags(arguments) -> None:
    """Raise ValueError for a refused flag that was given another value than its default.

    `arguments` is a dataclass of TRL's SFTConfig, before its own __post_init__() fills in what was
    left out.
    """
    for field in fields(arguments):
        if field.name not in REFUSED:
            continue
        default = field.default if field.default is not MISSING else field.default_factory()
        value = getattr(arguments, field.name)
        if value != default:
            raise ValueError(f"--{field.name} {value}: {REFUSED[field.name]}; leave it out")
