"""The figures of step 3 in a model card that step 2 has written.

They are metadata, which the hub shows beside the text, and a section of the text. A test file has
an entry in the metadata, and the section is made from these entries, so that a card that is written
anew can take both from the one before it. What the user has added stays: only the metrics named
here are replaced, and only the text between two marks.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, metadata_load
from huggingface_hub.repocard import RepoCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from distill.card import OURS, TASK
from distill.wording import markdown, percent, show

CARD = "README.md"
# Of the metrics in the metadata, by which they are found again.
ACCURACY = "accuracy on gold"
AGREEMENT = "agreement with the teacher"
TOKENS = "tokens per request"
SPEEDUP = "speed-up"
MACRO_F1 = "macro-F1"
EXACT_MATCH = "exact match"
TOKEN_F1 = "token-F1"
CHRF = "chrF"
FIELD_ACCURACY = "mean accuracy of fields"
CASCADE_ACCURACY = "accuracy on gold, with the teacher where the student is unsure"
NAMES = (
    ACCURACY,
    MACRO_F1,
    FIELD_ACCURACY,
    EXACT_MATCH,
    TOKEN_F1,
    CHRF,
    AGREEMENT,
    TOKENS,
    SPEEDUP,
    CASCADE_ACCURACY,
)

MARKS = ("<!-- evaluation -->", "<!-- end of evaluation -->")
# From a mark to the next end, without another mark between them.
SECTION = re.compile(f"{MARKS[0]}(?:(?!{MARKS[0]}).)*?{MARKS[1]}", re.DOTALL)
BEFORE = "\n## Training\n"  # where a new section goes, in a card that has this heading
HEADER = [
    "test file",
    "accuracy on gold (rows; 95 % interval)",
    "teacher's accuracy",
    "agrees with teacher",
    "tokens per request (teacher's)",
    "speed-up",
]


def figure(rows: str, kind: str, name: str, value: float, about: dict | None = None) -> EvalResult:
    """One figure of the test file `rows`; `kind` is the hub's name of the metric.

    The hub tells entries apart by the configuration too, and not by the data set's name.
    """
    return EvalResult(
        task_type=TASK,
        dataset_type="json",
        dataset_name=rows,
        dataset_config=rows,
        dataset_split="test",
        metric_type=kind,
        metric_name=name,
        metric_value=value,
        metric_args=about or None,
    )


def read_card(folder: Path) -> RepoCard | None:
    """The card in an adapter's directory; None without one that step 2 has written, by its tag.

    Raises OSError, and ValueError for a card that cannot be read.
    """
    path = folder / CARD
    if not path.is_file():
        return None
    try:
        metadata = metadata_load(path) or {}
        if OURS not in (metadata.get("tags") or []):
            return None
        if metadata.get("model-index"):
            model_index_to_eval_results(metadata["model-index"])
        return RepoCard.load(path)
    except yaml.YAMLError as error:
        raise ValueError("its metadata is not valid YAML") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its model-index is none ({error!r})") from error


def with_figures(card: RepoCard, figures: list[EvalResult], model_name: str) -> str:
    """The card's text with the figures of one test file, in place of its earlier ones.

    Raises ValueError where the section cannot be made, of figures that somebody has changed.
    """
    [index] = eval_results_to_model_index(model_name, figures)
    return with_entries(card, index["results"], model_name)


def with_entries(card: RepoCard, entries: list[dict], model_name: str) -> str:
    """The card's text with these entries of the metadata, and with the section that shows them.

    Each takes the place of an earlier one of the same test file. Raises ValueError as above.
    """
    if not card.data.get("model-index"):
        card.data["model-index"] = [{"name": model_name, "results": []}]
    results = card.data["model-index"][0]["results"]
    for entry in entries:
        put_entry(results, entry)
    try:
        section = section_of(our_entries(card))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"its figures cannot be read ({error!r})") from error
    card.text = with_section(card.text, section)
    return str(card)


def put_entry(results: list[dict], entry: dict) -> None:
    """Put an entry where its test file's is, or at the end; metrics that are not ours stay."""
    for place, earlier in enumerate(results):
        if is_of_rows(earlier, entry["dataset"]["name"]):
            others = [metric for metric in earlier["metrics"] if metric.get("name") not in NAMES]
            results[place] = {**earlier, "metrics": [*entry["metrics"], *others]}
            return
    results.append(entry)


