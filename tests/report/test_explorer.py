"""Each class by itself: its numbers are those of the result, its images those that were attacked."""

from __future__ import annotations

import base64
import io
import re
from html import unescape

import numpy as np
import pytest
from PIL import Image
from results import make_result

import art_classwise as acw
from art_classwise.audit.attacked_images import AttackedImage
from art_classwise.report import render

CLASSES = ["ant", "bee", "cow", "doe"]


def with_images(result, channels=3, model="one"):
    """Images made up for the first two classes: the first value of the first channel raised."""
    rng = np.random.default_rng(0)
    images = []
    for label in (0, 0, 1):
        original = rng.integers(0, 200, (channels, 4, 6)).astype(np.uint8)
        attacked = original.copy()
        attacked[0, 0, 0] += 20
        of = result.outcomes[(result.outcomes["label"] == label) & ~result.outcomes["withstood"]].iloc[len(images)]
        images.append(AttackedImage(model, "fgsm", int(of["example"]), label, label + 1, original, attacked))
    return acw.AuditResult(result.outcomes, result.manifest, images=tuple(images))


@pytest.fixture(scope="module")
def result():
    return with_images(make_result(CLASSES))


def classes_of(html):
    """Each class's part of the page, by its name."""
    parts = re.findall(r'<details class="acw-class".*?</details>', html, re.DOTALL)
    return {unescape(re.search(r'acw-name"><bdi>(.*?)</bdi>', part)[1]): part for part in parts}


def cells(part):
    def text(cell):
        return " ".join(re.sub(r"<[^>]+>", "", cell).split())

    rows = re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)[1:]
    return [[text(cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


@pytest.mark.parametrize("made", [render, lambda result: result.explore()._repr_html_()], ids=["page", "notebook"])
def test_numbers_of_each_class_are_those_of_the_result(result, made):
    views = classes_of(made(result))
    assert [*views] == ["ant", "bee", "cow"]  # the weakest first; of doe there is no example
    for name, part in views.items():
        for model, clean, robust, taken in cells(part):
            of = result.class_table(model).loc[name]
            for shown, kind in ((clean, "clean"), (robust, "robust")):
                low, high = 100 * of[f"{kind}_low"], 100 * of[f"{kind}_high"]
                assert shown == f"{100 * of[kind]:.1f} ({low:.0f}–{high:.0f})"
            counts = result.confusion(model, normalize=False).loc[name].drop(name)
            assert taken == ", ".join(f"{n} as {other}" for other, n in counts[counts > 0].items())


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_the_images_and_the_change_is_magnified_as_said(channels):
    result = with_images(make_result(CLASSES), channels)
    views = classes_of(result.explore()._repr_html_())
    factor = int(re.search(r"magnified (\d+) times, around grey", result.explore()._repr_html_())[1])
    assert factor == 127 // 20
    for label, name in enumerate(CLASSES[:2]):
        pictures = [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
            for data in re.findall(r'src="data:image/png;base64,([^"]+)"', views[name])
        ]
        of_class = [one for one in result.images if one.label == label]
        assert len(pictures) == 3 * len(of_class)
        for i, one in enumerate(of_class):
            change = 128 + factor * (one.attacked.astype(int) - one.original)
            for picture, levels in zip(pictures[3 * i :], (one.original, change, one.attacked), strict=False):
                np.testing.assert_array_equal(picture, levels.transpose(1, 2, 0).squeeze())
        assert f"taken for <strong><bdi>{CLASSES[label + 1]}</bdi></strong> by <bdi>one</bdi>" in views[name]
    assert "<img" not in views["cow"]


def test_classes_can_be_named(result):
    assert [*classes_of(result.explore(["cow", "ant"])._repr_html_())] == ["ant", "cow"]
    assert [*classes_of(result.explore("bee")._repr_html_())] == ["bee"]
    assert "1 of 3 classes" in result.explore("bee")._repr_html_()  # not the weakest one
    with pytest.raises(acw.InputError, match="Did you mean cow"):
        result.explore(["cows"])
    with pytest.raises(acw.InputError, match="None of these classes has an example"):
        result.explore(["doe"])


def test_of_many_classes_the_weakest_are_shown_and_it_is_said():
    result = make_result([f"c{k}" for k in range(200)], n=3)
    html = result.explore()._repr_html_()
    assert len(classes_of(html)) == 100
    assert "The 100 weakest of 199 classes" in html
    assert repr(result.explore()).startswith("100 of 199 classes, the weakest first:\n")


def test_names_stay_names(result):
    hostile = ["<img src=x>", "\u202egnp.exe", "a\nb", "חתול", "none"]
    renamed = with_images(make_result(hostile, models=("<b>", "two")), model="<b>")
    html = renamed.explore()._repr_html_()
    assert "<img src=x>" not in html
    assert html.count("<img ") == 3 * len(renamed.images)
    assert "<b>" not in html
    assert "\u202e" not in html
    assert "\\u202egnp.exe" in html
    assert "a\\nb" in html
    assert "<bdi>חתול</bdi>" in html
    assert "\u202e" not in repr(renamed.explore())
