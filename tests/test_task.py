"""Reading answers, task files and the example's prompt.

No model, no torch.
"""

import json
import re
from pathlib import Path

import pytest

from distill.task import NoAnswer, Task, load_task, same_task
from helpers import qwen_tokenizer

EXAMPLE = Path(__file__).resolve().parent.parent / "example-data" / "language_classification.yaml"
LANGUAGE = load_task(EXAMPLE)
FREE = Task("Summarise.", (), "", "")
FREE_TAGGED = Task("Summarise.", (), r"<answer>(.*?)</answer>", "")
WORDS = Task("Rate.", ("Very Good", "bad", "straße"), "", "")  # the whole content is the answer
NONE = "no_answer"
BAD = "not_a_label"
OPEN = "unfinished_thinking"

# read_answer

ACCEPTED = {
    "plain": ("It is English.\n</think>\n\nFinal Answer: en", "en"),
    "every label is in reach": ("x</think>Final Answer: ot", "ot"),
    "no reasoning": ("</think>Final Answer: zh", "zh"),
    "opening tag as well": ("<think>\nhm</think>Final Answer: tr", "tr"),
    "explanation before": ("x</think>The words der and und are German.\n\nFinal Answer: de", "de"),
    "text after": ("x</think>Final Answer: de\nHope this helps!", "de"),
    "full stop": ("x</think>Final Answer: fr.", "fr"),
    "comma and more": ("x</think>Final Answer: fr, since all words are French", "fr"),
    "upper case": ("x</think>Final Answer: EN", "en"),
    "all in lower case": ("x</think>final answer: en", "en"),
    "all in upper case": ("x</think>FINAL ANSWER: EN", "en"),
    "bold line": ("x</think>**Final Answer: EN**", "en"),
    "bold label": ("x</think>Final Answer: **hi**", "hi"),
    "italics": ("x</think>_Final Answer: hi_", "hi"),
    "backticks": ("x</think>Final Answer: `ru`", "ru"),
    "double quotes": ('x</think>Final Answer: "ru"', "ru"),
    "curly quotes": ("x</think>Final Answer: “ru”", "ru"),
    "single quotes": ("x</think>Final Answer: 'ru'.", "ru"),
    "brackets": ("x</think>Final Answer: [vi]", "vi"),
    "parentheses": ("x</think>(Final Answer: vi)", "vi"),
    "angle brackets": ("x</think>Final Answer: <vi>", "vi"),
    "boxed line": ("x</think>$\\boxed{Final Answer: ar}$", "ar"),
    "heading": ("x</think># Final Answer: ur", "ur"),
    "windows line ends": ("x</think>\r\nFinal Answer: el\r\n", "el"),
    "twice the same": ("x</think>Final Answer: es\nFinal Answer: es", "es"),
    "twice the same, other case": ("x</think>Final Answer: es\n**Final Answer: ES**", "es"),
    "three times the same": ("x</think>" + "Final Answer: es\n" * 3, "es"),
    "another answer in the reasoning": ("Final Answer: fr? No.</think>Final Answer: de", "de"),
    "rules quoted in the reasoning": (
        "The line is 'Final Answer: xx', e.g. Final Answer: ot</think>Final Answer: tr",
        "tr",
    ),
    "labels quoted in the reasoning": ("ar, de, el, en, es or fr</think>Final Answer: hi", "hi"),
    "whole prompt quoted in the reasoning": (LANGUAGE.prompt + "</think>Final Answer: el", "el"),
    "closing tag twice": ("a</think>b</think>Final Answer: en", "en"),
    "answer between two tags is reasoning": (
        "a</think>Final Answer: fr</think>Final Answer: en",
        "en",
    ),
    "label in prose does not count": ("x</think>It could be fr or es.\nFinal Answer: es", "es"),
}
REFUSED = {
    "empty response": ("", OPEN),
    "blank response": (" \n", OPEN),
    "no closing tag": ("Final Answer: en", OPEN),
    "no closing tag, long reasoning": (
        "The rules say Final Answer: xx. " * 50 + "Final Answer: en",
        OPEN,
    ),
    "opening tag only": ("<think>Final Answer: en", OPEN),
    "broken closing tag": ("x</think Final Answer: en", OPEN),
    "closing tag in upper case": ("x</THINK>Final Answer: en", OPEN),
    "another closing tag": ("x</thinking>Final Answer: en", OPEN),
    "empty content": ("x</think>", NONE),
    "blank content": ("x</think>\n\n \t", NONE),
    "answer before the tag only": ("Final Answer: en</think>", NONE),
    "answer before the tag, prose after": ("Final Answer: en</think>That is my answer.", NONE),
    "answer between two tags only": ("x</think>Final Answer: en</think>", NONE),
    "label without the phrase": ("x</think>en", NONE),
    "answer phrase misspelt": ("x</think>Final Anwser: en", NONE),
    "answer phrase translated": ("x</think>Endgültige Antwort: de", NONE),
    "answer phrase in another script": ("x</think>最终答案: zh", NONE),
    "phrase without a label": ("x</think>Final Answer:", NONE),
    "phrase with markup only": ("x</think>Final Answer: **", NONE),
    "phrase with an ellipsis": ("x</think>Final Answer: ...", NONE),
    "placeholder": ("x</think>Final Answer: xx", BAD),
    "name of the language": ("x</think>Final Answer: English", BAD),
    "label begins a word": ("x</think>Final Answer: ende", BAD),
    "label with a region": ("x</think>Final Answer: en-US", BAD),
    "unknown code": ("x</think>Final Answer: pt", BAD),
    "three-letter code": ("x</think>Final Answer: eng", BAD),
    "label in another script": ("x</think>Final Answer: 中文", BAD),
    "look-alike in Cyrillic": ("x</think>Final Answer: \u0435n", BAD),
    "full-width letters": ("x</think>Final Answer: ｅｎ", BAD),
    "two labels, slash": ("x</think>Final Answer: en/fr", BAD),
    "two labels, comma": ("x</think>Final Answer: en,fr", BAD),
    "one letter": ("x</think>Final Answer: e", BAD),
    "no": ("x</think>Final Answer: none", BAD),
    "number": ("x</think>Final Answer: 4", BAD),
    "two contradicting": ("x</think>Final Answer: en\nFinal Answer: fr", BAD),
    "two contradicting, on one line": ("x</think>Final Answer: en Final Answer: fr", BAD),
    "corrected": ("x</think>Final Answer: en\nWait, no.\nFinal Answer: fr", BAD),
    "two agree, one does not": (
        "x</think>Final Answer: en\nFinal Answer: en\nFinal Answer: ot",
        BAD,
    ),
    "valid and placeholder": ("x</think>Reply with Final Answer: xx\nFinal Answer: en", BAD),
    "valid and empty": ("x</think>Final Answer: **\nFinal Answer: en", BAD),
    "prompt echoed after the tag": ("x</think>" + LANGUAGE.prompt, BAD),
}
REFUSED_AT_LENGTH = {
    "finished answer": ("x</think>Final Answer: en", NONE),
    "cut answer": ("x</think>Final Answer: e", NONE),
    "two tags": ("x</think>y</think>", NONE),
    "answer in the reasoning": ("Final Answer: en", OPEN),
    "empty": ("", OPEN),
}


