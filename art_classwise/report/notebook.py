"""Results at the end of a notebook's cell and in a Python shell: what was found, and what to ask next.

Each result is a list of parts, lines and small tables, that are written as HTML or as plain text. The HTML is
self-contained, without scripts, takes the colours of the notebook, light or dark, and names in it are escaped.
"""

from __future__ import annotations

import base64
import io
import zlib
from dataclasses import replace
from functools import singledispatch
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from markupsafe import Markup

from art_classwise._core.words import more
from art_classwise.audit.comparison import Comparison
from art_classwise.audit.findings import Finding, Findings
from art_classwise.audit.result import AuditResult
from art_classwise.datasets import Dataset
from art_classwise.errors import InputError
from art_classwise.report.data import comparisons, report_data
from art_classwise.report.explorer import explorer
from art_classwise.report.tables import (
    Grid,
    classes_grid,
    difference,
    history_grid,
    interval,
    percent,
    plain_text,
    printable,
    shorten,
    summary_grid,
    template,
)
from art_classwise.report.terminal import comparison_grid, models_grid
from art_classwise.studies.class_exclusion import ExclusionResult
from art_classwise.studies.seeds import SeedSpread

__all__ = ["explorer", "html", "table_html", "text"]

_MOST = 20  # rows
_MOST_FINDINGS = 5
_DRAWN = 2  # models whose classes are drawn, side by side
_NAME = 24

Parts: TypeAlias = list[Grid | str]


def text(value: Any) -> str:
    """Return a result as plain text, 80 columns wide, for a Python shell."""
    return plain_text(*(part if isinstance(part, str) else part.rich() for part in _parts(value)))


def html(value: Any) -> str:
    """Return a result as HTML, for a notebook."""
    svg = classes_svg(value) if isinstance(value, AuditResult) and len(value.models) <= _DRAWN else ""
    images = example_images(value) if isinstance(value, Dataset) else []
    parts = [printable(part, keep="\n") if isinstance(part, str) else part for part in _parts(value)]
    shown = {"parts": parts, "svg": svg, "images": images, "side": _SIDE, "warning_sign": _SIGN}
    return template("display.html.j2").render(shown)


_SIGN = "! "


def table_html(table: pd.DataFrame, kind: str) -> str | None:
    """Return a table of classes, epochs or models as HTML; None if its columns are no longer those of one."""
    makers = {"classes": classes_grid, "history": history_grid, "models": summary_grid}
    try:
        grid = makers[kind](table)
    except (KeyError, TypeError, ValueError, IndexError):  # the caller has made something else of it
        return None
    return template("display.html.j2").render(table=grid)


@singledispatch
def _parts(value: Any) -> Parts:
    raise TypeError(f"There is no display for {type(value).__name__}.")


@_parts.register
def _(result: AuditResult) -> Parts:
    report = report_data(result)
    n, attacks, names = report.n_examples, report.attacks, report.order
    corruptions = len(attacks) - len(result.adversaries)
    under = f"{_several(len(result.adversaries), 'attack')} at {report.threat}" if result.adversaries else ""
    under += " and " * bool(under and corruptions) + (_several(corruptions, "corruption") if corruptions else "")
    headline = (
        f"{_several(len(names), 'model')} under {under}, "
        f"{_several(n, 'example')}{report.data}, {_several(len(report.classes), 'class')}"
    )
    rest = f"{more(len(names) - _MOST, 'model')}: .summary()" if len(names) > _MOST else ""
    parts: Parts = [headline, _first(models_grid(report)), rest, report.bound]
    if len(names) <= _MOST:
        parts.append(comparisons(result).verdict)
    parts += [_sentence(finding) for finding in report.findings[:_MOST_FINDINGS]]
    if len(report.findings) > _MOST_FINDINGS:
        parts.append(f"{more(len(report.findings) - _MOST_FINDINGS, 'finding')}: .findings")
    if not report.findings and not report.unchecked:
        parts.append("Nothing looks wrong.")
    parts.append(f"{report.checked} Each with its result: .checks")
    if report.unchecked:
        parts.append("Not all networks themselves were checked: .unchecked")
    if not report.finished:
        parts.append(f"{_SIGN}The audit isn't finished. {' '.join(report.missing)}")
    if report.corruptions is not None and len(names) == 1:
        parts.append(report.weakest_corruption(names[0]))
    calls = [".by_class()", f".worst_class({names[0]!r})", f".confusion({names[0]!r}, {result.attacks[-1]!r})"]
    calls += [".corruption_summary()"] if report.corruptions is not None else []
    pair = names if len(names) > 1 and result.adversaries else result.attacks
    calls += [f".compare({pair[0]!r}, {pair[1]!r})"] if len(pair) > 1 else []
    calls += [".explore()", ".to_html('report.html')"]
    return [part for part in (*parts, f"Ask next: {', '.join(calls)}") if part]


@_parts.register
def _(comparison: Comparison) -> Parts:
    mean, worst, table = comparison.mean, comparison.worst_class, comparison.by_class
    both = " ".join(difference(mean)).strip()
    lines = [
        f"{comparison.first} minus {comparison.second}, {comparison.about}: {both} points, mean over classes",
        f"Worst classes: {worst['first_class']} {percent(worst['first'])} and {worst['second_class']} "
        f"{percent(worst['second'])}, {' '.join(difference(worst)).strip()} points",
    ]
    differ = table.index[table["p_adjusted"] < 0.05]
    names = ", ".join(shorten(str(name), _NAME) for name in differ[:8]) + (", ..." if len(differ) > 8 else "")
    many = f"{len(differ)} of {len(table)} ({names})" if names else "none"
    lines.append(f"Classes that differ by more than chance: {many}")
    return [lines[0], "\n".join(lines[1:]), comparison_grid(comparison), "Ask next: .by_class, .table(), .to_csv(...)"]


