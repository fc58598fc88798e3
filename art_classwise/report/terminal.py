"""Tables for a terminal: an audit's, comparisons, leaderboards.

In a pipe or a file, where there are no columns to fit, they have all rows and columns, and names in full; unless the
environment's ``COLUMNS`` says how many there are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from art_classwise._core.console import UNLIMITED, console
from art_classwise._core.words import more
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.comparison import Comparison
from art_classwise.audit.requirements import Verdicts
from art_classwise.audit.result import AuditResult
from art_classwise.metrics.accuracy import Groups
from art_classwise.report.data import ModelData, ReportData, as_note, comparisons, report_data
from art_classwise.report.distances import distances_grid
from art_classwise.report.tables import (
    WIDTH,
    Grid,
    Marked,
    difference,
    interval,
    p_value,
    percent,
    printable,
    room,
    shorten,
)

__all__ = [
    "class_grid",
    "comparison_grid",
    "models_grid",
    "print_comparison",
    "print_groups",
    "print_leaderboard",
    "print_pairs",
    "print_places",
    "print_standings",
    "print_tables",
    "print_verdicts",
]

_MOST_CLASSES = 20
_MOST_MODELS = 6
_NAME_WIDTH = 16
_MODEL_WIDTH, _SHORT = 22, 10


def _most(limit: int, width: int) -> int:
    """Return how many of something there may be, where the width isn't limited."""
    return limit if width < UNLIMITED else sys.maxsize


def _free(heads: Sequence[str], rows: Sequence[Sequence[str]], most: int, width: int) -> int:
    """Return how many columns the names at the left of a tight table may have."""
    return room(heads, rows, most, tight=True) if width < UNLIMITED else sys.maxsize


def print_tables(result: AuditResult) -> None:
    """Print what an audit found; 80 columns wide where nothing says otherwise.

    A table per model, its worst classes first, of six models at most; a row per model, if there are several; and what
    looks wrong.
    """
    out, report = console(), report_data(result)
    if len(report.models) <= _most(_MOST_MODELS, out.width):
        for name in report.order:
            model = report.model(name)
            out.print(class_grid(report, model, out.width).rich())
            if model.distances is not None:
                out.print(distances_grid(name, model.distances, report.manifest.threat.norm, out.width).rich())
            if report.corruptions is not None:
                out.print(Text(printable(f"{name}: {report.weakest_corruption(name)}")))
    if len(report.models) > 1:
        out.print(models_grid(report, out.width).rich())
        out.print(Text(printable(comparisons(result).verdict)))
    _print_findings(report, out)


def print_groups(result: AuditResult, groups: Groups) -> None:
    """Print a row per group of classes and model, the weakest group first; within 80 columns.

    Args:
        result: The audit.
        groups: As for :meth:`AuditResult.by_group`.
    """
    out = console()
    table = result.by_group(groups)
    for name in result.models:
        of_model = pd.DataFrame(table.xs((name, result.overall)))
        rows = of_model.sort_values("robust", kind="stable", na_position="last")
        cells = [
            [
                shorten(printable(str(group)), _most(_MODEL_WIDTH, out.width)),
                str(int(row["n"])),
                interval(row["clean"], row["clean_low"], row["clean_high"]),
                (Marked if row["robust"] == rows["robust"].min() else str)(
                    interval(row["robust"], row["robust_low"], row["robust_high"])
                ),
            ]
            for group, row in rows.iterrows()
        ]
        title = f"{name}: groups, in % at {result.threat}"
        notes = ["an example counts as correct if its class is", "brackets: 95 % intervals"]
        out.print(Grid(title, ("group", "n", "clean", result.overall), cells, notes).rich())


def models_grid(report: ReportData, width: int = WIDTH) -> Grid:
    """Return a row per model, the most robust first.

    Args:
        report: The audit.
        width: Columns of the terminal; the table needs no more than 80.
    """
    heads = ("model", "clean", report.robust, "worst class", "held out", "gap")
    rows = [
        [
            printable(model.name),
            str(model.clean),
            str(model.robust),
            Marked(shorten(printable(model.worst_class), _most(_SHORT, width))),
            Marked(str(model.held_out)),
            percent(model.gap),
        ]
        for model in report.models
    ]
    free = _free(heads[1:], [row[1:] for row in rows], _MODEL_WIDTH, width)
    rows = [[shorten(name, free), *cells] for name, *cells in rows]
    notes = [
        "clean, robust: means over classes, all attacks"
        if report.overall == WORST_CASE
        else "clean, corrupted: means over classes, corruptions and severities",
        "held out: the worst class on examples it wasn't chosen on",
        "gap: best minus worst class",
        "brackets: 95 % intervals",
    ]
    what = _what(report)
    return Grid(f"Models: {what} in % {_at(report)}", heads, rows, notes, frozenset([3]), tight=True)


