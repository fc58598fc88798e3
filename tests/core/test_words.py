"""Words that depend on a number."""

from __future__ import annotations

from art_classwise._core.words import more


def test_one_more_has_no_plural():
    assert more(1, "class") == "1 more class"
    assert more(2, "class") == "2 more classes"
    assert more(1200, "attack") == "1,200 more attacks"
    assert more(1, "radius", "radii") == "1 more radius"
    assert more(3, "radius", "radii") == "3 more radii"