@_parts.register
def _(result: ExclusionResult) -> Parts:
    names, attack = ", ".join(result.excluded[:8]), result.audit.attacks[0]
    more = f" and {len(result.excluded) - 8} more" if len(result.excluded) > 8 else ""
    headline = f"Trained without {names}{more}, in turn, and attacked by {attack} at {result.audit.threat}"
    table = result.homing(pooled=True)
    if table.empty:
        return [headline, "No example was pushed into an excluded class."]
    rows = [
        [
            shorten(str(label), _NAME),
            f"{row['n']:.0f}",
            interval(row["homed"], row["low"], row["high"]),
            interval(row["control_homed"], row["control_low"], row["control_high"]),
            " ".join(difference(_prefixed(row))).strip(),
        ]
        for label, row in table.head(_MOST).iterrows()
    ]
    notes = [
        "in %; homed: of the examples pushed into the class, those that withstand once it is excluded",
        "control: those that withstand once an unrelated class is excluded",
        "brackets: 95 % intervals",
    ]
    grid = Grid("", ("excluded", "moved", "homed", "control", "difference"), rows, notes, tight=True)
    return [headline, grid, "Ask next: .homing(), .homing(pooled=True), .audit, .histories, .to_csv(...)"]


@_parts.register
def _(spread: SeedSpread) -> Parts:
    robust = pd.DataFrame(spread.by_class.xs("robust", level="kind")).sort_values(
        "mean", kind="stable", na_position="last"
    )
    headline = f"{len(spread.models)} networks of one recipe under {spread.attack}: mean and spread over training seeds"
    measures = {"clean accuracy": "clean", "robust accuracy": "mean", "worst class": "worst", "gap": "mcd"}
    rows: list[tuple[str, Any]] = [(name, spread.summary.loc[measure]) for name, measure in measures.items()]
    rows += [(f"class {label}", row) for label, row in robust.head(5).iterrows()]
    cells = [
        [
            shorten(str(name), _NAME),
            interval(row["mean"], row["low"], row["high"]),
            percent(row["sd"]),
            f"{percent(row['min'])} to {percent(row['max'])}",
        ]
        for name, row in rows
    ]
    notes = ["in %, under attack unless clean", "brackets: 95 % t intervals of the mean over seeds, on these examples"]
    if len(robust) > 5:
        notes.append(f"the 5 weakest of {len(robust)} classes")
    grid = Grid("", ("", "mean", "sd", "from, to"), cells, notes, rules=frozenset([3]))
    return [headline, grid, "Ask next: .by_class, .summary"]


@_parts.register
def _(finding: Finding) -> Parts:
    return [_sentence(finding)]


@_parts.register
def _(findings: Findings) -> Parts:
    return list(map(_sentence, findings)) or ["Nothing looks wrong."]


@_parts.register
def _(data: Dataset) -> Parts:
    channels, height, width = data.input_shape
    counts = np.bincount(data.y, minlength=len(data.classes))
    least, most = counts[counts > 0].min(), counts.max()
    each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    absent = int((counts == 0).sum())
    parts: Parts = [
        f"{data.name} ({data.split}): {_several(len(data), 'image')} of {channels} x {height} x {width}, "
        f"{_several(len(data.classes), 'class')}, {each} of each" + (f", {absent} without examples" if absent else "")
    ]
    shown = [f"{shorten(name, _NAME)}: {n:,}" for name, n in zip(data.classes, counts, strict=True)]
    parts.append(", ".join(shown[:_MOST]) + (f" and {len(shown) - _MOST} more" if len(shown) > _MOST else ""))
    return parts


def _sentence(finding: Finding) -> str:
    return f"{_SIGN}{' '.join(str(finding).split())}"


def _first(grid: Grid) -> Grid:
    return replace(grid, rows=grid.rows[:_MOST])


def _several(n: int, word: str) -> str:
    return f"{n:,} {word if n == 1 else word + ('es' if word.endswith('s') else 's')}"


def _prefixed(row: pd.Series[Any]) -> dict[str, Any]:
    return {"difference": row["difference"], "low": row["difference_low"], "high": row["difference_high"]}


_MOST_EXAMPLES = 10
_SIDE = 48  # pixels


def classes_svg(result: AuditResult) -> Markup:
    """Return the class accuracies of all models of an audit as an SVG figure; nothing if there is nothing to draw."""
    from art_classwise.report import figures

    tables = b"".join(result.class_table(name).to_csv().encode(errors="replace") for name in result.models)
    prefix = f"acw{zlib.crc32(tables):08x}-"  # several displays stand on one page
    try:
        svg = figures.to_svg(figures.models_by_class(result), prefix)
    except InputError:  # no class has an example
        return Markup()
    return Markup(svg.replace("<svg ", '<svg style="max-width:100%;height:auto" role="img" ', 1))


def example_images(data: Dataset) -> list[tuple[str, str]]:
    """Return the first example of each of up to ten classes: name and PNG in base64; none if one can't be read."""
    from PIL import Image

    images = []
    for k in np.unique(data.y)[:_MOST_EXAMPLES]:
        try:
            pixels = data.x[int((data.y == k).argmax())]
        except InputError:  # a file that isn't readable: what uses the data says so
            return []
        if pixels.shape[0] not in (1, 3):
            return []
        levels = (255 * np.asarray(pixels)).round().astype(np.uint8).transpose(1, 2, 0)
        image = Image.fromarray(levels.squeeze(2) if levels.shape[2] == 1 else levels)
        image.thumbnail((2 * _SIDE, 2 * _SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "png")
        images.append((printable(shorten(data.classes[k], 10)), base64.b64encode(buffer.getvalue()).decode()))
    return images
