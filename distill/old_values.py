"""What older files leave unsaid. No torch, no vLLM.

A key that a file lacks has the value that the code of its time used. A journal's header and
run.json hold what decides a result, and a run with other values does not continue them. Whoever
adds a key to one of them adds here, in the same commit, the value that was used before there was
such a key: then files that lack it go on under that value, and are refused under any other. A key
that is no longer written gets here the value that is used from then on. No torch, no vLLM.
"""

from collections.abc import Iterator
from dataclasses import dataclass

NOT_RECORDED = object()  # a flag could set it, so nothing is known about it

# Of the header lines of OUTPUT.trace.jsonl.
OLD_HEADER = {
    "max_repeats": 0,  # loops ran to the token limit
    "weights": NOT_RECORDED,  # of a model in a directory; one on the hub still has none
    "task_meaning": NOT_RECORDED,  # beside it stands `task`, the file's sha256
}

# Of run.json, where settings of SFTConfig are texts such as "None".
OLD_RUN = {
    "revision": None,  # main
    "calibration_fraction": 0.0,
    "on_conflict": None,  # contradictory rows were a warning
    "commit": NOT_RECORDED,
    "weights": NOT_RECORDED,  # as in a journal's header
    "eos_token": "None",  # --eos_token did nothing
    "probe_tokens": NOT_RECORDED,
    "eval_sha256": NOT_RECORDED,
    "data_seed": NOT_RECORDED,
    "train_sampling_strategy": NOT_RECORDED,
    "lr_scheduler_kwargs": NOT_RECORDED,
    "warmup_steps": NOT_RECORDED,
    "fp16": NOT_RECORDED,
    "optim_args": NOT_RECORDED,
    "adam_beta1": NOT_RECORDED,
    "adam_beta2": NOT_RECORDED,
    "adam_epsilon": NOT_RECORDED,
    "max_grad_norm": NOT_RECORDED,
    "label_smoothing_factor": NOT_RECORDED,
    "neftune_noise_alpha": NOT_RECORDED,
    "loss_type": NOT_RECORDED,
    "router_aux_loss_coef": NOT_RECORDED,
    "dataloader_drop_last": NOT_RECORDED,
}


@dataclass(frozen=True)
class Difference:
    """A key whose value differs between a file and the run that would continue it."""

    key: str
    before: object
    now: object


def first_difference(before: dict, now: dict, old_values: dict) -> Difference | None:
    """The first of the differences(), or None."""
    return next(differences(before, now, old_values), None)


def differences(before: dict, now: dict, old_values: dict) -> Iterator[Difference]:
    """Each key whose value differs.

    A key that one side lacks has its value in `old_values`. `before` is what the file holds, `now`
    the run of today, `old_values` OLD_HEADER or OLD_RUN. A key that is missing there too counts as
    None, a setting that is not given.
    """
    keys = list(now)
    keys += [key for key in before if key not in now]
    for key in keys:
        old = value_of(before, key, old_values)
        new = value_of(now, key, old_values)
        if NOT_RECORDED in (old, new):
            continue
        if old != new:
            yield Difference(key, old, new)


def value_of(recorded: dict, key: str, old_values: dict):
    """The value of a key as recorded, or else as the code of that time used it."""
    if key in recorded:
        return recorded[key]
    return old_values.get(key)
