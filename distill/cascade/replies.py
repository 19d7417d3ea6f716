"""An outcome in OpenAI's format: one object, or a stream of chunks, and the headers of both."""

import json
import time
import uuid

from fastapi.responses import JSONResponse, Response

from distill.cascade.asked import Asked
from distill.cascade.cascade import Outcome


def reply_to(asked: Asked, outcome: Outcome, names: dict[str, str]) -> Response:
    """The reply to a request; `names` are those of student and teacher on their servers."""
    model = names[outcome.answered_by]
    if asked.stream:
        lines = stream_of(outcome, model, asked.include_usage)
        return Response(lines, headers=headers_of(outcome), media_type="text/event-stream")
    return JSONResponse(completion_of(outcome, model), headers=headers_of(outcome))


def headers_of(outcome: Outcome) -> dict[str, str]:
    """Who answers, and how sure the student is, for whoever does not look into the body."""
    found = {
        "x-answered-by": outcome.answered_by,
        "x-handed-over": word_of(outcome.handed_over),
        "x-unsure": word_of(outcome.unsure),
    }
    if outcome.confidence is not None:
        found["x-confidence"] = f"{outcome.confidence:.6f}"
    return found


def word_of(value: bool) -> str:
    """A truth value as JSON spells it."""
    return "true" if value else "false"


def completion_of(outcome: Outcome, model: str) -> dict:
    """The whole answer as one object."""
    message = {"role": "assistant", "content": outcome.text}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": outcome.finish_reason,
    }
    return {
        **head_of("chat.completion", model),
        "choices": [choice],
        "usage": usage_of(outcome),
        "cascade": cascade_of(outcome),
    }


def stream_of(outcome: Outcome, model: str, include_usage: bool) -> str:
    """The answer as server-sent events: its role, its text, its end, and the usage if wanted."""
    head = head_of("chat.completion.chunk", model)
    if include_usage:
        head["usage"] = None
    deltas = [
        ({"role": "assistant", "content": ""}, None),
        ({"content": outcome.text}, None),
        ({}, outcome.finish_reason),
    ]
    chunks = []
    for delta, finish_reason in deltas:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunks.append({**head, "choices": [choice]})
    chunks[-1]["cascade"] = cascade_of(outcome)
    if include_usage:
        chunks.append({**head, "choices": [], "usage": usage_of(outcome)})
    events = [json.dumps(chunk, ensure_ascii=False) for chunk in chunks]
    return "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])


def head_of(kind: str, model: str) -> dict:
    """What every object of a reply begins with."""
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def cascade_of(outcome: Outcome) -> dict:
    """Who answered and why, in a field of its own."""
    return {
        "answered_by": outcome.answered_by,
        "confidence": outcome.confidence,
        "handed_over": outcome.handed_over,
        "unsure": outcome.unsure,
        "why": outcome.why,
        "teacher_problem": outcome.teacher_problem,
        "student_usage": counts_of(*outcome.student_tokens),
        "teacher_usage": {
            **counts_of(*teacher_tokens(outcome)),
            "attempts": len(outcome.attempts),
        },
    }


def usage_of(outcome: Outcome) -> dict:
    """Tokens of both, of all the teacher's attempts too."""
    prompt, completion = outcome.student_tokens
    of_teacher = teacher_tokens(outcome)
    return counts_of(prompt + of_teacher[0], completion + of_teacher[1])


def teacher_tokens(outcome: Outcome) -> tuple[int, int]:
    """Tokens of the teacher's prompts and of what it wrote."""
    prompt = sum(attempt.prompt_tokens for attempt in outcome.attempts)
    written = sum(attempt.output_tokens for attempt in outcome.attempts)
    return (prompt, written)


def counts_of(prompt: int, completion: int) -> dict[str, int]:
    """Tokens as OpenAI counts them."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def models_of(served_name: str, threshold: float) -> dict:
    """The list of models: one, behind which both are, with the confidence that it wants."""
    model = {"id": served_name, "object": "model", "created": 0, "owned_by": "prompt-distillation"}
    return {"object": "list", "data": [{**model, "threshold": threshold}]}
