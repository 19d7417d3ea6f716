"""A teacher that answers from a list, for tests of step 1 that need no model."""

from distill.labels.labelling import Settings
from distill.teacher.base import Completion, Prompt, Request, Teacher, TeacherEnded

SETTINGS = Settings(
    reasoning_parser="qwen3",
    temperature=0.15,
    max_tokens=100,
    max_retries=2,
    max_repeats=4,
    structured_outputs="retry",
    thinking_token_budget=80,
    num_samples=1,
    min_agreement=0.0,
)
NOTHING = "Hm.</think>I cannot say."
UNKNOWN = "Hm.</think>Answer: nl"


def says(label: str) -> str:
    return f"Hm.</think>Answer: {label}"


class ListTeacher(Teacher):
    """Answers each input's requests from its list of responses, one after the other, and remembers
    what it was asked. A response ends by itself, unless it is given as (text, finish reason). After
    `ends_after` completions it ends.
    """

    def __init__(self, responses: dict[str, list], room: int = 1000, ends_after: int | None = None):
        self.responses = {text: list(left) for text, left in responses.items()}
        self.room = room
        self.ends_after = ends_after
        self.asked: list[Request] = []
        self.gathered: list[Request] = []
        self.prepared: list[int] = []

    def prepare(self, chats):
        self.prepared.append(len(chats))
        prompts = []
        for chat in chats:
            text = chat[-1]["content"]
            problem = "input_too_long" if len(text) > 50 else None
            prompts.append(Prompt(text, tokens=len(text), room=self.room, problem=problem))
        return prompts

    def ask(self, requests):
        for request in requests:
            if request is not None:
                yield self.answer(request)
            while self.gathered:
                yield self.answer(self.gathered.pop(0))
        while self.gathered:
            yield self.answer(self.gathered.pop(0))

    def answer(self, request):
        if self.ends_after is not None and len(self.asked) == self.ends_after:
            raise TeacherEnded("the engine has ended: out of memory")
        self.asked.append(request)
        response = self.responses[request.prompt.content].pop(0)
        text, finish_reason = (response, "stop") if isinstance(response, str) else response
        thought = text.partition("</think>")[0]
        completion = Completion(text, finish_reason, list(range(len(text))), 5, len(thought))
        return request.job, completion

    def gather(self, request):
        self.gathered.append(request)

    def forget(self):
        pass

    def samplings(self, text: str) -> list:
        return [request.sampling for request in self.asked if request.prompt.content == text]
