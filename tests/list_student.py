"""A student that answers from a list, with the confidence that is given for each answer."""

import math

from distill.teacher.base import Completion, Prompt, Teacher, TeacherEnded

EOS = 0


class ListStudent(Teacher):
    """Says to each text what `answers` has for it: (text, finish reason, confidence).

    A text of more than 50 characters does not fit its context. It ends after `ends_after` answers.
    """

    def __init__(self, answers: dict[str, tuple], ends_after: int | None = None):
        self.answers = answers
        self.ends_after = ends_after
        self.asked = []

    def prepare(self, chats):
        prompts = []
        for chat in chats:
            text = chat[-1]["content"]
            problem = "input_too_long" if len(text) > 50 else None
            prompts.append(Prompt(chat, tokens=len(text), room=1000, problem=problem))
        return prompts

    def ask(self, requests):
        for request in requests:
            if request is None:
                continue
            if len(self.asked) == self.ends_after:
                raise TeacherEnded("the engine has ended: out of memory")
            self.asked.append(request)
            text, finish_reason, sure = self.answers[request.prompt.content[-1]["content"]]
            tokens = [1, EOS] if finish_reason == "stop" else [1]
            logprobs = [{token: math.log(sure) / len(tokens)} for token in tokens]
            completion = Completion(text, finish_reason, tokens, 3, logprobs=logprobs)
            yield request.job, completion

    def gather(self, request):
        raise AssertionError("a student is not asked again")

    def forget(self):
        pass
