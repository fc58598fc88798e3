"""Letters that the usual font lacks come from another, where one is installed; where none is, nobody is bothered."""

from __future__ import annotations

import warnings

import matplotlib as mpl
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image
from results import make_result

from art_classwise import figures
from art_classwise.report import render
from art_classwise.report.figures.fonts import families

CLASSES = ["猫", "犬猫", "absent"]


@pytest.fixture
def no_font(monkeypatch):
    """Whatever is installed here, matplotlib knows its own fonts only."""
    own = [font for font in font_manager.fontManager.ttflist if "DejaVu" in font.name]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    font_manager.fontManager._findfont_cached.cache_clear()
    yield
    font_manager.fontManager._findfont_cached.cache_clear()


@pytest.fixture
def font(no_font, tmp_path):
    """A font with two letters, each a square, by the name of a usual one."""
    pen = TTGlyphPen(None)
    for k, point in enumerate([(0, 0), (0, 900), (900, 900), (900, 0)]):
        (pen.lineTo if k else pen.moveTo)(point)
    pen.closePath()
    square = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "cat", "dog"])
    builder.setupCharacterMap({ord("猫"): "cat", ord("犬"): "dog"})
    builder.setupGlyf({".notdef": square, "cat": square, "dog": square})
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", "cat", "dog"], (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Noto Sans CJK JP", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "font.ttf")
    font_manager.fontManager.addfont(tmp_path / "font.ttf")


def test_a_font_that_is_installed_is_used(font):
    assert "Noto Sans CJK JP" in families()
    before = dict(mpl.rcParams)
    ax = figures.class_accuracy(make_result(CLASSES).class_table("one"))
    ax.figure.canvas.draw()  # warnings are errors: no letter is missing
    assert dict(mpl.rcParams) == before


def test_where_none_is_installed_nothing_is_said(no_font, tmp_path):
    result = make_result(CLASSES)
    assert families() == list(mpl.rcParams["font.family"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.save(figures.models_by_class(result), tmp_path / "figure.png")
        page = render(result)
        shown = result._repr_html_()
    with Image.open(tmp_path / "figure.png") as image:
        assert image.size[0] > 100
    for text in (page, shown):
        assert ">犬猫</text>" in text  # the browser has a font


def test_the_readers_own_fonts_come_first(font):
    with mpl.rc_context({"font.family": ["DejaVu Serif"]}):
        assert families()[0] == "DejaVu Serif"
        ax = figures.class_accuracy(make_result(["ant", "bee", "cow"]).class_table("one"))
    assert ax.get_xticklabels()[0].get_fontfamily()[0] == "DejaVu Serif"