def is_of_rows(entry: dict, rows: str) -> bool:
    """Whether an entry holds the figures of step 3 on the test file `rows`."""
    data = entry["dataset"]
    return (data["type"], data.get("config"), data.get("split")) == ("json", rows, "test")


def our_entries(card: RepoCard) -> list[dict]:
    """The entries of a card that step 3 has put there, without what others have added to them."""
    found = []
    for model in card.data.get("model-index") or []:
        for entry in model["results"]:
            metrics = [metric for metric in entry["metrics"] if metric.get("name") in NAMES]
            if metrics and is_of_rows(entry, entry["dataset"]["name"]):
                found.append({**entry, "metrics": metrics})
    return found


def with_section(text: str, section: str) -> str:
    """A card's text with the section, in place of an earlier one."""
    if SECTION.search(text):
        return SECTION.sub(lambda _: section, text, count=1)
    if text.count(BEFORE) == 1:
        return text.replace(BEFORE, f"\n{section}\n{BEFORE}")
    return f"{text.rstrip()}\n\n{section}\n"


def section_of(entries: Iterable[dict]) -> str:
    """The section between its marks: a line for each test file, and where it was measured."""
    lines = []
    measured = []
    together = []
    for entry in entries:
        metrics = {metric["name"]: metric for metric in entry["metrics"]}
        lines.append(line_of(entry["dataset"]["name"], metrics))
        if CASCADE_ACCURACY in metrics:
            together.append(sentence_of(entry["dataset"]["name"], metrics[CASCADE_ACCURACY]))
        origin = metrics[ACCURACY].get("args", {}).get("measured")
        if origin and origin not in measured:
            measured.append(origin)
    table = markdown(HEADER, lines)
    sentence = "The student is given the input alone, the teacher its prompt too."
    if measured:
        sentence += f" Measured on {'; '.join(measured)}."
    text = "\n\n".join([table, sentence, *together])
    return f"{MARKS[0]}\n## Evaluation\n\n{text}\n{MARKS[1]}"


def sentence_of(rows: str, cascade: dict) -> str:
    """How good student and teacher are together on a test file, and when the teacher is asked."""
    about = cascade["args"]
    return (
        f"With the teacher's answer where the student is unsure {percent(cascade['value'])} of "
        f"{rows} are right. Handed over are then {percent(about['handed_over'])} of the requests: "
        f"those with a confidence below {about['threshold']:.4g}, at a temperature of "
        f"{about['temperature']:.4g}."
    )


def line_of(rows: str, metrics: dict[str, dict]) -> list[str]:
    """The cells of a test file; what was not measured is a dash."""
    about = metrics[ACCURACY].get("args", {})
    of_rows = f"{about['rows']}; {percent(about['low'])} to {percent(about['high'])}"
    tokens = show(value_of(metrics.get(TOKENS)), ".1f")
    of_teacher = metrics.get(TOKENS, {}).get("args", {}).get("teacher")
    if isinstance(of_teacher, str):  # that it is not known
        tokens += f" ({of_teacher})"
    elif of_teacher is not None:
        tokens += f" ({of_teacher:.1f})"
    return [
        rows,
        f"{percent(metrics[ACCURACY]['value'])} ({of_rows})",
        percent(about.get("teacher")),
        percent(value_of(metrics.get(AGREEMENT))),
        tokens,
        show(value_of(metrics.get(SPEEDUP)), ".1f"),
    ]


def value_of(metric: dict | None) -> float | None:
    """A metric's value, if there is the metric."""
    return None if metric is None else metric["value"]
