"""The model card of an adapter.

It is README.md of the output directory, and of the repository on the hub. Its text is card.md.j2.
Its metadata holds the figures of the run's evaluation, which the hub shows beside the text.
"""

import json
import os
from math import isfinite
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

TEMPLATE = Path(__file__).with_name("card.md.j2")
OURS = "prompt-distillation"  # by which a card of step 2 is known
TAGS = ("lora", OURS, "trl")
TASK = "text-generation"
# The keys of results.json that the hub shows, with its own names for such metrics.
METRICS = {
    "eval_loss": "loss",
    "eval_exact_answers": "exact_match",
}


def model_card(run: dict, results: dict, adapter: str, revision: str | None = None) -> str:
    """The text of the card of an adapter.

    It is loaded from `adapter`, a directory or a repository on the hub. `run` is what run.json
    holds, `results` what results.json holds, and `revision` the branch on the hub.
    """
    card = ModelCard.from_template(
        card_metadata(run, results, adapter),
        template_path=str(TEMPLATE),
        student=run["model_name"],
        base=at_revision(run["model_name"], run.get("revision")),
        adapter=at_revision(adapter, revision),
        train_sha256=run["train_sha256"].replace(",", "`, `"),  # of each train file
        rows=results["rows"],
        init_adapter=run.get("init_adapter"),
        init_adapter_identity=run.get("init_adapter_identity"),
        run=json.dumps(run, indent=2),
        results=json.dumps(results, indent=2),
    )
    return f"{card}\n"  # Jinja takes the last end of a line off


def card_metadata(run: dict, results: dict, adapter: str) -> ModelCardData:
    """What the hub reads of the card."""
    evaluation = evaluation_results(run, results)
    return ModelCardData(
        base_model=base_on_hub(run["model_name"]),
        library_name="peft",
        pipeline_tag=TASK,
        tags=list(TAGS),
        # without figures the hub wants no name:
        # it would be a key of the metadata that means nothing
        model_name=public_name(adapter) if evaluation else None,
        eval_results=evaluation or None,
    )


def evaluation_results(run: dict, results: dict) -> list[EvalResult]:
    """The figures of the evaluation during training that results.json has, if there are any."""
    found = []
    for key, metric in METRICS.items():
        value = results.get(key)
        if value is None or not isfinite(value):  # JSON, as the hub reads it, knows no NaN
            continue
        found.append(
            EvalResult(
                task_type=TASK,
                dataset_type="json",
                dataset_name=evaluated_rows(run),
                metric_type=metric,
                metric_name=key,
                metric_value=value,
            )
        )
    return found


def evaluated_rows(run: dict) -> str:
    """On what rows a run was evaluated; of a file the name alone, since the card is for others."""
    if run.get("eval_file"):
        return Path(run["eval_file"]).name
    return "rows left out of the train file"


def base_on_hub(model: str) -> str | None:
    """The student's name as the hub takes it.

    None for a directory's name that no model can have there.
    """
    name = public_name(model)
    try:
        validate_repo_id(name)
    except HFValidationError:  # the hub refuses a card with it
        return None
    return name


def public_name(model: str) -> str:
    """A model's name for others.

    It is the hub's, or the last part of the directory that it was loaded from.
    """
    path = Path(model).expanduser()
    if path.is_absolute() or path.is_dir():
        return Path(os.path.abspath(path)).name
    return model


def at_revision(name: str, revision: str | None) -> str:
    """The arguments of from_pretrained that load a model at a revision."""
    if revision:
        return f'"{name}", revision="{revision}"'
    return f'"{name}"'
