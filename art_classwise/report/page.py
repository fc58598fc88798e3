"""The report: one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from art_classwise._core.files import written_aside
from art_classwise.audit.result import WORST_CASE, AuditResult
from art_classwise.report import _views, figures
from art_classwise.report._views import downloads
from art_classwise.report.tables import template

__all__ = ["render", "report_files", "write_report"]

_MOST_DRAWN = 20  # models: three figures of each take 100 kB and a second


def render(result: AuditResult) -> str:
    """Return the report of an audit as HTML that needs no other file and no network.

    The tables can be sorted and searched (by DataTables, which stands within the page); without scripts they can be
    read all the same.

    Args:
        result: The audit.

    Returns:
        The page; names of classes, models and attacks are escaped.
    """
    summary = result.summary()
    models = _views.models(result, summary)
    comparisons, why = _views.compared(result, [model["name"] for model in models])
    script = _script()
    return template("page.html.j2").render(
        result=result,
        manifest=result.manifest,
        worst_case=WORST_CASE,
        models=models,
        figures={model["key"]: _views.drawn(result, model) for model in models[:_MOST_DRAWN]},
        findings=_views.grouped(result.findings),
        pairs=_views.pairwise(comparisons),
        incomparable=why,
        attacks=[(name, *_views.described(attack.parameters)) for name, attack in result.manifest.attacks.items()],
        snippet=_views.snippet(result),
        downloads=downloads(result, summary, comparisons),
        style=Markup(_asset("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
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


def _asset(name: str) -> str:
    return (files("art_classwise.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    """Return the page's script: DataTables as itables carries it, in a data URL, and what uses it."""
    bundle = (files("itables") / "html" / "dt_bundle.js").read_bytes()
    source = f"data:text/javascript;base64,{base64.b64encode(bundle).decode()}"
    return f'import DataTable from "{source}";\n{_asset("page.js")}'
