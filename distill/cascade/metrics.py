"""What is counted, for Prometheus and for the last line. No text of anybody is in it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from distill.cascade.cascade import Outcome
from distill.cascade.replies import teacher_tokens

CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The figures of one server, in a registry of its own."""

    def __init__(self):
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.answers = Counter(
            "cascade_answers", "Answers, by who gave them.", ["answered_by"], **own
        )
        self.refused = Counter("cascade_refused", "Errors, by HTTP status.", ["status"], **own)
        self.gone = Counter("cascade_gone", "Clients that left before the answer.", **own)
        self.handed_over = Counter(
            "cascade_handed_over", "Requests to the teacher, by why.", ["why"], **own
        )
        self.unsure = Counter(
            "cascade_unsure", "Answers of an unsure student, by why.", ["why"], **own
        )
        self.tokens = Counter("cascade_tokens", "Tokens.", ["model", "kind"], **own)
        self.confidence = Histogram(
            "cascade_confidence", "The student's, calibrated.", buckets=CONFIDENCES, **own
        )
        self.seconds = Histogram(
            "cascade_seconds", "Of an answer.", ["answered_by"], buckets=SECONDS, **own
        )
        self.running = Gauge("cascade_running", "Requests that are being answered.", **own)
        # labels are looked up once, since this is done for every request
        self.student_prompt = self.tokens.labels("student", "prompt")
        self.student_answer = self.tokens.labels("student", "completion")
        self.teacher_prompt = self.tokens.labels("teacher", "prompt")
        self.teacher_answer = self.tokens.labels("teacher", "completion")
        self.totals = {"requests": 0, "handed_over": 0, "unsure": 0, "refused": 0}

    def count(self, outcome: Outcome, seconds: float) -> None:
        """Take in an answer."""
        self.totals["requests"] += 1
        self.answers.labels(outcome.answered_by).inc()
        self.seconds.labels(outcome.answered_by).observe(seconds)
        if outcome.confidence is not None:
            self.confidence.observe(outcome.confidence)
        prompt, written = outcome.student_tokens
        self.student_prompt.inc(prompt)
        self.student_answer.inc(written)
        if outcome.handed_over:
            self.totals["handed_over"] += 1
            self.handed_over.labels(outcome.why).inc()
            prompt, written = teacher_tokens(outcome)
            self.teacher_prompt.inc(prompt)
            self.teacher_answer.inc(written)
        if outcome.unsure:
            self.totals["unsure"] += 1
            self.unsure.labels(outcome.teacher_problem or outcome.why).inc()

    def refuse(self, status: int) -> None:
        """Take in an error."""
        self.totals["refused"] += 1
        self.refused.labels(str(status)).inc()

    def text(self) -> bytes:
        """All of it in Prometheus' format."""
        return generate_latest(self.registry)
