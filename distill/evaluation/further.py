"""What step 3 asks beside the rows that it compares: of the student and the teacher, to calibrate.

And how a chat becomes a request and a completion an answer, for all rows alike.
"""

from dataclasses import dataclass, replace

from distill.confidence import log_confidence
from distill.evaluation.systems import System, title_of
from distill.progress import bar
from distill.task import NoAnswer, Task
from distill.teacher.base import Completion, Prompt, Request, Sampling, Teacher


@dataclass(frozen=True)
class Further:
    """Chats that are asked besides; their answers are not among the report's rows."""

    calibration: tuple[list[dict], ...] = ()  # of the student, for its confidence
    asked_again: tuple[list[dict], ...] = ()  # of the teacher, twice each


def prompts_of(
    system: System, teacher: Teacher, task: Task, chats: list[list[dict]]
) -> list[Prompt]:
    """Chats as a system is given them: with the task's prompt, or as they are."""
    asked = [task.messages(chat) if system.prompted else chat for chat in chats]
    return teacher.prepare(asked)


def request_of(system: System, job: object, prompt: Prompt) -> Request:
    """What a system is asked for one row."""
    max_tokens = prompt.within_room(system.max_tokens)
    sampling = Sampling(system.temperature, max_tokens, logprobs=system.logprobs)
    return Request(job, prompt, sampling)


def answer_of(system: System, task: Task, completion: Completion) -> str | None:
    """The answer in a completion; None if there is none that can be read."""
    # without the prompt, the answer and nothing else counts
    reader = task if system.prompted else replace(task, answer="")
    try:
        return reader.read_answer(completion.text, completion.finish_reason, system.thinks)
    except NoAnswer:
        return None


def ask_further(system: System, teacher: Teacher, task: Task, further: Further) -> dict:
    """What a system's result has besides; empty for the systems that are asked nothing more.

    Of the student "calibration", its "answers" and their "log_confidence". Of the teacher
    "asked_again", two answers to each chat.
    """
    if system.name == "student" and further.calibration:
        return {"calibration": ask_for_confidence(system, teacher, task, further.calibration)}
    if system.name == "teacher" and further.asked_again:
        return {"asked_again": ask_twice(system, teacher, task, further.asked_again)}
    return {}


def ask_for_confidence(
    system: System, teacher: Teacher, task: Task, chats: tuple[list[dict], ...]
) -> dict:
    """The answers to some chats and how sure they are; None where there is none."""
    prompts = prompts_of(system, teacher, task, list(chats))
    requests = []
    for row, prompt in enumerate(prompts):
        if not prompt.problem:
            requests.append(request_of(system, row, prompt))
    answers = [None] * len(chats)
    sure = [None] * len(chats)
    title = f"{title_of(system.name, system.thinks)}, calibration rows"
    for row, completion in bar(teacher.ask(requests), total=len(requests), desc=title, unit="row"):
        answers[row] = answer_of(system, task, completion)
        sure[row] = log_confidence(completion)
    return {"answers": answers, "log_confidence": sure}


def ask_twice(
    system: System, teacher: Teacher, task: Task, chats: tuple[list[dict], ...]
) -> list[list[str | None]]:
    """Two answers to each of some chats."""
    prompts = prompts_of(system, teacher, task, list(chats))
    requests = []
    for row, prompt in enumerate(prompts):
        for sample in (0, 1):
            if not prompt.problem:
                requests.append(request_of(system, (row, sample), prompt))
    answers = [[None, None] for _ in chats]
    title = f"{title_of(system.name, system.thinks)}, asked again"
    for job, completion in bar(
        teacher.ask(requests), total=len(requests), desc=title, unit="request"
    ):
        row, sample = job
        if not completion.problem:
            answers[row][sample] = answer_of(system, task, completion)
    return answers