def _print_findings(report: ReportData, out: Console) -> None:
    if report.bound:
        out.print(Text(printable(report.bound)))
    out.print(Text(report.checked))
    for finding in report.findings:
        out.print(Text(f"! {printable(str(finding))}", "yellow"))
    if report.unchecked:
        which = "" if report.unchecked == report.order else f" of {', '.join(report.unchecked)}"
        out.print(Text(printable(f"The networks themselves{which} weren't checked (--checks).")))
    if report.findings or report.unchecked:
        out.print()


def class_grid(report: ReportData, model: ModelData, width: int) -> Grid:
    """Return a row per class of one model, the worst first, with as many attacks as there is room for.

    Args:
        report: The audit.
        model: The model.
        width: Columns of the terminal.
    """
    most = _most(_MOST_CLASSES, width)
    fixed = [
        [
            shorten(printable(row.name), _most(_NAME_WIDTH, width)),
            str(row.n),
            str(row.clean),
            str(row.robust),
        ]
        for row in model.classes[:most]
    ]
    free = room(("n", "clean", report.overall), [line[1:] for line in fixed], width, width=width)
    free -= max(cell_len(name) for name in ("class", *(line[0] for line in fixed)))
    needed = accumulate(3 + max(cell_len(attack), 5) for attack in report.attacks)
    shown = [attack for attack, so_far in zip(report.attacks, needed, strict=True) if so_far <= free]
    mean = str(model.robust)
    notes = [f"mean over classes, {report.overall}: {mean}", "brackets: 95 % intervals"]
    if report.worst_case and len(report.attacks) > 1:
        notes.append("each attack with those before it")
    if len(model.classes) > most:
        notes.append(f"{more(len(model.classes) - most, 'class')} in by_class.csv")
    what = "attack" if report.overall == WORST_CASE else "corruption"
    if len(shown) < len(report.attacks):
        notes.append(f"{more(len(report.attacks) - len(shown), what)} in by_class.csv")
    cells = [
        [*first, *map(percent, row.by_attack[: len(shown)]), last]
        for row, (*first, last) in zip(model.classes, fixed, strict=False)
    ]
    cells[0] = [Marked(cell) for cell in cells[0]]
    title = f"{model.name}: {_what(report)} in % {_at(report)}, worst class first"
    return Grid(title, ("class", "n", "clean", *shown, report.overall), cells, notes)


def _what(report: ReportData) -> str:
    return "quick estimate of accuracy" if report.is_estimate else "accuracy"


def _at(report: ReportData) -> str:
    return f"at {report.threat}" if report.overall == WORST_CASE else "under corruptions"


def print_verdicts(verdicts: Verdicts) -> None:
    """Print what came of requirements, a sentence each, those that aren't met last."""
    out = console()
    colours = {"met": "green", "not met": "bold red", "not judged": "bold red"}
    for one in sorted(verdicts, key=lambda one: not one.met):
        state, _, rest = str(one).partition(":")
        out.print(Text.assemble((f"{state}:", colours[state]), printable(rest)))
    out.print()


_MOST_ROWS = 20
# At most, in cells of the terminal: "all attacks", which may stand at the head of a column, has 11.
_CLASS, _NAME, _PAIR = 14, 11, 24


def print_comparison(comparison: Comparison) -> None:
    """Print a row per class, the worst first, then the totals; within 80 columns."""
    out = console()
    out.print(comparison_grid(comparison, out.width).rich())


def comparison_grid(comparison: Comparison, width: int = WIDTH) -> Grid:
    """Return a row per class, the worst first, then the totals.

    Args:
        comparison: The two.
        width: Columns of the terminal; the table needs no more than 80.
    """
    one, other = (_heading(name, _most(_NAME, width)) for name in (comparison.first, comparison.second))
    if one == other:  # as long names that differ in the middle are
        one, other = "first", "second"
    by_class = comparison.by_class
    lowest = by_class[["first", "second"]].min(axis=1)
    rows = by_class.loc[lowest.sort_values(kind="stable", na_position="last").index]
    notes = [
        f"in %; difference: {one} minus {other}",
        f"intervals: {100 * comparison.confidence:g} %, each for itself",
        "p: adjusted for all classes",
        *_with_those_before(comparison),
    ]
    worst = comparison.worst_class
    lows = [_heading(worst[f"{side}_class"], _most(_CLASS, width)) for side in ("first", "second")]
    if worst["first_class"] != worst["second_class"]:
        notes.append(f"worst class: {lows[0]} of {one}, {lows[1]} of {other}")
    most = _most(_MOST_ROWS, width)
    if len(rows) > most:
        notes.append(more(len(rows) - most, "class"))
    shown = rows.head(most)
    lines = [[f"{row['n']:.0f}", *_values(row), p_value(row["p_adjusted"])] for _, row in shown.iterrows()]
    totals = {
        "all examples": [f"{comparison.n}", *_values(comparison.overall), p_value(comparison.overall["p"])],
        "class means": ["", *_values(comparison.mean), ""],
        "worst class": ["", *_values(worst), ""],
    }
    heads = ("n", one, other, "difference", "p")
    free = _free(heads, [*lines, *totals.values()], _CLASS, width)
    named = []
    for label, (n, first, second, *rest) in zip(shown.index, lines, strict=True):
        marks = [Marked if label == worst[f"{side}_class"] else str for side in ("first", "second")]
        named.append([_heading(label, free), n, marks[0](first), marks[1](second), *rest])
    title = f"{comparison.first} and {comparison.second}: {comparison.about}"
    cells = named + [[name, *line] for name, line in totals.items()]
    rules = frozenset([len(named) - 1])
    return Grid(title, ("worst first", *heads), cells, notes, rules=rules, tight=True)


