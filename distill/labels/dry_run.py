"""What a run of step 1 would ask, found out without a model: create_data.py --dry_run.

No torch, no vLLM, and nothing is written.
"""

import json

from distill.guard import LABEL, written_shapes
from distill.labels.changes import in_words
from distill.labels.run import Run, check_guards, estimate_of
from distill.labels.sizes import CHARACTERS_PER_TOKEN, SAMPLED, Sizes, measure_inputs
from distill.labels.tokenizer_here import Here, look
from distill.model_tokenizer import check_prompt, check_thinking
from distill.task import Task, read_back
from distill.teacher.check import TeacherModel
from distill.teacher.server import Server
from distill.templates import TemplateProblem, render
from distill.terminal import field, shortened
from distill.unfit_rows import describe_unfit_rows, find_unfit_rows

SHOWN_LINES = 6  # of the beginning and of the end of a long message
# these are vLLM's and its guard's to say, which take seconds to import
NOT_CHECKED = (
    "vLLM's own flags, the name of --reasoning_parser, and whether vLLM can follow the guard: "
    "a real run checks them before it loads a model"
)


def dry_run(run: Run) -> int:
    """Print what a run would do, the last line as JSON; returns the exit code.

    Raises ValueError for what a real run would refuse.
    """
    choices = run.choices
    settings = choices.settings
    check_guards(run)
    here = look_behind(choices.server) if choices.server else look(choices.teacher)
    warning = ""
    if here.tokenizer:
        warning = check_template(run, here.tokenizer)
    sizes = measure_inputs(run.task, run.inputs, run.missing, here.tokenizer)
    first = first_chat(run)
    requests = run.asked * settings.num_samples
    prompt_tokens = round(requests * (sizes.prompt + sizes.mean_input))
    parts = [
        guard_text(run.task, settings.guards),
        reading_text(run.task),
        sizes_text(run, here, sizes, warning),
        requests_text(run, here, sizes, requests, prompt_tokens),
        *reuse_text(run),
        messages_text(run.task, first, here.tokenizer),
        field("not checked", NOT_CHECKED),
    ]
    print("\n\n".join(parts))
    print()
    print(
        json.dumps(
            {
                "dry_run": True,
                "inputs": len(run.inputs),
                "asked": run.asked,
                "reused": run.reused,
                "requests": requests,
                "requests_at_most": requests * (1 + settings.max_retries),
                "prompt_tokens": prompt_tokens,
                "output_tokens_at_most": requests * settings.max_tokens,
                "tokens_counted": here.tokenizer is not None,
                "shared_prompt_tokens": sizes.prompt,
                "longest_input_index": sizes.longest_index,
                "longest_input_tokens": sizes.longest_input,
                "context": here.context,
            }
        )
    )
    return 0


def look_behind(server: Server) -> Here:
    """What is known of a teacher behind a URL, which a dry run does not ask.

    Raises ValueError for a directory that holds no tokenizer.
    """
    if not server.tokenizer:
        return Here(None, "--teacher_tokenizer names none", None)
    model = TeacherModel(server.tokenizer, None, 1, "none", [])
    found = look(model)
    return Here(found.tokenizer, found.why_not, None)


def check_template(run: Run, tokenizer) -> str:
    """Refuse a tokenizer as a real run does; a warning about inputs that it cannot show, or "".

    Raises ValueError.
    """
    name = run.choices.teacher.model_name
    settings = run.choices.settings
    if not run.choices.server:  # which may hide its thoughts
        check_thinking(name, tokenizer, settings.thinks, settings.guards)
    check_prompt(name, tokenizer, run.task)
    unfit = find_unfit_rows(tokenizer, run.inputs.roles, prompted=True)
    return describe_unfit_rows(name, unfit, "are rejected")


def first_chat(run: Run) -> list[dict]:
    """The first input that is asked, or the first one of all if none is."""
    wanted = run.missing if run.asked else None
    _, messages = next(run.inputs.read(wanted))
    return messages


def guard_text(task: Task, guards: str) -> str:
    """Which attempts are guarded, and what a guarded answer may be."""
    if not task.labels and not task.schema:
        return field("guard", "none: the task has no labels, any text is an answer")
    which = {
        "always": "every attempt is guarded; only this can follow its thinking:",
        "retry": "an attempt after a failed one is guarded; only this can follow its thinking:",
        "never": "no attempt is guarded; if one were, only this could follow its thinking:",
    }
    allowed = task.constraint() if task.labels else f"JSON of the schema {task.schema}"
    return field("guard", f"{which[guards]}\n{allowed}")


