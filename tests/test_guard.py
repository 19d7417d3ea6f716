"""The guard's view of an answer's expression: where the label stands in it. No model."""

import pytest

from distill.guard import around_group, group_span

# Each expression with the text of its one group.
GROUPS = {
    "at the end": (r"Final answer: (\w+)", r"(\w+)"),
    "in the middle": (r"<(a|b)>", "(a|b)"),
    "all of it": ("(.*)", "(.*)"),
    "after a group that does not capture": (r"(?:so|thus): (\w\w)\.?", r"(\w\w)"),
    "around groups that do not capture": (
        "it is ((?:very )?(?:good|bad))!",
        "((?:very )?(?:good|bad))",
    ),
    "inside of one that does not": ("(?:label (x|y))+", "(x|y)"),
    "after escaped parentheses": (r"\(see\) (ok)", "(ok)"),
    "with parentheses in classes": ("[()]([^)(]+)[)]", "([^)(]+)"),
    "after a closing bracket in a class": ("[])](a)", "(a)"),
    "with a name": ("is (?P<label>a|b)", "(?P<label>a|b)"),
}


@pytest.mark.parametrize(("pattern", "group"), GROUPS.values(), ids=GROUPS)
def test_the_group_of_an_answer_is_found(pattern, group):
    start, end = group_span(pattern)
    assert pattern[start:end] == group
    assert around_group(pattern, "LABEL") == pattern.replace(group, "LABEL")


@pytest.mark.parametrize("pattern", ["", "no group", r"\(a\)", "[(a)]", "(?:a)", "(a"])
def test_an_expression_without_a_group_is_refused(pattern):
    with pytest.raises(ValueError, match="no group"):
        group_span(pattern)


def test_without_an_expression_the_label_is_the_answer():
    assert around_group("", "LABEL") == "LABEL"
