"""report.html in a real browser: as people read, search and sort it, on a desk and on a phone.

The figures are measured on answers that are made up, so no engine is needed.
"""

import re

import pytest

from browser import CHROMIUM, FLAGS, needs_chromium
from distill.evaluation.page import (
    SHOWN_CHARACTERS,
    SHOWN_ROWS,
    labels_of,
    rows_that_fit,
    shown_row,
)
from distill.evaluation.report import write_report
from distill.evaluation.scores import Prices, measure
from example_reports import predictions_of, write_free, write_large
from helpers import read_jsonl

SCREENS = [(1300, "light"), (1300, "dark"), (400, "light"), (400, "dark")]

TEXTS = {
    "ar": "أشتاق إلى الأمسيات الهادئة على الشرفة.",
    "ur": "یہ پل ایک ہی گرمی کے موسم میں بنا، 1954 میں۔",
    "zh": "我最怀念的就是在露台上度过的那些宁静的夜晚。",
    "hi": "यह पुल एक ही गर्मी में बना।",
    "en": (
        '<script>document.title = "run"</script><img src="http://example.com/x.png"> '
        '& "so on" | pipe'
    ),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """report.html of five rows, the last of which the student gets wrong."""
    gold = list(TEXTS)
    results = {"teacher": {"answers": gold}, "student": {"answers": [*gold[:4], "<b>x</b>"]}}
    metrics = measure(results, gold, ["edge", *["parallel"] * 4], True, Prices())
    metrics.update(machine="2 cores of X", date="2026-01-31", commit="abc1234")
    folder = tmp_path_factory.mktemp("small")
    write_report(folder, metrics, predictions_of(TEXTS.values(), gold, results))
    return folder / "report.html"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return write_large(tmp_path_factory.mktemp("large"))


@pytest.fixture(scope="module")
def free(tmp_path_factory):
    return write_free(tmp_path_factory.mktemp("free"))


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """A function that opens a page; after the test it is seen to have asked for nothing else and
    to have said nothing on the console.
    """
    contexts = []
    requests = []
    messages = []
    files = []

    def open_page(path, width=1300, scheme="light", **options):
        size = {"width": width, "height": 900}
        context = browser.new_context(viewport=size, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(path.as_uri())
        files.append(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [url for url in requests if not url.startswith("data:")] == files
    assert messages == []


def box(page, selector):
    return page.locator(selector).first.bounding_box()


@needs_chromium
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
@pytest.mark.parametrize("kind", ["large", "free"])
def test_page_begins_with_the_answer_on_every_screen(opened, request, kind, width, scheme):
    page = opened(request.getfixturevalue(kind), width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    verdict = page.locator(".verdict")
    assert verdict.inner_text().startswith("The student")
    assert box(page, ".verdict")["y"] + box(page, ".verdict")["height"] < 900  # without scrolling
    tops = []
    for selector in (".verdict", ".headlines", "#plots", "#tables", "#measured", "#rows"):
        tops.append(box(page, selector)["y"])
    assert tops == sorted(tops)
    figures = [item.bounding_box() for item in page.locator(".headlines li").all()]
    assert len(figures) == 4
    lefts = {round(figure["x"]) for figure in figures}
    heights = {round(figure["y"]) for figure in figures}
    assert (len(lefts), len(heights)) == ((4, 1) if width == 1300 else (1, 4))
    images = "images => images.map(image => [image.complete, image.naturalWidth > 300])"
    found = page.locator("img").evaluate_all(images)
    assert found and all(loaded == [True, True] for loaded in found)


# the colour of an element's text and the one behind it, as [red, green, blue] of 0 to 255
COLOURS = """element => {
    const parse = text => text.match(/[\\d.]+/g).map(Number);
    let behind = element;
    while (behind && parse(getComputedStyle(behind).backgroundColor)[3] === 0)
        behind = behind.parentElement;
    return [parse(getComputedStyle(element).color),
            parse(getComputedStyle(behind || document.body).backgroundColor)]
}"""


def luminance(colour):
    """WCAG's relative luminance of a colour of 0 to 255."""
    parts = []
    for value in colour[:3]:
        share = value / 255
        parts.append(share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4)
    red, green, blue = parts
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(colours):
    """WCAG's contrast of two colours, 1 to 21."""
    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_wcags():
    assert contrast([[255, 255, 255], [0, 0, 0]]) == pytest.approx(21)
    assert contrast([[119, 119, 119], [255, 255, 255]]) == pytest.approx(4.48, abs=0.01)


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(opened, large, scheme):
    """4.5 is WCAG's least contrast of text (AA)."""
    page = opened(large, scheme=scheme)
    for selector in (
        "h1",
        ".verdict",
        ".headlines p",
        ".headlines .quiet",
        "nav a",
        "th",
        "#measured + p",
        "#rows td.text",
        "#rows td.wrong",
        "form label",
        "form button",
        "#search",
    ):
        colours = page.locator(selector).first.evaluate(COLOURS)
        assert contrast(colours) >= 4.5, (selector, colours)
    text, behind = page.locator("body").evaluate(COLOURS)
    assert (luminance(text) < luminance(behind)) == (scheme == "light")
    # a plot is drawn on white, and stays so
    assert page.locator("img").first.evaluate(COLOURS)[1][:3] == [255, 255, 255]
    wrong = page.locator("#rows td.wrong").first
    mark = wrong.evaluate("cell => getComputedStyle(cell, '::before').content")
    assert "✗" in mark  # so that colour alone does not say it


def tab_to(page, selector, limit=40):
    """Press Tab until an element has the focus, as who has no mouse does."""
    for _ in range(limit):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", f"{selector}: its focus is not seen"
            return
    raise AssertionError(f"{selector} is not reached by Tab")


def shown_rows(page):
    return page.locator("#rows tbody tr:visible")


def numbers(page):
    """The rows' numbers, from the top."""
    return [int(text) for text in shown_rows(page).locator("td.number").all_inner_texts()]


@needs_chromium
def test_rows_are_searched_filtered_and_sorted_by_keyboard(opened, large):
    from playwright.sync_api import expect

    page = opened(large)
    rows = read_jsonl(large.with_name("predictions.jsonl"))
    count = page.locator("#count")
    assert count.inner_text() == "420 of 420 rows shown" and shown_rows(page).count() == 420

    word = rows[0]["messages"][0]["content"].split()[1].upper()
    tab_to(page, "#search")
    page.keyboard.type(word)
    found = shown_rows(page)
    assert 1 <= found.count() < 420
    assert all(word.lower() in text.lower() for text in found.all_inner_texts())
    assert count.inner_text() == f"{found.count()} of 420 rows shown"
    page.keyboard.press("Enter")  # does not leave the page
    for _ in word:
        page.keyboard.press("Backspace")
    assert shown_rows(page).count() == 420

    tab_to(page, "#wrong")
    page.keyboard.press("End")  # the last choice is the cascade, before it the distilled student
    cascade_wrong = [i for i, row in enumerate(rows, 1) if row["cascade"]["answer"] != row["gold"]]
    assert sorted(numbers(page)) == cascade_wrong
    page.keyboard.press("ArrowUp")
    student_wrong = [i for i, row in enumerate(rows, 1) if row["student"]["answer"] != row["gold"]]
    assert len(student_wrong) == 13 and sorted(numbers(page)) == student_wrong
    page.keyboard.press("Home")
    assert shown_rows(page).count() == 420

    tab_to(page, "#label")
    page.keyboard.type("ur")
    assert sorted(numbers(page)) == [i for i, row in enumerate(rows, 1) if row["gold"] == "ur"]
    tab_to(page, "#differs")
    page.keyboard.press("Space")
    expected = [
        i
        for i, row in enumerate(rows, 1)
        if row["gold"] == "ur" and row["teacher"]["answer"] != row["student"]["answer"]
    ]
    assert expected and sorted(numbers(page)) == expected
    tab_to(page, "button[type=reset]")
    page.keyboard.press("Enter")
    expect(count).to_have_text("420 of 420 rows shown")  # once the fields are empty

    tab_to(page, "th:first-child button")
    page.keyboard.press("Enter")
    assert numbers(page) == list(range(1, 421))  # as numbers, the file's order
    page.keyboard.press("Space")
    assert numbers(page) == list(range(420, 0, -1))
    headers = page.locator("#rows th")
    assert headers.nth(0).get_attribute("aria-sort") == "descending"
    tab_to(page, "th:nth-child(3) button")
    page.keyboard.press("Enter")
    golds = shown_rows(page).locator("td:nth-child(3)").all_inner_texts()
    assert golds == sorted(golds)
    assert headers.nth(0).get_attribute("aria-sort") is None
    assert headers.nth(2).get_attribute("aria-sort") == "ascending"


@needs_chromium
def test_rows_on_a_phone_are_cards_that_can_be_sorted(opened, large):
    page = opened(large, 400)
    cells = page.locator("#rows tbody tr").first.locator("td").all()
    lefts = {round(cell.bounding_box()["x"]) for cell in cells}
    assert len(cells) == 8 and len(lefts) == 1  # below each other
    name = cells[3].evaluate("cell => getComputedStyle(cell, '::before').content")
    assert "teacher, prompt and thinking" in name
    page.locator("th:first-child button").click()
    assert numbers(page)[:3] == [1, 2, 3]


@needs_chromium
def test_page_without_its_script_shows_all_rows(opened, large):
    page = opened(large, java_script_enabled=False)
    assert page.locator("#rows tbody tr:visible").count() == 420
    assert not page.locator("#filters").is_visible()
    assert page.locator("#rows button").count() == 0


@needs_chromium
def test_free_texts_have_no_labels_to_choose(opened, free):
    page = opened(free)
    assert page.locator("#label").count() == 0
    page.locator("#wrong").select_option(label="teacher, prompt and thinking: wrong")
    assert numbers(page) == [5]
    assert "unreadable" in shown_rows(page).first.inner_text()
    page.get_by_role("button", name="Show all").click()
    page.get_by_label("teacher and student differ").check()
    assert 6 not in numbers(page) and len(numbers(page)) == 29


@needs_chromium
def test_texts_of_rows_are_shown_as_they_are(opened, small):
    page = opened(small)
    assert page.title() == "Prompt distillation: evaluation"  # nothing in a row was run
    cells = page.locator("#rows td.text")
    assert cells.first.inner_text() == TEXTS["en"]  # the row that is wrong comes first, as text
    assert sorted(cells.all_inner_texts()) == sorted(TEXTS.values())
    direction = "cells => cells.map(cell => getComputedStyle(cell).direction)"
    found = dict(zip(cells.all_inner_texts(), cells.evaluate_all(direction), strict=True))
    assert {label: found[text] for label, text in TEXTS.items()} == {
        "ar": "rtl",
        "ur": "rtl",
        "zh": "ltr",
        "hi": "ltr",
        "en": "ltr",
    }
    # right-to-left text starts at the cell's right edge
    edges = """cell => { const range = document.createRange(); range.selectNodeContents(cell);
        return [range.getBoundingClientRect(), cell.getBoundingClientRect()].map(box => [box.left, box.right]) }"""  # noqa: E501
    (left, right), (cell_left, cell_right) = cells.filter(has_text=TEXTS["ar"]).evaluate(edges)
    assert cell_right - right < 15 < left - cell_left
    assert page.locator("td.wrong").all_inner_texts() == ["<b>x</b>"]
    assert page.locator("img").count() == 2  # without latencies and tokens there are two plots


CHAT = {  # by turns
    "system": "Be brief.",
    "user": "Where is it?",
    "assistant": "Which one?",
    "user again": TEXTS["ar"],
}


@needs_chromium
@pytest.mark.parametrize("width", [1300, 400])
def test_whole_chats_are_shown_with_their_roles(opened, tmp_path, width):
    results = {"student": {"answers": ["a", "b"]}}
    metrics = measure(results, ["a", "b"], [None] * 2, True, Prices())
    rows = predictions_of(["one turn"] * 2, ["a", "b"], results)
    rows[1]["messages"] = [{"role": r.split()[0], "content": t} for r, t in CHAT.items()]
    write_report(tmp_path, metrics, rows)
    page = opened(tmp_path / "report.html", width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    turns = page.locator("#rows tr:nth-child(2) .turn")
    assert [text.strip() for text in turns.all_inner_texts()] == list(CHAT.values())
    role = "turns => turns.map(turn => getComputedStyle(turn, '::before').content)"
    assert turns.evaluate_all(role) == ['"system"', '"user"', '"assistant"', '"user"']
    tops = [turn.bounding_box()["y"] for turn in turns.all()]
    assert tops == sorted(set(tops))  # below each other
    assert turns.last.evaluate("turn => getComputedStyle(turn).direction") == "rtl"
    assert page.locator("#rows tr:nth-child(1) td.text").inner_text() == "one turn"
    page.locator("#search").fill("which one")  # in an earlier turn
    assert numbers(page) == [2]


def test_page_needs_nothing_else(small):
    page = small.read_text(encoding="utf-8")
    for address in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert address.startswith(("data:image/png", "#"))
    assert page.count("<script") == 1 and "@import" not in page and "url(" not in page
    assert "innerHTML" not in page
    assert page.count("&lt;script&gt;") == 1
    assert all(text in page for label, text in TEXTS.items() if label != "en")


def test_page_of_a_teacher_alone(tmp_path):
    gold = ["a", "b"]
    results = {"teacher": {"answers": ["a", None]}}
    metrics = measure(results, gold, [None] * 2, True, Prices())
    write_report(tmp_path, metrics, predictions_of(["x", "y"], gold, results))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The distilled student was not asked." in page
    assert '<ul class="headlines">' not in page and 'id="differs"' not in page
    assert 'id="label"' in page and "2 of 2 rows" in page


def made_up(count, text="x", wrong=()):
    """Rows as the page shows them, of which the student gets some wrong."""
    rows = []
    for i in range(count):
        answer = {"answer": "b" if i in wrong else "a"}
        row = {"messages": [{"role": "user", "content": text}], "gold": "a", "student": answer}
        rows.append(shown_row(i + 1, row, ["student"]))
    return rows


def test_the_page_holds_as_many_rows_as_a_browser_shows_at_once():
    shown = rows_that_fit(made_up(SHOWN_ROWS + 10, wrong=[SHOWN_ROWS + 5]))
    assert len(shown) == SHOWN_ROWS and shown[0].number == SHOWN_ROWS + 6
    assert labels_of(shown) == ["a"]
    long = made_up(10, "x" * (SHOWN_CHARACTERS // 4))
    assert len(rows_that_fit(long)) == 4
    assert len(rows_that_fit(made_up(1, "x" * (SHOWN_CHARACTERS + 1)))) == 1