def reason(task: Task, *args) -> str:
    with pytest.raises(NoAnswer) as error:
        task.read_answer(*args)
    assert str(error.value).startswith(error.value.reason)
    return error.value.reason


@pytest.mark.parametrize(("response", "label"), ACCEPTED.values(), ids=ACCEPTED)
def test_answer_is_read(response, label):
    assert LANGUAGE.read_answer(response) == label


@pytest.mark.parametrize(("response", "expected"), REFUSED.values(), ids=REFUSED)
def test_answer_is_refused(response, expected):
    assert reason(LANGUAGE, response) == expected


@pytest.mark.parametrize(
    ("response", "expected"), REFUSED_AT_LENGTH.values(), ids=REFUSED_AT_LENGTH
)
def test_answer_cut_at_the_token_limit_is_refused(response, expected):
    assert reason(LANGUAGE, response, "length") == expected
    assert reason(LANGUAGE, response, "repetition") == expected


@pytest.mark.parametrize("label", LANGUAGE.labels)
@pytest.mark.parametrize("shape", ["{}", "**{}**", "{}.\n", "{}\nDone."])
def test_truncated_response_never_gives_a_wrong_label(label, shape):
    thinking = "Not Final Answer: ot, and not Final Answer: en.\n"
    response = thinking + "</think>\n\n" + shape.format(f"Final Answer: {label}")
    assert LANGUAGE.read_answer(response) == label
    tag_end = response.index("</think>") + len("</think>")
    label_end = response.rindex(label) + len(label)
    for end in range(len(response)):
        if end >= label_end:
            assert LANGUAGE.read_answer(response[:end]) == label
        else:
            expected = (
                OPEN if end < tag_end else BAD if response[:end].endswith(f": {label[0]}") else NONE
            )
            assert reason(LANGUAGE, response[:end]) == expected
        assert reason(LANGUAGE, response[:end], "length") == (OPEN if end < tag_end else NONE)


