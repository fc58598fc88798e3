"""Names that come from anyone: what can't be seen is written out, what can be read stays."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from results import make_result

from art_classwise.errors import printable
from art_classwise.report import print_tables, render
from art_classwise.report.tables import template

READ = [
    "cat",
    "golden retriever",
    "naïve",
    "猫",
    "ねこ",
    "кот",
    "قطة",
    "חתול",
    "नमस\u200dते",
    "🐈\u200d⬛",
    "a\u00a0b",
    "猫\u3000犬",
]


@pytest.mark.parametrize("name", READ)
def test_what_can_be_read_stays(name):
    assert printable(name) == name


def test_whatever_turns_moves_colours_or_hides_is_written_out():
    """Over all of Unicode: what a terminal or a page may act upon, and joiners that join nothing."""
    for code in range(sys.maxunicode + 1):
        c = chr(code)
        if code > 0x3000 and code % 101:  # far above, unassigned and private ones fill whole planes
            continue
        if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
            seen = printable(f"a{c}b")
            assert seen.isascii() and seen.isprintable(), hex(code)  # noqa: PT018
            assert seen == f"a{c.encode('unicode_escape').decode()}b"
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_two_names_that_look_alike_are_told_apart():
    alike = ["cat", "cat\u200b", "cat\u202e", "ca\u00adt", "cat\u200d", "cat\ufeff", "cat\u3164"]
    assert len({printable(name) for name in alike}) == len(alike)
    for name in alike[1:]:
        assert "\\" in printable(name)


MARKS = ["\u202e", "\u2066", "\u200f", "\x1b", "\x07", "\x85", "\u2028", "\ufeff"]


def test_marks_reach_neither_page_nor_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = make_result([f"class{mark}{k}" for k, mark in enumerate(MARKS)], models=[f"m{mark}" for mark in MARKS])
    page = render(result)
    print_tables(result)
    for text in (page, capsys.readouterr().out, repr(result), result._repr_html_()):
        for mark in MARKS:
            assert mark not in text, repr(mark)
    assert "class\\u202e0" in page


def test_names_from_right_to_left_turn_nothing_around():
    environment = template("page.html.j2").environment
    isolated = environment.from_string("{{ text | isolated }}")
    assert isolated.render(text="חתול, 12.0 %") == "<bdi>חתול</bdi>, 12.0 %"
    assert (
        isolated.render(text="a <b> & חתול בית, قطة: 3") == "a &lt;b&gt; &amp; <bdi>חתול בית</bdi>, <bdi>قطة</bdi>: 3"
    )
    assert isolated.render(text="plain") == "plain"
