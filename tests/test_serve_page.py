"""The page of serve.py in a real browser, on a desk and on a phone, in front of two stand-ins."""

import math

import pytest

from browser import needs_chromium, page_at
from cascade_server import cascade
from helpers import write_task
from loopback_teacher import LoopbackTeacher

KEY = "sk-of-the-clients-0123456789"
MARKUP = '<img src="http://example.com/x.png"><script>document.title = "run"</script>'
ARABIC = "أشتاق إلى الأمسيات الهادئة على الشرفة."

pytestmark = needs_chromium


def student_says(text):
    """It repeats markup, which its task allows, and is not sure of anything in Arabic."""
    sure = 0.4 if text == ARABIC else 0.99
    return {"content": text if "<" in text else "ar", "logprobs": [math.log(sure), 0.0]}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    task = write_task(folder / "task.yaml", [])
    students = LoopbackTeacher(student_says, models=("student",), served_by="student")
    teachers = LoopbackTeacher(lambda text: {"reasoning": f"Hm, {text}", "content": "<b>fa</b>"})
    with students as student, teachers as teacher, pytest.MonkeyPatch.context() as environment:
        environment.setenv("KEY_OF_CLIENTS", KEY)
        flags = ["--student_url", student.url, "--student_name", "student", "--task", task]
        flags += ["--teacher_url", teacher.url, "--teacher_name", "teacher"]
        flags += ["--temperature", 1, "--threshold", 0.9, "--api_key_env", "KEY_OF_CLIENTS"]
        with cascade(folder, *flags, key=KEY) as found:
            found.teacher = teacher
            yield found


@pytest.fixture
def page(served, request):
    with page_at(served.url, request.param) as page:
        yield page


@pytest.mark.parametrize("page", [1300, 400], indirect=True)
def test_a_person_asks_the_student_and_then_the_teacher(page, served):
    page.keyboard.press("Tab")  # to the input
    page.keyboard.type("easy")
    page.keyboard.press("Control+Enter")
    page.get_by_text("the API key is missing or wrong").wait_for()
    page.get_by_label("Key", exact=True).fill(KEY)
    page.get_by_label("Input").fill(ARABIC)
    asked = len(served.teacher.bodies)
    page.get_by_role("button", name="Ask the student").click()
    page.get_by_text("it would go to the teacher (unsure)").wait_for()
    assert page.locator("#verdict").inner_text().startswith("Confidence 40.0 %, threshold 90.0 %")
    assert page.locator("#bar").evaluate("bar => bar.style.width") == "40%"
    assert page.locator("#input").evaluate("each => getComputedStyle(each).direction") == "rtl"
    assert page.locator("#teacher").is_hidden() and len(served.teacher.bodies) == asked
    page.get_by_role("button", name="Ask the teacher").click()
    page.locator("#teachers").wait_for()
    assert page.locator("#teachers").inner_text() == "<b>fa</b>"
    page.get_by_text("Its thinking").click()
    assert page.locator("#thought").inner_text() == f"Hm, {ARABIC}"
    assert "57 tokens" in page.locator("#teachers-cost").inner_text()
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= page.viewport_size["width"]

    page.get_by_label("Input").fill(MARKUP)
    page.get_by_role("button", name="Ask the student").click()
    page.locator("#verdict", has_text="the student answers").wait_for()
    assert page.locator("#answer").inner_text() == MARKUP
    assert page.title() == "Student and teacher"
    assert page.locator("#teacher").is_hidden()
    lines = page.locator("#history li").all_inner_texts()
    assert len(lines) == 3 and lines[1].endswith("(teacher)")
    assert lines[2].endswith("(student, unsure)")