def print_pairs(table: pd.DataFrame, comparisons: Sequence[Comparison]) -> None:
    """Print a row per pair, as :func:`art_classwise.audit.comparison_table` has them; within 80 columns."""
    out = console()
    most = _most(_MOST_ROWS, out.width)
    notes = [
        "in %; differences: upper name minus lower",
        f"brackets: {100 * comparisons[0].confidence:g} % intervals, each for itself",
        "p: of all examples, adjusted for all pairs",
        *_with_those_before(comparisons[0]),
    ]
    if len(table) > most:
        notes.append(more(len(table) - most, "pair"))
    lines = []
    for _, row in table.head(most).iterrows():
        means = {key: row[f"mean_{key}"] for key in ("difference", "low", "high")}
        (value, interval), (mean, around) = difference(row), difference(means)
        worst = [
            f"{_heading(row[f'{side}_worst_class'], _most(11, out.width))} {percent(row[f'{side}_worst']):>5}"
            for side in ("first", "second")
        ]
        lines += [[value, p_value(row["p_adjusted"]), mean, worst[0]], [interval, "", around, worst[1]]]
    heads = ("all examples", "p", "class means", "worst classes")
    width = room(
        heads,
        lines,
        _most(_PAIR, out.width),
        width=out.width if out.width >= UNLIMITED else WIDTH,
        tight=True,
    )
    about = printable(comparisons[0].about)
    shown = Grid(f"{about[0].upper()}{about[1:]}", ("pair", *heads), (), notes, tight=True).rich()
    names = [name for pair in comparisons[:most] for name in (pair.first, pair.second)]
    for place, (name, line) in enumerate(zip(names, lines, strict=True)):
        # In full, over several lines if need be: shortened, names may look alike.
        parts = Text(printable(name)).wrap(out, width, overflow="fold")
        shown.add_row(Text("\n").join(parts), *map(Text, line), end_section=place % 2 == 1)
    out.print(shown)


def print_standings(table: pd.DataFrame, about: str) -> None:
    """Print each model beside the best of the others, by its mean and by its worst class; within 80 columns.

    Args:
        table: What :meth:`AuditResult.compare_with_best` returns for each measure, indexed by measure and model.
        about: What is compared.
    """
    out = console()
    measures = {"mean": "mean over classes", "worst": "worst class"}
    notes = [
        "in %; difference: from the best of the other models",
        "p: of being one of the best",
        "intervals (95 %), p and ranks hold for all models at once",
    ]
    heads = ("accuracy", "difference", "p", "rank")
    for measure, title in measures.items():
        rows = []
        for name, row in table.loc[measure].head(_most(_MOST_ROWS, out.width)).iterrows():
            apart = row[["difference", "difference_low", "difference_high"]].set_axis(["difference", "low", "high"])
            rank = f"{row['rank']:.0f} ({row['all_ranks_low']:.0f}–{row['all_ranks_high']:.0f})"
            accuracy = interval(row["accuracy"], row["accuracy_low"], row["accuracy_high"])
            rows.append([printable(str(name)), accuracy, " ".join(difference(apart)), p_value(row["p_adjusted"]), rank])
        width = _free(heads, [cells for _, *cells in rows], _PAIR, out.width)
        rows = [[shorten(name, width), *cells] for name, *cells in rows]
        last = notes if measure == "worst" else []
        out.print(Grid(f"{title}, {about}", ("model", *heads), rows, last, tight=True).rich())


def _with_those_before(comparison: Comparison) -> list[str]:
    nested = comparison.worst_case and comparison.attack != WORST_CASE and comparison.kind == "robust"
    return ["each attack with those before it"] if nested else []


def _heading(name: object, length: int) -> str:
    return shorten(printable(str(name)), length)


