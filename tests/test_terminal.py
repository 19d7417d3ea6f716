"""Texts in lines of a terminal."""

import unicodedata

from distill.terminal import WIDTH, field, printable, shortened


def columns(line):
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in line)


def test_a_long_text_stays_within_the_width_and_whole():
    text = "a word and another one " * 30 + "x" * 300 + "\n\nthe end"
    lines = field("name", text).split("\n")
    assert max(map(len, lines)) <= WIDTH and lines[0].startswith("name ")
    assert "".join("".join(lines).split()) == "name" + "".join(text.split())
    assert lines[-2:] == ["", " " * 16 + "the end"]


def test_letters_of_two_columns_stay_within_the_width():
    lines = field("user", "日本語の文章" * 40).split("\n")
    assert WIDTH - 20 <= max(map(columns, lines)) <= WIDTH


def test_nothing_moves_the_cursor():
    text = printable("a\x1b[2Jb\r\tc\u202ed\ne")
    assert text == "a\\x1b[2Jb\\r    c\\u202ed\ne"


def test_the_middle_of_a_long_text_is_left_out():
    lines = [str(number) for number in range(20)]
    assert shortened("\n".join(lines), 3).split("\n") == [
        *lines[:3],
        "[... 14 more lines ...]",
        *lines[-3:],
    ]
    assert shortened("\n".join(lines), 10) == "\n".join(lines)
