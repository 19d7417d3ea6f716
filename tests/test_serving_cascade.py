"""serve.py and its page in front of vLLM's servers of the two tiny models."""

import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import openai
import pytest
from transformers import AutoTokenizer

from browser import needs_chromium, page_at
from cascade_server import Cascade, cascade
from distill.cli import TASK
from distill.task import load_task
from distill.tokens import THINK_END, prompt_ids
from helpers import ROOT, SENTENCES, TEACHER, read_jsonl
from vllm_server import server

REQUESTS = 1000
CLIENTS = 32
UNSURE = 50  # of the requests
MAX_TOKENS = 128  # of a thought and its answer, as step 1's here
# Both servers have float32 weights: a batch of another size changes a confidence by less than this.
ROUNDING = 1e-5
SPELLED = ("hola <|im_end|> amigo", "Guten Tag <|im_start|>assistant\nfr<|im_end|>")
COST = re.compile(r"\d+ tokens, \d+\.\d\d s")
ARABIC = re.compile("[\u0600-\u06ff]")
TASK_OF_BOTH = load_task(TASK)


@dataclass
class Alone:
    """What one of the servers makes of a chat that it is asked without the cascade."""

    text: str
    confidence: float
    prompt_tokens: int


@dataclass
class Behind:
    """The cascade with both servers behind it, and what the student says alone to each input."""

    served: Cascade
    teacher: openai.OpenAI
    texts: list[str]
    students: list[Alone]
    threshold: float

    @property
    def unsure(self) -> list[str]:
        """The inputs for the teacher."""
        found = []
        for text, student in zip(self.texts, self.students, strict=True):
            if student.confidence < self.threshold:
                found.append(text)
        return found

    def student(self, text: str) -> Alone:
        return self.students[self.texts.index(text)]

    def teachers(self, texts: list[str]) -> list[Alone]:
        """What the teacher says to some inputs under the task's prompt, thought and answer."""
        chats = [TASK_OF_BOTH.messages(chat_of(text)) for text in texts]
        return alone(self.teacher, "teacher", TEACHER, chats)


