"""The report: one self-contained HTML page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2

from art_classwise._files import written_aside
from art_classwise.audit.result import WORST_CASE, AuditResult
from art_classwise.report import figures
from art_classwise.report._text import percent

__all__ = ["render", "report_files", "write_report"]


def render(result: AuditResult) -> str:
    """Return the report of an audit as HTML that needs no other file and no network.

    Args:
        result: The audit.

    Returns:
        The page; names of classes, models and attacks are escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("art_classwise", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    csv = io.StringIO()
    result.by_class().to_csv(csv)
    return environment.get_template("page.html.j2").render(
        result=result,
        worst_case=WORST_CASE,
        models=[_model(result, name, f"m{i}-") for i, name in enumerate(result.models)],
        csv=base64.b64encode(csv.getvalue().encode()).decode(),
    )


def report_files(folder: Path) -> dict[str, Path]:
    """Return what :func:`write_report` writes, and the outcomes beside it, by what it is."""
    return {
        "report": folder / "report.html",
        "picture": folder / "by_class.png",
        "table": folder / "by_class.csv",
        "outcomes": folder / "shards",
    }


def write_report(result: AuditResult, folder: Path) -> None:
    """Write ``report.html``, ``by_class.png`` and ``by_class.csv`` into a folder.

    Args:
        result: The audit.
        folder: An existing folder.
    """
    files = report_files(folder)
    result.to_html(files["report"])
    with written_aside(files["picture"]) as aside:
        figures.to_png(figures.models_by_class(result), aside)
    result.to_csv(files["table"])


def _model(result: AuditResult, name: str, prefix: str) -> dict[str, Any]:
    rows = result.class_table(name).sort_values("robust", kind="stable", na_position="last")
    measured = rows[rows["n"] > 0]
    under = {attack: result.class_table(name, attack)["robust"] for attack in result.attacks}
    return {
        "name": name,
        "figure": figures.to_svg(figures.models_by_class(result, [name]), prefix),
        "classes": [
            {"name": label, **row, "under": [accuracies[str(label)] for accuracies in under.values()]}
            for label, row in rows.to_dict("index").items()
        ],
        "clean": measured["clean"].mean(),
        "robust": measured["robust"].mean(),
        "ties": int((measured["robust"] == measured["robust"].iloc[0]).sum()) - 1,
        "zero_gradient": {
            attack: float(rows["zero_gradient"].mean())
            for attack, rows in result.outcomes[result.outcomes["model"] == name].groupby("attack", observed=True)
        },
        "worst": {"name": measured.index[0], **measured.iloc[0].to_dict()},
        "best": {"name": measured.index[-1], **measured.iloc[-1].to_dict()},
    }