def reading_text(task: Task) -> str:
    """How each label is read back where a guard has written it."""
    if task.schema:
        return field("answer", "the JSON that follows the thinking, if the schema allows it")
    if not task.labels:
        where = f"what {task.answer!r} finds" if task.answer else "all that follows the thinking"
        return field("answer", where)
    shapes = written_shapes(task.answer)
    if not shapes:
        return field(
            "labels", f"what {task.answer!r} finds must be one of: {', '.join(task.labels)}"
        )
    lines = []
    for label in task.labels:
        reading = read_back(task, shapes[0].replace(LABEL, label))
        read_as = repr(reading.label) if reading.label else f"no label ({reading.found})"
        lines.append(f"{reading.written!r} is read as {read_as}")
    return field("labels", "\n".join(lines))


def sizes_text(run: Run, here: Here, sizes: Sizes, warning: str) -> str:
    """How long the prompt and the inputs are, and whether they fit."""
    how = "counted with the teacher's tokenizer"
    if here.tokenizer is None:
        how = f"estimated, {CHARACTERS_PER_TOKEN} characters for a token: {here.why_not}"
    lines = [
        field("prompt", f"{sizes.prompt:,} tokens, the same in every request ({how})"),
        field(
            "longest input",
            f"number {sizes.longest_index + 1:,} of {len(run.inputs):,}: "
            f"{sizes.longest_input:,} tokens, {sizes.longest_characters:,} characters",
        ),
    ]
    if here.context:
        lines.append(field("context", fit_text(run, here.context, sizes)))
    if warning:
        lines.append(field("warning", warning))
    return "\n".join(lines)


def fit_text(run: Run, context: int, sizes: Sizes) -> str:
    """What the context leaves to the longest input."""
    room = context - sizes.prompt - sizes.longest_input
    wanted = run.choices.settings.max_tokens
    if room <= 0:
        return f"{context:,} tokens: too few for the longest input, which is rejected"
    text = f"{context:,} tokens, which leave the longest input {room:,} for thought and answer"
    if room < wanted:
        text += f", fewer than --max_tokens {wanted:,}"
    return text


def requests_text(run: Run, here: Here, sizes: Sizes, requests: int, prompt_tokens: int) -> str:
    """How many requests and tokens are to be expected."""
    settings = run.choices.settings
    inputs = f"{len(run.inputs):,}, of which {run.asked:,} are asked"
    if run.asked < len(run.inputs):
        inputs += " (the others are finished, repeated or not ours)"
    asked = f"{requests:,}"
    if settings.num_samples > 1:
        asked += f", {settings.num_samples} samples of each"
    if requests and settings.max_retries:
        most = requests * (1 + settings.max_retries)
        asked += f"; at most {most:,} if no answer could be read"
    how = "estimated" if here.tokenizer is None else "counted"
    if run.asked > SAMPLED:
        how += f" from {SAMPLED} of the inputs"
    cached = max(requests - 1, 0) * sizes.prompt
    tokens = f"{prompt_tokens:,} of prompts ({how}), of which {cached:,} come from the cache"
    most = requests * settings.max_tokens
    output = f"at most {most:,} of thoughts and answers (--max_tokens {settings.max_tokens:,}); "
    output += "--limit 20 tells how many a request takes"
    return "\n".join(
        [
            field("inputs", inputs),
            field("requests", asked),
            field("tokens", f"{tokens}\n{output}"),
            *cost_text(run, sizes),
        ]
    )


def cost_text(run: Run, sizes: Sizes) -> list[str]:
    """What the run is expected to cost; nothing without prices."""
    estimate = estimate_of(run, sizes)
    return [field("cost", estimate)] if estimate else []


def reuse_text(run: Run) -> list[str]:
    """What --reuse keeps of the run before; nothing where it is the same run."""
    changes = run.beginning.changes
    if not changes:
        return []
    text = f"since the last run {in_words(changes)}; {run.reused:,} of its answers hold"
    return [field("reuse", text)]


def messages_text(task: Task, messages: list[dict], tokenizer) -> str:
    """The first input as the teacher will see it, and as the student will.

    The student's template is that of its own model, which step 1 does not know.
    """
    chat = task.messages(messages)
    own_template = "these messages, in its own chat template:"
    teacher = f"{field('teacher sees', own_template)}\n{turns_text(chat)}"
    if tokenizer is not None:
        teacher = field("teacher sees", shortened(rendered(tokenizer, chat), SHOWN_LINES))
    student = field("student sees", own_template)
    return f"of the first input\n\n{teacher}\n\n{student}\n{turns_text(messages)}"


def rendered(tokenizer, chat: list[dict]) -> str:
    """A chat in the teacher's template, or why it cannot be asked."""
    try:
        return render(tokenizer, chat)
    except TemplateProblem as problem:
        return f"nothing: its chat template {problem}, and the input is rejected"


def turns_text(messages: list[dict]) -> str:
    """Messages by their roles."""
    lines = []
    for message in messages:
        lines.append(field(message["role"], shortened(message["content"], SHOWN_LINES), indent=2))
    return "\n".join(lines)
