"""The rows of a run in full, for a terminal: create_data.py --show.

Each attempt with its thought, its answer, and why that was taken or not. No torch, no vLLM.
"""

from distill.labels.run import Run
from distill.task import NoAnswer, Task
from distill.terminal import field
from distill.tokens import THINK_END

# why a row has no answer, in words; the names are those of the journal
REASONS = {
    "unfinished_thinking": "the thought has no end",
    "no_answer": "no answer was found after the thought",
    "not_a_label": "what was found is none of the labels",
    "not_json": "the answer is no JSON",
    "not_in_schema": "the answer is JSON that the schema does not allow",
    "low_agreement": "the samples do not agree",
    "input_too_long": "the input leaves no room for an answer in the model's context",
    "refused_by_template": "the teacher's chat template refuses the input",
    "garbled_by_template": "the teacher's chat template does not show the input as it is",
}


def show_rows(run: Run) -> None:
    """Print every row of a finished run; equal inputs have the attempts of the first."""
    settings = run.choices.settings
    for index, messages, record in run.journal.decided():
        title = f"Row {index + 1:,} of {len(run.inputs):,}: {outcome(record, settings.num_samples)}"
        print(row_text(title, messages, record, run.task, settings.thinks))
        print()


def outcome(record: dict, num_samples: int) -> str:
    """What became of a row, from its line in the journal."""
    text = "accepted"
    if record["answer"] is None:
        text = f"rejected, {record['reason']}"
    if num_samples > 1:
        text += f" (agreement of {num_samples} samples: {record['agreement']:.0%})"
    return text


def in_words(reason: str) -> str:
    """A reason of the journal with what it means."""
    meaning = REASONS.get(reason)
    return f"{reason}: {meaning}" if meaning else reason


def row_text(title: str, messages: list[dict], record: dict, task: Task, thinks: bool) -> str:
    """A row with all its attempts, in lines that fit a terminal."""
    lines = [title]
    for message in messages:
        lines.append(field(message["role"], message["content"], indent=2))
    for number, attempt in enumerate(record["attempts"], 1):
        lines.append(field(f"attempt {number}", how_asked(attempt), indent=2))
        thought, answer = parts_of(attempt["response"], thinks)
        if thought:
            lines.append(field("thought", thought, indent=4))
        lines.append(field("answer", answer or "(none)", indent=4))
        lines.append(field("why", why(attempt, task, thinks), indent=4))
    if record["answer"] is None:
        lines.append(field("rejected", in_words(record["reason"]), indent=2))
    else:
        lines.append(field("accepted", record["answer"], indent=2))
    return "\n".join(lines)


def how_asked(attempt: dict) -> str:
    """How an attempt was sampled, how long it was and how it ended."""
    sampling = attempt["sampling"]
    guarded = ", guarded" if "structured_outputs" in sampling else ""
    tokens = f"{attempt['prompt_tokens']:,} + {attempt['output_tokens']:,} tokens"
    cut = ", cut thought" if attempt.get("thinking_cut") else ""
    ended = attempt["finish_reason"]
    return f"temperature {sampling['temperature']}{guarded}; {tokens}; ended by {ended}{cut}"


def parts_of(response: str, thinks: bool) -> tuple[str, str]:
    """Thought and answer of a response, as Task.read_answer() tells them apart.

    Without an end of the thought all of it is thought.
    """
    if not thinks and THINK_END not in response:
        return "", response.strip()
    thought, end, answer = response.rpartition(THINK_END)
    if not end:
        return response.strip(), ""
    return thought.strip(), answer.strip()


def why(attempt: dict, task: Task, thinks: bool) -> str:
    """Why an attempt's answer was taken, or was not."""
    if attempt["answer"] is not None:
        return f"accepted: read as {attempt['answer']!r}"
    detail = ""
    try:
        task.read_answer(attempt["response"], attempt["finish_reason"], thinks)
    except NoAnswer as error:
        detail = f" ({error.detail})" if error.detail else ""
    return f"rejected, {in_words(attempt['reason'])}{detail}"
