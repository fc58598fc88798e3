"""Audits over radii: their table and figure."""

from __future__ import annotations

import os
import sys

from art_classwise._core.console import UNLIMITED, console
from art_classwise._core.files import contents
from art_classwise._core.folders import open_folder
from art_classwise.errors import WriteError, first_line
from art_classwise.report import figures
from art_classwise.report.data import as_note, upper_bounds
from art_classwise.report.tables import Grid, Marked, interval, percent, printable, shorten
from art_classwise.studies.norms import NormUnion
from art_classwise.studies.radii import TABLE, RadiusSweep

__all__ = ["print_radii", "radii_grid", "radius_files", "write_radii"]

_PICTURE = "radii.png"
_UNION, _BY_CLASS = "norms.csv", "norms_by_class.csv"


def radius_files(sweep: RadiusSweep, place: str | os.PathLike[str]) -> dict[str, str]:
    """Return where :func:`write_radii` writes what, by kind."""
    folder = open_folder(place)
    if isinstance(sweep, NormUnion):
        return {"table": folder.where(_UNION), "classes": folder.where(_BY_CLASS)}
    return {"table": folder.where(TABLE), "picture": folder.where(_PICTURE)}


def write_radii(sweep: RadiusSweep, place: str | os.PathLike[str]) -> None:
    """Write ``radii.csv``, the table of a sweep, and ``radii.png``, its figure.

    Of audits in several norms, ``norms.csv`` and ``norms_by_class.csv``.

    Args:
        sweep: The audits.
        place: A folder, or an address such as ``"s3://bucket/audit"``.

    Raises:
        WriteError: They can't be written.
    """
    from matplotlib import pyplot

    folder = open_folder(place)
    try:
        if isinstance(sweep, NormUnion):
            union = sweep
            tables = {_UNION: sweep.to_csv, _BY_CLASS: lambda path: union.by_class().to_csv(path)}
            for name, content in contents(tables).items():
                folder.write(name, content)
            return
        ax = figures.models_by_radius(sweep.results)
        made = contents({TABLE: sweep.to_csv, _PICTURE: lambda path: figures.save(ax, path)})
        pyplot.close(ax.get_figure(root=True))
        for name, content in made.items():
            folder.write(name, content)
    except OSError as error:
        raise WriteError(f"Table and figure can't be written to {folder.address}: {first_line(error)}.") from error


def print_radii(sweep: RadiusSweep) -> None:
    """Print a row per model and radius, or norm; within 80 columns."""
    out = console()
    out.print(radii_grid(sweep, out.width).rich())


def radii_grid(sweep: RadiusSweep, width: int) -> Grid:
    """Return a row per model and radius, or norm.

    Args:
        sweep: The audits.
        width: Columns of the terminal; the table needs no more than 80.
    """
    cut = (22, 14) if width < UNLIMITED else (sys.maxsize, sys.maxsize)  # of names
    union = isinstance(sweep, NormUnion)
    rows: list[list[str]] = []
    before = None
    for row in sweep.table().reset_index().to_dict("records"):
        model, threat = str(row["model"]), str(row["threat"])
        rows.append(
            [
                "" if model == before else shorten(printable(model), cut[0]),
                threat if union else threat.partition(":")[2],
                interval(row["mean"], row["mean_low"], row["mean_high"]),
                shorten(printable(str(row["worst_class"])), cut[1]),
                Marked(percent(row["worst"])),
            ]
        )
        before = model
    each = "norm" if union else "radius"
    notes = [f"mean over classes, and the worst class of each {each}, under all attacks", "brackets: 95 % intervals"]
    ends = frozenset(i - 1 for i, row in enumerate(rows) if i and row[0])
    notes += _bounds(sweep)
    estimated = all(result.is_quick_estimate for result in sweep.results)
    title = f"{'Quick estimate of robust' if estimated else 'Robust'} accuracy in % by {each}"
    title += "" if union else f" ({sweep.results[0].threat.norm})"
    heads = ("model", "threat" if union else "radius", "robust", "worst class", "worst")
    return Grid(title, heads, rows, notes, frozenset([3]), rules=ends, tight=True)


def _bounds(sweep: RadiusSweep) -> list[str]:
    """Return what says of which audits robust accuracies are upper bounds: a note for all, or one for each."""
    told = {str(result.threat): as_note(upper_bounds(result)) for result in sweep.results}
    if len({*told.values()}) == 1:
        return [note for note in told.values() if note][:1]
    return [f"{threat}: {note}" for threat, note in told.items() if note]