@pytest.mark.parametrize(
    ("task", "content", "answer"),
    [
        (WORDS, "very good", "Very Good"),
        (WORDS, "\n**Bad**.\n", "bad"),
        (WORDS, "STRASSE", "straße"),
        (FREE, "\n *Two* lines.\nOf text.\n", "*Two* lines.\nOf text."),
        (FREE_TAGGED, "<answer> 42 </answer>", "42"),
        (FREE_TAGGED, "<answer>41</answer> no, <answer>42</answer>", "42"),
    ],
)
def test_other_tasks(task, content, answer):
    assert task.read_content(content) == answer
    assert task.read_answer(f"bad or Very Good? <answer>1</answer></think>{content}") == answer


@pytest.mark.parametrize(
    ("task", "content", "expected"),
    [(WORDS, "It is bad", BAD), (WORDS, "", NONE), (FREE, " \n", NONE), (FREE_TAGGED, "42", NONE)],
)
def test_other_tasks_refuse(task, content, expected):
    assert reason(task, f"x</think>{content}") == expected


@pytest.mark.parametrize("label", ["C.", "(a)", "$1"])
def test_every_label_of_a_task_can_be_answered(tmp_path, label):
    path = tmp_path / "task.yaml"
    path.write_text(json.dumps({"prompt": "Choose.", "labels": [label, "other"]}))
    assert load_task(path).read_content(label) == label


def test_no_answer_shows_what_was_found():
    with pytest.raises(NoAnswer, match="not_a_label: en and fr$"):
        LANGUAGE.read_answer("x</think>Final Answer: en\nFinal Answer: fr")


# load_task

BROKEN_TASKS = {
    "not UTF-8": ("prompt: é".encode("latin-1"), "UTF-8 at byte 8"),
    "broken YAML": (b"prompt: a\nlabels: [a, b\nanswer: x\n", " line 3 not valid YAML"),
    "NUL byte": (b"prompt: a\0", "not valid YAML"),
    "empty file": (b"", "keys prompt, labels, schema and answer"),
    "a list": (b"- prompt", "keys prompt, labels, schema and answer"),
    "wrong key": (b"prompt: a\nlabel: [b]", "unknown key 'label'"),
    "key that is no text": (b"prompt: a\n1: b", "unknown key '1'"),
    "no prompt": (b"labels: [a]", "key 'prompt'"),
    "empty prompt": (b"prompt: ''", "key 'prompt'"),
    "blank prompt": (b'prompt: " \\n "', "key 'prompt'"),
    "prompt is a number": (b"prompt: 3", "key 'prompt'"),
    "labels are one text": (b"prompt: a\nlabels: en", "key 'labels'"),
    "label twice": (b"prompt: a\nlabels: [en, fr, en]", "key 'labels' lists a label twice"),
    "label twice, other case": (b"prompt: a\nlabels: [en, EN]", "key 'labels' lists a label twice"),
    "unquoted no": (b"prompt: a\nlabels: [yes, no]", "key 'labels'.*quote labels such as \"no\""),
    "unquoted no, alone": (b"prompt: a\nlabels: no", "key 'labels'"),
    "unquoted number": (b"prompt: a\nlabels: [1, 2]", "key 'labels'.*quote labels"),
    "empty label": (b"prompt: a\nlabels: [a, '']", "key 'labels'"),
    "bad regex": (b"prompt: a\nanswer: '(a'", "key 'answer' is not a regular expression"),
    "regex with two groups": (
        b"prompt: a\nanswer: '(a)(b)'",
        "key 'answer' must have exactly one group.*has 2",
    ),
    "regex without a group": (
        b"prompt: a\nanswer: 'a'",
        "key 'answer' must have exactly one group.*has 0",
    ),
    "answer is a list": (b"prompt: a\nanswer: [a]", "key 'answer'"),
    "impossible date": (b"prompt: a\nanswer: 2024-13-45", "2024|YAML|answer"),
}


@pytest.mark.parametrize(("raw", "message"), BROKEN_TASKS.values(), ids=BROKEN_TASKS)
def test_broken_task_file_is_named(tmp_path, raw, message):
    path = tmp_path / "broken.yaml"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}:.*{message}"):
        load_task(path)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_task_file_that_cannot_be_opened_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path / name))}:.*--task"):
        load_task(tmp_path / name)


@pytest.mark.parametrize(
    "encode", [str.encode, lambda text: text.encode("utf-8-sig")], ids=["plain", "BOM"]
)
def test_task_file_is_read(tmp_path, encode):
    path = tmp_path / "task.yaml"
    path.write_bytes(encode("prompt: |\n  Öl?\r\nlabels: ['no', \"1\"]\r\nanswer: 'A: (\\S+)'\r\n"))
    task = load_task(path)
    assert (task.prompt, task.labels, task.answer) == ("Öl?", ("no", "1"), r"A: (\S+)")


