"""When two labels or texts are the same, in every form of Unicode."""

import pytest

from distill.same_text import comparable, folded
from distill.task import load_task
from helpers import write_task

SAME = {
    "decomposed": ("café", "cafe\u0301"),
    "decomposed, other case": ("Thé", "THE\u0301"),
    "full-width stop": ("体育", "体育。"),
    "full-width markup": ("体育", "＊＊体育＊＊"),
    "corner brackets": ("体育", "「体育」"),
    "curly quotes": ("news", "„News“"),
    "guillemets": ("sport", "« Sport »"),
    "ellipsis": ("sport", "sport…"),
    "zero width space": ("sport", "\u200bsport\ufeff"),
    "right-to-left marks": ("أخبار", "\u200fأخبار\u061c۔"),
    "ideographic space": ("体育", "\u3000体育\u3000"),
}
OTHER = {
    "a dash": ("A", "A–"),
    "a plus": ("C", "C+"),
    "inside": ("体育", "体。育"),
    "full-width letters": ("en", "ｅｎ"),
    "without the accent": ("café", "cafe"),
}


@pytest.mark.parametrize(("label", "answer"), SAME.values(), ids=SAME)
def test_the_same_label_in_another_form_is_read(label, answer, tmp_path):
    task = load_task(write_task(tmp_path / "task.yaml", [label, "other"], r"答案[：:]\s*(.+)"))
    assert task.read_answer(f"Thought.</think>\n\n答案：{answer}") == label
    assert (
        load_task(write_task(tmp_path / "task.yaml", [answer, "other"])).read_content(label)
        == answer
    )
    with pytest.raises(ValueError, match="key 'labels' lists a label twice"):
        load_task(write_task(tmp_path / "task.yaml", [label, answer]))


@pytest.mark.parametrize(("label", "answer"), OTHER.values(), ids=OTHER)
def test_another_label_is_not_taken_for_it(label, answer, tmp_path):
    assert folded(label) != folded(answer)
    assert (
        load_task(write_task(tmp_path / "task.yaml", [label, answer])).read_content(answer)
        == answer
    )


def test_free_texts_are_compared_without_what_is_typographic_around_them():
    assert comparable("cafe\u0301 \u200b") == comparable("café") == "café"
    assert comparable("「体育。」") == comparable("体育") == "体育"
    assert comparable("Done.") != comparable("Done") != comparable("done")  # ASCII and case count
    assert comparable("…") == "…"
