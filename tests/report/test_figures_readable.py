"""Figures can be read: no text over text, whatever the names and however many classes; and nothing else changes."""

from __future__ import annotations

import warnings
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from pictures import FIGURES

from art_classwise.report.figures import models_by_class
from art_classwise.report.figures.layout import ROBUST, WORST, no_wider_than


@pytest.fixture(autouse=True)
def closed():
    """Boxes stand for letters that the font lacks, which matplotlib warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
    pyplot.close("all")


def texts(figure):
    """The texts that are seen, with their boxes, shrunk by a pixel."""
    FigureCanvasAgg(figure).draw()
    shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    boxes = [(t, Text.get_window_extent(t)) for t in shown]
    ticks = {id(t) for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) for t in axis.get_minorticklabels()}
    # Ticks outside of the limits have labels that are not drawn.
    for ax in figure.axes:
        for axis, limits in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
            for tick in axis.get_major_ticks():
                if not limits[0] - 1e-9 <= tick.get_loc() <= limits[1] + 1e-9:
                    ticks |= {id(tick.label1), id(tick.label2)}
    return [(t, box) for t, box in boxes if id(t) not in ticks and box.width > 0]


def overlaps(figure):
    return overlapping(texts(figure))


def overlapping(shown):
    def over(a, b):
        return min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1

    return [(a.get_text(), b.get_text()) for (a, box), (b, other) in combinations(shown, 2) if over(box, other)]


@pytest.mark.parametrize(
    ("n_classes", "long"), [(2, True), (10, False), (10, True), (100, True), (1000, True)], ids=str
)
@pytest.mark.parametrize("name", FIGURES)
def test_no_text_lies_over_another_or_beyond_the_edge(name, n_classes, long):
    ax = FIGURES[name](n_classes, long, title="A title that goes on and on, $x$, about what is shown in this figure")
    figure = ax.figure
    figure.set_dpi(50)
    shown = texts(figure)
    assert overlapping(shown) == []
    for text, box in shown:
        outside = max(-box.x0, -box.y0, box.x1 - figure.bbox.width, box.y1 - figure.bbox.height)
        assert outside <= 1, text.get_text()
    assert figure.get_size_inches().max() < 15


ON_THE_PAGE = ("class_accuracy", "class_by_attack", "confusion", "compared", "class_histogram")


@pytest.mark.parametrize(("n_classes", "long"), [(2, True), (10, False), (10, True), (100, True)], ids=str)
@pytest.mark.parametrize("name", ON_THE_PAGE)
def test_figures_of_the_page_can_be_read_on_a_telephone(name, n_classes, long):
    with no_wider_than(3.9):
        figure = FIGURES[name](n_classes, long).figure
    assert figure.get_size_inches()[0] <= 3.9
    shown = texts(figure)
    assert overlapping(shown) == []
    for text, box in shown:
        outside = max(-box.x0, -box.y0, box.x1 - figure.bbox.width, box.y1 - figure.bbox.height)
        assert outside <= 1, text.get_text()


@pytest.mark.parametrize("name", FIGURES)
def test_given_axes_are_drawn_on_and_nothing_else_changes(name):
    """Four axes in a figure, one of them drawn on: the others, the figure and pyplot stay as they were."""
    figure = Figure(figsize=(10, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    others = [ax for ax in figure.axes if ax is not axes[0, 1]]
    before = [len(figure.get_children()), *(len(ax.get_children()) for ax in others), pyplot.get_fignums()]
    settings = dict(mpl.rcParams)
    assert FIGURES[name](30, True, axes[0, 1], title="a title") is axes[0, 1]
    after = [len(figure.get_children()), *(len(ax.get_children()) for ax in others), pyplot.get_fignums()]
    assert after == before
    assert figure.axes == list(axes.flat)
    assert figure.get_size_inches().tolist() == [10, 8]
    assert dict(mpl.rcParams) == settings
    assert all(ax.get_title(loc) == "" for ax in others for loc in ("left", "center", "right"))
    assert overlaps(figure) == []


def test_models_side_by_side_do_not_overlap():
    from pictures import result

    for n_classes in (2, 10, 1000):
        figure = models_by_class(result(n_classes))
        figure.set_dpi(50)
        assert overlaps(figure) == [], n_classes


@pytest.mark.parametrize("name", FIGURES)
def test_letters_may_be_larger(name):
    """In talks, and in notebooks with a style of their own."""
    with mpl.rc_context({"font.size": 16}):
        figure = FIGURES[name](30, True, title="a title").figure
        figure.set_dpi(50)
        assert overlaps(figure) == []


def test_worst_and_other_classes_are_told_apart_by_all_eyes():
    """Their distance in CIELAB stays large under simulated colour blindness (Machado et al. 2009, severity 1)."""
    matrices = {
        "protanopia": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        "tritanopia": [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
        "none": np.eye(3),
    }

    def lab(colour, matrix):
        c = np.array(mpl.colors.to_rgb(colour))
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        seen = np.clip(np.array(matrix) @ linear, 0, 1)
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
        f = np.cbrt(xyz / [0.9505, 1, 1.089])
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    for kind, matrix in matrices.items():
        assert np.linalg.norm(lab(WORST, matrix) - lab(ROBUST, matrix)) > 25, kind
