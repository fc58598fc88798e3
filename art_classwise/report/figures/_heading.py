"""What stands above the axes and below them: title, finding, legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.transforms import ScaledTranslation

from art_classwise.report.figures._names import SMALL, fit, fold, text_width
from art_classwise.report.figures._style import GAP, MEAN, points, slot

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["caption"]

_TITLE_CELLS = 60


def caption(
    ax: Axes,
    title: str,
    *findings: str,
    legend: Mapping[str, Artist] | None = None,
    left: float = 0.0,
    right: float = 0.0,
) -> None:
    """Write the title above the axes, under it what is to be seen, and a legend below; fold what stands along the axes.

    The labels of the axes are set before: the legend stands below the lines that these take.

    Args:
        ax: The axes.
        title: One line; cut in the middle where it is too long.
        findings: Each begins a line, and goes on in the next one where it is too long.
        legend: What is drawn, by what it is.
        left: The width of the names on the left, in points: the text begins above them, the legend may stand under
            them.
        right: The width of the names on the right: likewise.
    """
    wider = max(left, right)  # labels and legend may reach under the names on the other side
    _fold_labels(ax, wider)
    _write_heading(ax, title, findings, left, right)
    if legend:
        _write_legend(ax, legend, wider, to_the_right=right > left)


def _fold_labels(ax: Axes, names: float) -> None:
    """Fold the labels of both axes where they are longer than these."""
    width, height = slot(ax, names)
    for axis, room in ((ax.xaxis, width), (ax.yaxis, height)):
        # Their letters are larger than those of names.
        axis.set_label_text("\n".join(fold(axis.get_label().get_text(), SMALL * room)))


def _write_heading(ax: Axes, title: str, findings: Sequence[str], left: float, right: float) -> None:
    room = slot(ax, left + right)[0] + left + right
    texts = [finding.replace(" %", "\N{NO-BREAK SPACE}%") for finding in findings if finding]
    lines = [line for text in texts for line in fold(text, room)]
    shift = -(left + points(GAP)) if left else 0.0
    if lines:
        ax.annotate(
            "\n".join(lines),
            (0, 1),
            xycoords="axes fraction",
            xytext=(shift, points(0.5)),
            textcoords="offset points",
            va="bottom",
            fontsize=points(SMALL),
            color=MEAN,
            linespacing=1.2,
        )
    if title:
        figure = ax.figure
        assert figure is not None
        text = ax.set_title(
            fit(title, room, 1, _TITLE_CELLS),
            loc="left",
            fontsize=points(1),
            fontweight="bold",
            pad=points(0.7 + 1.4 * SMALL * len(lines)),
        )
        text.set_transform(text.get_transform() + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans))


def _write_legend(ax: Axes, entries: Mapping[str, Artist], names: float, *, to_the_right: bool) -> None:
    """Put a legend under the label of the x axis and under names of this width, in as many columns as fit."""
    figure = ax.figure
    assert figure is not None
    more_lines = ax.get_xlabel().count("\n")
    widths = [text_width(text, bold=False) + points(4.5) for text in entries]
    room = slot(ax, names)[0] + names
    columns = max(int(room / max(widths)), 1) if sum(widths) > room else len(widths)
    down = ScaledTranslation(0, -points(3.7 + 1.2 * more_lines) / 72, figure.dpi_scale_trans)
    ax.legend(
        entries.values(),
        [f" {text}" if text.startswith("_") else text for text in entries],  # which would hide it
        loc="upper left" if to_the_right else "upper right",
        bbox_to_anchor=(0.0 if to_the_right else 1.0, 0.0),
        bbox_transform=ax.transAxes + down,
        ncols=columns,
        frameon=False,
        fontsize=points(SMALL),
        borderaxespad=0,
    )
