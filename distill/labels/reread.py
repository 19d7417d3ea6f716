"""Stored responses, read again under another task or --min_agreement, without asking anybody.

The new record is what a fresh run would have written that had got the same responses. So

- an attempt counts only if a fresh run could have made it. A guarded attempt was free to answer
  only what the guard of its time allowed: under other labels or another schema the teacher may
  have chosen another answer in it, a label that is new, for example. Such an attempt is left out,
  even where its answer could still be read. What was not guarded was free, and is read again;
- attempts behind the first answer of a sample would not have been made, and are left out;
- a sample that has no answer left is asked further, as long as it has retries. Then its row is
  asked afresh, from the first attempt on: the row's attempts are then those of one run under one
  guard, and no half of a row has to travel to replicas. It costs at most the attempts that have
  failed, again;
- a row whose samples are all there and agree too little is rejected and not asked. To ask until
  they agree would make of --min_agreement a number of tries.
"""

from collections import deque

from distill.guard import is_guarded
from distill.labels.labelling import Settings, vote
from distill.task import NOT_READ, NoAnswer, Task


def read_again(
    record: dict, task: Task, settings: Settings, same_guard: bool = False
) -> dict | None:
    """A journal's record as it is read now; None if its row must be asked.

    `same_guard`: what a guarded answer may be has not changed, so that every attempt counts.
    """
    attempts = [attempt_again(attempt, task, settings) for attempt in record["attempts"]]
    if not attempts:  # it could not be asked at all, such as an input that is too long
        return record
    counted = attempts
    if not same_guard:
        counted = [attempt for attempt in attempts if counts(attempt, task, settings)]
    if len(counted) == len(attempts) and read_as_before(record["attempts"], attempts):
        used = attempts
    else:
        used = attempts_in_use(counted, settings)
    if used is None:
        return None
    answers = [attempt["answer"] for attempt in used if attempt["answer"] is not None]
    answer, reason, agreement = vote(answers, settings.num_samples, settings.min_agreement)
    if not answers:
        reason = used[-1]["reason"]
    return {
        **record,
        "answer": answer,
        "reason": reason,
        "agreement": round(agreement, 4),
        "attempts": used,
    }


def attempt_again(attempt: dict, task: Task, settings: Settings) -> dict:
    """One attempt with what is read in its response now.

    One that failed for something else than its reading, such as a server that refused the row, has
    no answer, whatever its response may hold.
    """
    if attempt["answer"] is None and attempt["reason"] not in NOT_READ:
        return attempt
    answer = None
    reason = None
    try:
        answer = task.read_answer(attempt["response"], attempt["finish_reason"], settings.thinks)
    except NoAnswer as error:
        reason = error.reason
    return {**attempt, "answer": answer, "reason": reason}


def read_as_before(before: list[dict], now: list[dict]) -> bool:
    """Whether every attempt is read as it was."""
    return [attempt["answer"] for attempt in before] == [attempt["answer"] for attempt in now]


def counts(attempt: dict, task: Task, settings: Settings) -> bool:
    """Whether a fresh run could have made an attempt: it was guarded as it would be now.

    Or it was free where it would be guarded now, and has an answer all the same.
    """
    guard = attempt["sampling"].get("structured_outputs")
    guard_now = None
    if is_guarded(settings.structured_outputs, tries=int(is_retry(attempt))):
        guard_now = task.schema or task.constraint() or None
    if guard == guard_now:
        return True
    return guard is None and attempt["answer"] is not None


def attempts_in_use(attempts: list[dict], settings: Settings) -> list[dict] | None:
    """The attempts that a fresh run would have made; None if it would have made more of them.

    The journal does not say which sample a retry belongs to. All retries of a row are sampled
    alike, so each sample takes the next ones until it has an answer.
    """
    firsts = [attempt for attempt in attempts if not is_retry(attempt)]
    retries = deque(attempt for attempt in attempts if is_retry(attempt))
    if len(firsts) != settings.num_samples:
        return None
    used = []
    for first in firsts:
        used.append(first)
        left = settings.max_retries
        while used[-1]["answer"] is None and left:
            if not retries:
                return None
            used.append(retries.popleft())
            left -= 1
    return used


def is_retry(attempt: dict) -> bool:
    """Whether an attempt followed a failed one: only these are sampled with a top_p."""
    return "top_p" in attempt["sampling"]
