"""What the page at / asks: the student alone, and the teacher where somebody wants to see it."""

import time
from pathlib import Path

from distill.cascade.asked import Asked
from distill.cascade.cascade import BUDGET, Cascade
from distill.cascade.refused import Refused
from distill.cascade.upstream import TOO_LONG, UpstreamFailed
from distill.tokens import THINK_END

PAGE = Path(__file__).with_name("page.html")
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


async def students_part(cascade: Cascade, asked: Asked) -> dict:
    """The student's answer, how sure it is, and whether it would be handed over. Raises Refused."""
    begun = time.perf_counter()
    prompt = cascade.prompt_of(asked.messages)
    try:
        answered = await cascade.student.answer(prompt, cascade.student.limit(asked.max_tokens))
    except UpstreamFailed as error:
        status = 400 if error.reason == TOO_LONG else 503
        raise Refused(status, f"the student has not answered: {error.reason}") from None
    completion = answered.completion
    return {
        "answer": completion.text,
        "confidence": cascade.threshold.confidence(answered.log_confidence),
        "why": cascade.why_the_teacher(answered),
        "tokens": (completion.prompt_tokens or prompt.tokens) + completion.output_tokens,
        "seconds": time.perf_counter() - begun,
    }


async def teachers_part(cascade: Cascade, asked: Asked) -> dict:
    """The teacher's answer with its thinking, within the budget. Raises Refused."""
    begun = time.perf_counter()
    if not cascade.budget.take():
        raise Refused(503, f"the teacher is not asked: {BUDGET}")
    found = await cascade.teacher.answer(asked.messages)
    thought = ""
    if found.attempts:
        thought = found.attempts[-1].response.partition(THINK_END)[0].strip()
    tokens = sum(attempt.prompt_tokens + attempt.output_tokens for attempt in found.attempts)
    return {
        "answer": found.answer,
        "problem": found.problem,
        "thought": thought,
        "attempts": len(found.attempts),
        "tokens": tokens,
        "seconds": time.perf_counter() - begun,
    }
