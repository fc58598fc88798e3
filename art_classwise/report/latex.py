r"""Tables for LaTeX, as booktabs and longtable set them: ``\usepackage{booktabs,longtable}``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from art_classwise._core.console import UNLIMITED
from art_classwise.audit import AuditResult, Comparison
from art_classwise.errors import printable
from art_classwise.report.data import as_note, report_data
from art_classwise.report.radii import radii_grid
from art_classwise.report.tables import Grid
from art_classwise.report.terminal import class_grid, comparison_grid, models_grid
from art_classwise.studies.radii import RadiusSweep

__all__ = ["latex"]

_LONG = 40  # rows: more may not fit on a page
# What LaTeX takes for something else; "[" and "*" after the end of a row, and the others in some fonts.
_ESCAPES = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}", "*": "{*}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"},
    **{"–": "--", "\N{MINUS SIGN}": "$-$", "…": r"\dots{}", "±": r"$\pm$"},
}


def latex(value: AuditResult | Comparison | RadiusSweep) -> str:
    """Return the tables of an audit, a comparison, or audits over radii: all rows and columns, names in full."""
    roots = "".join(f"% root digest {root}\n" for root in getattr(value, "roots", ()))
    return roots + "\n".join(_table(grid) for grid in _grids(value))


def _grids(value: Any) -> list[Grid]:
    if isinstance(value, Comparison):
        return [comparison_grid(value, UNLIMITED)]
    if isinstance(value, RadiusSweep):
        return [radii_grid(value, UNLIMITED)]
    report = report_data(value)
    bound = as_note(report.bound)
    by_class = [
        _noted(class_grid(report, model, UNLIMITED), bound if model.is_bound else "")
        for model in map(report.model, report.order)
    ]
    return [_noted(models_grid(report, UNLIMITED), bound), *by_class]


def _noted(grid: Grid, note: str) -> Grid:
    """Say below a table, which will stand alone, what the terminal says once for all."""
    return replace(grid, notes=[*grid.notes, note]) if note else grid


def _table(grid: Grid) -> str:
    columns = "".join("l" if grid.is_text(number) else "r" for number in range(len(grid.heads)))
    caption = _escaped(f"{'; '.join(part for part in (grid.title, *grid.notes) if part)}.")
    head = f"{_row(grid.heads)}\n\\midrule"
    body = [
        _row(row, grid) + ("\n\\midrule" if number in grid.rules and number + 1 < len(grid.rows) else "")
        for number, row in enumerate(grid.rows)
    ]
    if len(grid.rows) > _LONG:
        begin = [f"\\begin{{longtable}}{{{columns}}}", f"\\caption{{{caption}}}\\\\", "\\toprule", head, "\\endhead"]
        lines = [*begin, "\\bottomrule", "\\endlastfoot", *body, "\\end{longtable}"]
    else:
        begin = ["\\begin{table}", "\\centering", f"\\caption{{{caption}}}", f"\\begin{{tabular}}{{{columns}}}"]
        lines = [*begin, "\\toprule", head, *body, "\\bottomrule", "\\end{tabular}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def _row(cells: Any, grid: Grid | None = None) -> str:
    written = []
    for cell in cells:
        text = _escaped(cell)
        written.append(f"\\textbf{{{text}}}" if grid is not None and grid.is_marked(cell) else text)
    return f"{' & '.join(written)} \\\\"


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(c, c) for c in printable(text))
