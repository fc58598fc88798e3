"""What the figures show, that it can be read, and what they refuse."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from results import HOSTILE, make_result

from art_classwise import InputError
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
    table = result.class_table("one").assign(robust=[0.2, 0.2, 0.5, np.nan], low=0.1, high=0.6)
    ax = class_accuracy(table)
    colors = [label.get_color() for label in ax.get_yticklabels()]
    assert colors[:2] == [WORST, WORST]
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
    table = pd.DataFrame({"n": [0], "clean": [np.nan], "robust": [np.nan], "low": [np.nan], "high": [np.nan]})
    with pytest.raises(InputError, match="nothing to draw"):
        class_accuracy(table)
