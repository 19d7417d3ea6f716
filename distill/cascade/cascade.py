"""Who answers: the student where it is sure, and else the teacher, as far as the policies go."""

import logging
import time
from dataclasses import dataclass, field

from distill.calibration import Threshold
from distill.cascade.asked import Asked
from distill.cascade.budget import Budget
from distill.cascade.refused import Refused
from distill.cascade.student import Student, StudentAnswer
from distill.cascade.teacher import Teacher, TeacherAnswer
from distill.cascade.upstream import TOO_LONG, UpstreamFailed
from distill.teacher.attempts import Attempt
from distill.teacher.base import Prompt

log = logging.getLogger("serve")
STUDENT = "student"
TEACHER = "teacher"
# why a request is for the teacher, beside what makes an answer invalid
UNSURE = "unsure"
CUT = "cut"
STUDENT_FAILED = "student_failed"
# why the student's answer is given all the same, beside the teacher's own reasons
BUDGET = "budget"
# --when_teacher_fails
GIVE_STUDENTS = "student"
REFUSE = "503"
SAY_EVERY = 10.0  # seconds between two lines about a server that fails


@dataclass
class Outcome:
    """What became of one request."""

    answered_by: str  # STUDENT or TEACHER
    text: str
    finish_reason: str  # stop or length
    confidence: float | None  # the student's, calibrated; None: its answer was cut, or it has none
    why: str | None = None  # why it was for the teacher; None: the student is sure
    teacher_problem: str | None = None  # why the teacher has not answered
    handed_over: bool = False  # the teacher was asked
    student_tokens: tuple[int, int] = (0, 0)  # of its prompt and of its answer
    attempts: list[Attempt] = field(default_factory=list)  # the teacher's

    @property
    def unsure(self) -> bool:
        """Whether the answer is one that should have been the teacher's."""
        return self.answered_by == STUDENT and self.why is not None


class Cascade:
    """Student and teacher. `when_teacher_fails` is GIVE_STUDENTS or REFUSE."""

    def __init__(
        self,
        student: Student,
        teacher: Teacher,
        threshold: Threshold,
        budget: Budget,
        when_teacher_fails: str = GIVE_STUDENTS,
        max_input_tokens: int = 0,
    ):
        self.student = student
        self.teacher = teacher
        self.threshold = threshold
        self.budget = budget
        self.when_teacher_fails = when_teacher_fails
        self.max_input_tokens = max_input_tokens
        self.said_at = {STUDENT: float("-inf"), TEACHER: float("-inf")}

    async def answer(self, asked: Asked) -> Outcome:
        """The answer to one request. Raises Refused."""
        prompt = self.prompt_of(asked.messages)
        limit = self.student.limit(asked.max_tokens)
        answered = None
        try:
            answered = await self.student.answer(prompt, limit)
        except UpstreamFailed as error:
            if error.reason == TOO_LONG:
                raise too_long() from None
            self._say(STUDENT, f"fails ({error.reason}: {error}); the teacher is asked")
        why = self.why_the_teacher(answered)
        # a client that wants no more than that would not want the teacher's longer answer
        as_wanted = why == CUT and limit < self.student.max_tokens
        if why is None or as_wanted:
            self.budget.keep()
            return self._of_student(answered, prompt, why)
        if not self.budget.take():
            return self._without_teacher(answered, prompt, why, TeacherAnswer(problem=BUDGET))
        found = await self.teacher.answer(asked.messages)
        if found.answer is None:
            self._say(TEACHER, f"fails ({found.problem}: {found.said})")
            return self._without_teacher(answered, prompt, why, found)
        return self._of_teacher(answered, prompt, why, found, asked.max_tokens)

    def prompt_of(self, messages: list[dict]) -> Prompt:
        """The chat as the student's server takes it. Raises Refused."""
        prompt = self.student.exchange.prompt_of(messages)
        if prompt.problem == TOO_LONG:
            raise too_long()
        if self.max_input_tokens and prompt.tokens > self.max_input_tokens:
            raise too_long()
        if prompt.problem:
            said = f"the student's server cannot be asked this: {prompt.problem}"
            raise Refused(400, said, "messages", prompt.problem)
        return prompt

    def why_the_teacher(self, answered: StudentAnswer | None) -> str | None:
        """Why a request is for the teacher; None where the student's answer is good enough."""
        if answered is None:
            return STUDENT_FAILED
        if answered.is_cut:
            return CUT
        if answered.problem:
            return answered.problem
        if self.threshold.hands_over(answered.log_confidence):
            return UNSURE
        return None

    def _of_student(self, answered: StudentAnswer, prompt: Prompt, why: str | None) -> Outcome:
        completion = answered.completion
        return Outcome(
            answered_by=STUDENT,
            text=completion.text,
            finish_reason="length" if answered.is_cut else "stop",
            confidence=self.threshold.confidence(answered.log_confidence),
            why=why,
            student_tokens=tokens_of(answered, prompt),
        )

    def _of_teacher(
        self,
        answered: StudentAnswer | None,
        prompt: Prompt,
        why: str,
        found: TeacherAnswer,
        max_tokens: int | None,
    ) -> Outcome:
        text, finish_reason = self._within(found.answer, max_tokens)
        confidence = None
        if answered:
            confidence = self.threshold.confidence(answered.log_confidence)
        return Outcome(
            answered_by=TEACHER,
            text=text,
            finish_reason=finish_reason,
            confidence=confidence,
            why=why,
            handed_over=True,
            student_tokens=tokens_of(answered, prompt),
            attempts=found.attempts,
        )

    def _without_teacher(
        self, answered: StudentAnswer | None, prompt: Prompt, why: str, found: TeacherAnswer
    ) -> Outcome:
        """The student's answer where the teacher's is wanted and there is none. Raises Refused."""
        refuses = self.when_teacher_fails == REFUSE and found.problem != BUDGET
        if answered is None or refuses:
            said = f"the student's answer: {why}; the teacher's: {found.problem}"
            raise Refused(503, said, code="no_sure_answer")
        outcome = self._of_student(answered, prompt, why)
        outcome.teacher_problem = found.problem
        outcome.handed_over = found.problem != BUDGET
        outcome.attempts = found.attempts
        return outcome

    def _within(self, answer: str, max_tokens: int | None) -> tuple[str, str]:
        """The teacher's answer within the client's limit, and its finish reason.

        Counted are the student's tokens, or else the teacher's; without a tokenizer none are.
        """
        tokenizer = self.student.exchange.tokenizer or self.teacher.exchange.tokenizer
        if max_tokens is None or tokenizer is None:
            return answer, "stop"
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        if len(ids) <= max_tokens:
            return answer, "stop"
        return tokenizer.decode(ids[:max_tokens]), "length"

    def _say(self, who: str, what: str) -> None:
        """Log that a server fails, not for each request."""
        now = time.monotonic()
        if now - self.said_at[who] > SAY_EVERY:
            self.said_at[who] = now
            log.warning("serve.py: the %s's server %s", who, what)


def too_long() -> Refused:
    """The refusal of an input that is longer than the student reads."""
    said = "the messages are longer than the student's context, or than --max_input_tokens"
    return Refused(400, said, "messages", "context_length_exceeded")


def tokens_of(answered: StudentAnswer | None, prompt: Prompt) -> tuple[int, int]:
    """Tokens of the student's prompt and of its answer."""
    if answered is None:
        return (0, 0)
    completion = answered.completion
    prompt_tokens = completion.prompt_tokens
    if prompt_tokens is None:
        prompt_tokens = prompt.tokens
    return (prompt_tokens, completion.output_tokens)