@pytest.mark.parametrize(
    "text", ["prompt: a", "prompt: a\nlabels: []\nanswer: ''", "prompt: a\nlabels:\nanswer:"]
)
def test_labels_and_answer_may_be_left_out(tmp_path, text):
    path = tmp_path / "task.yaml"
    path.write_text(text)
    task = load_task(path)
    assert (task.labels, task.answer, task.read_content(" b ")) == ((), "", "b")


def test_hash_tells_prompts_apart(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    for path, prompt in zip(paths, ["one", "two", "one"], strict=True):
        path.write_text(f"prompt: {prompt}")
    first, second, third = [load_task(path).hash for path in paths]
    assert first == third != second


# example prompt


def test_example_prompt_is_long():
    assert len(qwen_tokenizer()(LANGUAGE.prompt, add_special_tokens=False)["input_ids"]) >= 2000


@pytest.mark.parametrize("turns", [1, 3])
def test_prompt_is_the_system_message_and_the_input_comes_last(turns):
    chat = [{"role": ("user", "assistant")[i % 2], "content": f"text {i}"} for i in range(turns)]
    messages = LANGUAGE.messages(chat)
    assert messages == [{"role": "system", "content": LANGUAGE.prompt}, *chat]
    assert len(chat) == turns  # the caller's list is left as it was


def test_text_input_becomes_the_user_message():
    text = " Bonjour {x}\n"
    assert LANGUAGE.messages(text) == [
        {"role": "system", "content": LANGUAGE.prompt},
        {"role": "user", "content": text},
    ]


def test_example_answers_are_labels():
    shown = re.findall("Final Answer: (.*)", LANGUAGE.prompt)
    assert shown.count("xx") == 1
    assert set(shown) - {"xx"} == set(LANGUAGE.labels)


def test_every_label_has_a_worked_example():
    examples = LANGUAGE.prompt.partition("WORKED EXAMPLES\n")[2].split("\n\n")[:-1]
    shown = [re.fullmatch(r"Text: .+\n.+\nFinal Answer: (\S+)", example)[1] for example in examples]
    assert set(shown) == set(LANGUAGE.labels)


FILES = {
    "duplicate key": (
        "prompt: p\nlabels: [a, b]\nanswer: ''\nlabels: [c, d]\n",
        "key 'labels' in line 2 and again in line 4; keep one of them",
    ),
    "tab": (
        "prompt: p\nlabels:\n\t- a\n",
        "line 3 not valid YAML \\(a tab, where YAML takes only spaces\\)",
    ),
    "form feed": (
        "prompt: |\n  Rules\f\n  of the game\n",
        "line 2 not valid YAML \\(the control character U\\+000C\\)",
    ),
    "half of an emoji": (
        r'{"prompt": "p", "labels": ["\ud83d", "b"]}',
        "key 'labels' holds half of a surrogate pair",
    ),
    "half of an emoji in the prompt": (
        r'{"prompt": "\ude00 p"}',
        "key 'prompt' holds half of a surrogate pair",
    ),
    "too deep": ("[" * 700, "not valid YAML"),
}


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES)
def test_a_file_that_reads_otherwise_than_it_looks_is_refused(text, message, tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}:.*{message}"):
        load_task(path)


def test_escaped_emoji_are_characters(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text(
        r'{"prompt": "\ud83d\ude00 is happy", "labels": ["\ud83d\ude00", "sad"], '
        r'"answer": "A: (.+)"}'
    )
    task = load_task(path)
    assert task.prompt == "😀 is happy" and task.labels == ("😀", "sad")
    assert task.read_content("A: 😀") == "😀"
    task.constraint().encode()  # it can be sent to the engine


def test_tasks_that_mean_the_same(tmp_path):
    """What a task file looks like does not count, and what it says does."""
    first = tmp_path / "first.yaml"
    first.write_text('{"prompt": "Which one?", "labels": ["a b", "c"], "answer": "It is (.+)"}')
    again = tmp_path / "again.yaml"
    again.write_text("answer: It is (.+)\n# two\nlabels: [c, a b]\nprompt: |\n  Which one?\n\n")
    task = load_task(first)
    same = load_task(again)
    assert task.hash != same.hash and same_task(task.named(), same.named())
    # an older version names the file alone
    assert same_task({"task": task.hash}, task.named())
    assert not same_task({"task": task.hash}, same.named())
    others = {
        "prompt": '{"prompt": "Which?", "labels": ["a b", "c"], "answer": "It is (.+)"}',
        "labels": '{"prompt": "Which one?", "labels": ["A b", "c"], "answer": "It is (.+)"}',
        "answer": '{"prompt": "Which one?", "labels": ["a b", "c"], "answer": "It is: (.+)"}',
    }
    for key, text in others.items():
        again.write_text(text)
        other = load_task(again)
        assert not same_task(task.named(), other.named())
        assert [name for name in task.meaning if task.meaning[name] != other.meaning[name]] == [key]