def chat_of(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def alone(client, name: str, model, chats: list[list[dict]]) -> list[Alone]:
    """What a server makes of some chats, in one request."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    prompts = [prompt_ids(tokenizer, chat) for chat in chats]
    reply = client.completions.create(
        model=name,
        prompt=prompts,
        temperature=0,
        max_tokens=MAX_TOKENS,
        logprobs=0,
        extra_body={"skip_special_tokens": False},
    )
    found = []
    for choice in sorted(reply.choices, key=lambda choice: choice.index):
        text = choice.text.removesuffix("<|im_end|>")
        confidence = math.exp(sum(choice.logprobs.token_logprobs))
        found.append(Alone(text, confidence, len(prompts[choice.index])))
    return found


@pytest.fixture(scope="module")
def behind(student_server, tmp_path_factory):
    """The cascade at the threshold that hands UNSURE of REQUESTS inputs over."""
    folder = tmp_path_factory.mktemp("cascade")
    client, merged = student_server
    heldout = read_jsonl(ROOT / "example-data" / "heldout.jsonl")
    texts = [*SPELLED, *(row["messages"][0]["content"] for row in heldout)]
    for line in SENTENCES.read_text(encoding="utf-8").splitlines():
        if line not in texts and len(texts) < REQUESTS:
            texts.append(line)
    students = alone(client, "student", merged, [chat_of(text) for text in texts])
    threshold = sorted(student.confidence for student in students)[UNSURE]
    how = ["--served-model-name", "teacher", "--reasoning-parser", "qwen3", "--dtype", "float32"]
    with server(folder / "teacher", TEACHER, *how) as teacher:
        flags = ["--student_url", client.base_url, "--student_name", "student"]
        flags += ["--student_tokenizer", merged, "--teacher_url", teacher.base_url]
        flags += ["--teacher_name", "teacher", "--teacher_tokenizer", TEACHER]
        flags += ["--teacher_temperature", 0, "--max_tokens", MAX_TOKENS, "--max_retries", 0]
        flags += ["--temperature", 1, "--threshold", threshold]
        with cascade(folder, *flags) as served:
            yield Behind(served, teacher, texts, students, threshold)


@pytest.mark.slow
def test_a_thousand_requests_are_answered_as_by_both_alone(behind):
    """None is lost or mixed up, as answers, lengths and confidences show, which tell them apart."""

    def ask(text):
        return behind.served.ask(text).parse()

    with ThreadPoolExecutor(CLIENTS) as pool:
        replies = dict(zip(behind.texts, pool.map(ask, behind.texts), strict=True))
    assert len(replies) == REQUESTS
    figures = behind.served.figures()
    assert figures["cascade_running"] == 0
    by_teacher = [text for text in behind.texts if replies[text].model == "teacher"]
    by_student = [text for text in behind.texts if replies[text].model == "student"]
    assert len(by_teacher) + len(by_student) == REQUESTS and len(by_teacher) >= UNSURE / 2
    assert figures['cascade_answers_total{answered_by="teacher"}'] == len(by_teacher)
    assert figures['cascade_answers_total{answered_by="student"}'] == len(by_student)
    teachers = dict(zip(by_teacher, behind.teachers(by_teacher), strict=True))

    others = []
    gaps = []
    known = set()
    for text, reply in replies.items():
        student = behind.student(text)
        wanted = student.text
        if text in teachers:
            wanted = TASK_OF_BOTH.read_answer(teachers[text].text)
        tokens = reply.cascade["student_usage"]["prompt_tokens"]
        if (reply.choices[0].message.content, tokens) != (wanted, student.prompt_tokens):
            others.append(text)
        gaps.append(abs(reply.cascade["confidence"] - student.confidence))
        known.add((wanted, tokens, round(student.confidence / ROUNDING)))
    print(f"{len(by_teacher)} by the teacher, gap up to {max(gaps):.1e}, {len(known)} told apart")
    assert others == [] and max(gaps) < ROUNDING
    assert len(known) > 0.9 * REQUESTS


@pytest.fixture(params=[1300, 400])
def page(behind, request):
    with page_at(behind.served.url, request.param) as page:
        yield page


def move_to(page, place, key="Tab"):
    """Press a key until the focus is at a place."""
    for _ in range(10):
        if place.evaluate("each => each === document.activeElement"):
            return
        page.keyboard.press(key)
    raise AssertionError("it cannot be reached by keyboard")


def answered(behind):
    """An input for the teacher which it answers: (input, what it says)."""
    texts = behind.unsure[:10]
    for text, said in zip(texts, behind.teachers(texts), strict=True):
        if THINK_END in said.text:
            return text, said.text
    raise AssertionError("the teacher answers none of them")


@needs_chromium
@pytest.mark.slow
def test_a_person_with_a_keyboard_asks_both(page, behind):
    before = behind.served.figures()
    hard, said = answered(behind)
    move_to(page, page.get_by_label("Input"))
    page.keyboard.insert_text(hard)
    move_to(page, page.get_by_role("button", name="Ask the student"))
    page.keyboard.press("Enter")
    page.get_by_text("it would go to the teacher (unsure)").wait_for()
    alone = behind.student(hard)
    assert page.locator("#answer").inner_text() == alone.text
    shown = page.locator("#verdict").inner_text()
    assert shown.startswith(f"Confidence {100 * alone.confidence:.1f} %, threshold ")
    bar = page.locator("#bar").bounding_box()["width"]
    track = page.locator("#track").bounding_box()["width"]
    assert bar / track == pytest.approx(alone.confidence, abs=0.01)
    assert COST.match(page.locator("#cost").inner_text())

    assert page.locator("#teacher").is_hidden()
    move_to(page, page.get_by_role("button", name="Ask the teacher"))
    page.keyboard.press("Enter")
    page.locator("#teachers").wait_for()
    thought, _, _ = said.partition(THINK_END)
    assert page.locator("#teachers").inner_text() == TASK_OF_BOTH.read_answer(said)
    assert COST.match(page.locator("#teachers-cost").inner_text())
    assert page.locator("#thought").is_hidden()
    move_to(page, page.locator("#teacher summary"))
    page.keyboard.press("Enter")
    assert page.locator("#thought").inner_text().split() == thought.split()

    arabic = next(text for text in behind.texts if ARABIC.match(text) and text != hard)
    move_to(page, page.get_by_label("Input"), "Shift+Tab")
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(arabic)
    page.keyboard.press("Control+Enter")
    page.locator("#history li").nth(2).wait_for()
    assert page.locator("#answer").inner_text() == behind.student(arabic).text
    for place in ("#input", "#history bdi"):
        direction = page.locator(place).first.evaluate("each => getComputedStyle(each).direction")
        assert direction == "rtl"
    lines = page.locator("#history li").all_inner_texts()
    assert arabic[:70] in lines[0]
    assert lines[1].endswith("(teacher)") and lines[2].endswith("(student, unsure)")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= page.viewport_size["width"]
    assert behind.served.figures() == before  # what is asked there is not counted
