"""Bars of class accuracy, figures as SVG, and what figures refuse."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from pictures import FIGURES, homing_table, images
from results import HOSTILE, make_result

from art_classwise import InputError, figures
from art_classwise.audit import WORST_CASE
from art_classwise.report.figures import WORST, class_accuracy, models_by_class, to_svg


@pytest.fixture
def result():
    return make_result(["ant", "bee", "cow", "doe"])


def test_figure_draws_the_table_worst_first(result):
    table = result.class_table("one", WORST_CASE)
    ax = class_accuracy(table, title="one")
    measured = table[table["n"] > 0].sort_values("robust")
    assert [t.get_text() for t in ax.get_yticklabels()] == list(measured.index)
    bars = [p for p in ax.patches if p.get_width() or p.get_height()]
    assert [b.get_width() for b in bars] == pytest.approx(list(100 * measured["robust"]))
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first is on top
    assert to_hex(bars[0].get_facecolor()).upper() == WORST
    pyplot.close(ax.figure)


def test_tied_worst_classes_are_all_marked():
    result = make_result(["ant", "bee", "cow", "doe"])
    table = result.class_table("one").assign(robust=[0.2, 0.2, 0.5, np.nan], robust_low=0.1, robust_high=0.6)
    ax = class_accuracy(table)
    colors = [label.get_color() for label in ax.get_yticklabels()]
    assert colors[0] == colors[1] != colors[2]
    assert [label.get_fontweight() for label in ax.get_yticklabels()] == ["bold", "bold", "normal"]
    assert colors[2] != WORST
    pyplot.close(ax.figure)


@pytest.mark.parametrize("n_classes", [2, 10, 100, 1000])
def test_figure_stays_readable_with_many_and_long_names(n_classes):
    result = make_result([f"a rather long name of a class, number {k}" for k in range(n_classes)], n=3)
    figure = models_by_class(result)
    assert figure.get_size_inches().max() < 15
    FigureCanvasAgg(figure).draw()
    for ax in figure.axes:
        boxes = [t.get_window_extent() for t in ax.get_yticklabels()]
        gaps = np.diff(sorted(b.y0 for b in boxes))
        assert len(boxes) <= 40
        assert len(gaps) == 0 or gaps.min() >= boxes[0].height * 0.95  # no text over text
        assert ax.legend_.get_window_extent().y1 <= ax.xaxis.label.get_window_extent().y0 + 2


def test_svg_is_well_formed_and_repeatable_with_real_text():
    result = make_result([HOSTILE.replace("\n", " "), "bee", "cow"])
    first, again = (to_svg(models_by_class(result), "p-") for _ in range(2))
    assert first == again
    root = ET.fromstring(first)
    texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "bee" in texts
    assert all(i.startswith("p-") for e in root.iter() if (i := e.get("id")))


def test_nothing_to_draw_is_named():
    table = pd.DataFrame(
        {"n": [0], "clean": [np.nan], "robust": [np.nan], "robust_low": [np.nan], "robust_high": [np.nan]}
    )
    with pytest.raises(InputError, match="nothing to draw"):
        class_accuracy(table)


RESULT = make_result(["ant", "bee", "cow", "doe"], attacks=("fgsm", "pgd-20"))
TABLE = RESULT.class_table("one")
EMPTY = TABLE.assign(n=0, robust=np.nan)
SHARES = RESULT.confusion("one", WORST_CASE)
COUNTS = RESULT.confusion("one", WORST_CASE, normalize=False)
STRENGTH = RESULT.attack_strength("one", "fgsm", "pgd-20")
OTHER_MODEL = make_result(RESULT.classes, ("three",), eps=0.3)
X, X_ADV = images(2)


def gallery(x=X, x_adv=X_ADV, y=(0, 1), prediction=(1, 1), **options):
    return figures.gallery(x, x_adv, y, prediction, classes=RESULT.classes, **options)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: class_accuracy([0.1, 0.2]), r"DataFrame, as result\.class_table"),
        (lambda: class_accuracy(TABLE.drop(columns="robust_low")), "no robust_low"),
        (lambda: class_accuracy(TABLE.assign(at=0).set_index("at", append=True)), "indexed by class, at"),
        (lambda: class_accuracy(EMPTY), "nothing to draw"),
        (lambda: class_accuracy(TABLE, "left"), "matplotlib axes"),
        (lambda: figures.class_histogram(TABLE, np.empty((2, 2))), "matplotlib axes"),
        (lambda: figures.weight_norms(np.ones(4), TABLE, 1), "matplotlib axes"),
        (lambda: models_by_class(RESULT, "one"), r"\['one'\]"),
        (lambda: models_by_class(RESULT, []), "names of models"),
        (lambda: models_by_class(RESULT, ["four"]), "four"),
        (lambda: figures.class_by_attack(TABLE), "by_attack"),
        (lambda: figures.class_by_attack(RESULT.by_attack("one") * np.nan), "nothing to draw"),
        (lambda: figures.class_histogram(EMPTY), "nothing to draw"),
        (lambda: figures.confusion(SHARES.to_numpy()), r"DataFrame \(C, C\)"),
        (lambda: figures.confusion(SHARES.iloc[:, ::-1]), "same classes"),
        (lambda: figures.confusion(-COUNTS), "below 0"),
        (lambda: figures.confusion(SHARES / 2), "sum to 1"),
        (lambda: figures.confusion(0 * COUNTS), "nothing to draw"),
        (lambda: figures.group_confusion(SHARES, ["a", "a", "b", "b"]), "counts"),
        (lambda: figures.group_confusion(COUNTS, ["a", "b"]), "4"),
        (lambda: figures.training_curves(TABLE), "trainer.fit"),
        (lambda: figures.training_curves(pd.DataFrame({"epoch": [1]})), "no robust accuracy"),
        (lambda: figures.training_curves(pd.DataFrame({"epoch": [1], "robust_0": 0.5}), data="test"), "validation"),
        (lambda: figures.training_curves(pd.DataFrame({"epoch": [1], "robust_0": 0.5}), classes=["a", "b"]), "2"),
        (lambda: figures.attack_strength(TABLE), "attack_strength"),
        (lambda: figures.attack_strength(STRENGTH.assign(n=0)), "nothing to draw"),
        (lambda: figures.weight_norms([1.0], TABLE), "each of the 4 classes"),
        (lambda: figures.weight_norms([1.0, 2.0, 3.0, np.nan], TABLE), "each of the 4 classes"),
        (lambda: figures.weight_norms("norms", TABLE), "each of the 4 classes"),
        (lambda: figures.weight_norms(np.zeros(4), TABLE), "every class was excluded"),
        (lambda: figures.homing(TABLE), "homing"),
        (lambda: figures.homing(homing_table(4).iloc[:0]), "nothing to draw"),
        (lambda: figures.compared(TABLE), "result.compare"),
        (lambda: figures.accuracy_by_radius([RESULT]), "two audits or more"),
        (lambda: figures.accuracy_by_radius([RESULT, TABLE]), "Number 2"),
        (lambda: figures.accuracy_by_radius([RESULT, RESULT]), "choose one"),
        (lambda: figures.accuracy_by_radius([RESULT, RESULT], "one"), "must rise"),
        (lambda: figures.accuracy_by_radius([RESULT, OTHER_MODEL], "one"), "one"),
        (lambda: gallery(x=X[0]), "n, 1 or 3, H, W"),
        (lambda: gallery(x=255 * X), "divide bytes by 255"),
        (lambda: gallery(x=X[:1], x_adv=X_ADV), "differ in shape"),
        (lambda: gallery(y=(0, 4)), "4"),
        (lambda: gallery(prediction=(0,)), "prediction"),
        (lambda: gallery(scale=0.0), "scale"),
    ],
)
def test_what_can_not_be_drawn_is_refused_before_a_figure_is_made(draw, message):
    with pytest.raises(InputError, match=message):
        draw()
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize("name", ["compared", "homing", "confusion of counts"])
def test_no_dot_touches_a_name(name):
    """A hollow dot at 0 beside "class 1" would be read as "class 10"."""
    ax = FIGURES[name](100, False)
    ax.figure.canvas.draw()
    dots = [c for c in ax.collections if isinstance(c, PathCollection) and len(c.get_offsets())]
    radius = max(np.sqrt(c.get_sizes().max()) + c.get_linewidths().max() for c in dots) / 2 * ax.figure.dpi / 72
    left = ax.transData.transform((0, 0))[0] - radius
    assert max(t.get_window_extent().x1 for t in ax.get_yticklabels()) < left
    pyplot.close(ax.figure)
