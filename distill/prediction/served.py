"""A student that is served elsewhere: asked behind a URL, and tried first.

An answer has a confidence where the server gives the log-probability of each of its tokens, the end
of turn included, which a first request shows.
"""

import logging
from collections import Counter
from dataclasses import dataclass

from distill.confidence import CHOSEN_TOKEN, log_confidence
from distill.model_tokenizer import PROBE, load_tokenizer
from distill.prediction.asking import Predicting
from distill.prediction.engine import Plan, check_template
from distill.task import Task
from distill.teacher.base import Completion, Request, Sampling
from distill.teacher.http import HTTPTeacher
from distill.teacher.server import VLLM, Server, ask_about

log = logging.getLogger("predict")


@dataclass(frozen=True)
class Served:
    """A student behind a URL that can be asked."""

    teacher: HTTPTeacher
    served_as: str = ""  # how its server has the adapter is not known

    def close(self) -> None:
        """Close the connections."""
        self.teacher.close()


@dataclass(frozen=True)
class ServedWork:
    """What is asked of a student behind a URL; the sibling of engine.StudentWork."""

    plan: Plan
    task: Task
    max_tokens: int

    def asking(self, started: Served) -> Predicting:
        """What asks a started student."""
        return Predicting(started.teacher, self.task, self.max_tokens)


def open_student(
    server: Server, roles: Counter, max_tokens: int, served_by: str | None
) -> HTTPTeacher:
    """The student behind a URL, asked about itself and once for an answer.

    `roles` counts the inputs by unfit_rows.roles_of(). `served_by` is how the server called the
    model in an earlier run, None where there was none. Raises ValueError, or ServerEnded.
    """
    about = ask_about(server)
    tokenizer = None
    if server.tokenizer:
        tokenizer = load_tokenizer(server.tokenizer)
        if about.kind == VLLM:  # whose template is not asked
            check_template(server.tokenizer, tokenizer, roles)
    student = HTTPTeacher(server, about, False, tokenizer, served_by)
    try:
        found = first_answer(student, max_tokens)
    except BaseException:
        student.close()
        raise
    if found.finish_reason == "stop" and not found.problem and log_confidence(found) is None:
        log.warning(
            "predict.py: %s: does not give the log-probabilities of all tokens of an answer and "
            "of its end, so no row has a confidence",
            server.url,
        )
        student.exchange.takes_logprobs = False
    return student


def first_answer(student: HTTPTeacher, max_tokens: int) -> Completion:
    """What it says to a short text, in no row of the output. Raises ServerEnded."""
    [prompt] = student.prepare([[{"role": "user", "content": PROBE}]])
    sampling = Sampling(0.0, prompt.within_room(max_tokens), logprobs=CHOSEN_TOKEN)
    [(_, found)] = student.ask([Request(None, prompt, sampling)])
    return found