def _values(row: pd.Series[float]) -> list[str]:
    """Write the accuracies of two and their difference with its interval."""
    return [percent(row["first"]), percent(row["second"]), " ".join(difference(row)).strip()]


_NUMBERS = 31  # columns of clean, robust and here


def print_leaderboard(table: pd.DataFrame, title: str, model_dir: Path, bound: str = "") -> None:
    """Print the models, the most robust first; within 80 columns.

    Args:
        table: Of :func:`art_classwise.zoo.robustbench_table` or :func:`art_classwise.studies.beside_measured`.
        title: Above it.
        model_dir: Where weights are looked for.
        bound: What :func:`art_classwise.report.data.upper_bounds` says of the audit that was measured.
    """
    out = console()
    measured = "measured_clean" in table
    narrow = (measured and out.width < UNLIMITED) or out.width < 80
    notes = ["published accuracy in %, under AutoAttack or the leaderboard's corruptions", "–: nothing published"]
    if measured:
        notes += ["measured: over all examples, under all attacks, with 95 % intervals", "!: published lies outside"]
        notes += [f"measured robust: {as_note(bound)}"] if bound else []
    else:
        notes.append("here: whether the weights are on this machine")
    shown = Table(title=Text(title, "bold"), caption=Text("; ".join(notes)), box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ["clean", "robust", *(("measured clean", "measured robust", "") if measured else ("here",))]
    shown.add_column("model", no_wrap=True)
    if not narrow:
        shown.add_column("architecture", no_wrap=True)
    for column in columns:
        shown.add_column(column, justify="right")
    room = max(10, out.width - _NUMBERS - max((len(str(name)) for name in table.index), default=0))
    for name, row in table.iterrows():
        what = [] if narrow else [Text(shorten(printable(str(row["architecture"] or "–")), room))]
        # Names in full: they are there to be typed.
        shown.add_row(Text(printable(str(name))), *what, percent(row["clean"]), percent(row["robust"]), *_last(row))
    if len(table):
        out.print(shown)
    if not measured:
        here = int(table["here"].sum())
        out.print(Text(f"the weights of {here} models are in {printable(str(model_dir.absolute()))}"))


_NEIGHBOURS = 3


def print_places(places: pd.DataFrame, board: pd.DataFrame, title: str) -> None:
    """Print which places models have on a leaderboard, and those around them; within 80 columns.

    Args:
        places: Of :func:`art_classwise.studies.place_on_board`.
        board: Of :func:`art_classwise.zoo.robustbench_board`.
        title: Above it.
    """
    out = console()
    for name, row in places.iterrows():
        low, high = _ordinal(int(row["rank_low"])), _ordinal(int(row["rank_high"]))
        robust = interval(row["robust"], row["robust_low"], row["robust_high"])
        place = f"{_ordinal(int(row['rank']))} of {row['entries']}, between {low} and {high}"
        out.print(Text(printable(f"{name}: {place}; {robust} % robust")))
    own = [name for name in places["published"] if name]
    others = board.drop(index=own).assign(measured=False)
    both = pd.concat([others, places.assign(ranked=places["robust"], measured=True)])
    both = both.sort_values(["ranked", "measured"], ascending=False, kind="stable")
    mine = both["measured"].to_numpy(bool)
    near = {i + step for i in mine.nonzero()[0].tolist() for step in range(-_NEIGHBOURS, _NEIGHBOURS + 1)}
    rows: list[list[str]] = []
    before, width = -1, _most(40, out.width)
    for i in sorted(near & {*range(len(both))}) if out.width < UNLIMITED else range(len(both)):
        if i > before + 1:
            rows.append(["…", "", "", ""])
        one = both.iloc[i]
        name = shorten(printable(str(both.index[i])), width)
        cells = [str(int(one["rank"])), name, percent(one["clean"]), percent(one["ranked"])]
        rows.append([Marked(cell) for cell in cells] if mine[i] else cells)
        before = i
    if before + 1 < len(both):
        rows.append(["…", "", "", ""])
    notes = [
        "accuracy in %, under AutoAttack or what broke more",
        f"{len(board)} published models with their ranks",
        "between: 95 %, for all comparisons at once",
    ]
    out.print(Grid(title, ("rank", "model", "clean", "robust"), rows, notes, frozenset([1])).rich())


def _ordinal(number: int) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ends.get(number % 10, 'th')}"


def _last(row: pd.Series[Any]) -> list[str]:
    if "measured_clean" not in row:
        return ["yes" if row["here"] else ""]
    ends = [[f"measured_{kind}{end}" for end in ("", "_low", "_high")] for kind in ("clean", "robust")]
    return [*(interval(*row[columns]) for columns in ends), "!" if row["differs"] else ""]
