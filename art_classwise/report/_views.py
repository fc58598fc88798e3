"""What the page shows of a result, and what can be downloaded from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.comparison import Comparison, comparison_table
from art_classwise.audit.findings import Finding
from art_classwise.audit.result import AuditResult
from art_classwise.datasets.load import DATASETS
from art_classwise.errors import InputError
from art_classwise.report import figures
from art_classwise.report.tables import percent, shorten

__all__ = ["Download", "compared", "described", "downloads", "drawn", "grouped", "models", "pairwise", "snippet"]

_MANY_CLASSES = 20  # more of them: how many lie where says more than each one's bar


def models(result: AuditResult, summary: pd.DataFrame) -> list[dict[str, Any]]:
    """Return what there is to show of each model, the most robust first.

    Args:
        result: The audit.
        summary: Its :meth:`~art_classwise.AuditResult.summary`.
    """
    still = result.outcomes.groupby(["model", "attack"], observed=True)["zero_gradient"].mean()
    ranked = summary.sort_values("mean", ascending=False, kind="stable")
    rows: dict[str, dict[str, Any]] = {str(name): dict(row) for name, row in ranked.iterrows()}
    return [
        {"key": f"m{place}", "place": place, **row, **_classes(result, name), "zero": still[name].to_dict()}
        for place, (name, row) in enumerate(rows.items(), start=1)
    ]


def _classes(result: AuditResult, name: str) -> dict[str, Any]:
    """Return the classes of one model, the worst first, and those it hangs on."""
    table = result.class_table(name).sort_values("robust", kind="stable", na_position="last")
    under = [result.class_table(name, attack)["robust"] for attack in result.attacks]
    measured = table[table["n"] > 0]
    lowest = measured.index[measured["robust"] == measured["robust"].iloc[0]]
    return {
        "name": name,
        "classes": [
            {"name": label, "n": int(n), **row, "under": [accuracies[label] for accuracies in under]}
            for label, n, row in zip(table.index, table["n"], table.drop(columns="n").to_dict("records"), strict=True)
        ],
        "lowest": list(lowest),
        "best_class": measured.index[-1],
        "best": float(measured["robust"].iloc[-1]),
        "strip": strip(measured["robust"]),
    }


def strip(accuracies: pd.Series[float]) -> dict[str, Any]:
    """Return a line per class on a scale from 0 to 100, as the path of an SVG, and where the worst and the mean lie."""
    at = (100 * accuracies).round(1)
    path = "".join(f"M{value:g} 3v10" for value in at.unique())
    return {"path": path, "worst": float(at.min()), "mean": float(at.mean())}


def drawn(result: AuditResult, model: dict[str, Any]) -> list[dict[str, str]]:
    """Return the figures of one model as SVG, each with a title and what it shows, in words."""
    name = model["name"]
    table = result.class_table(name)
    measured = int((table["n"] > 0).sum())
    matrix = result.confusion(name, WORST_CASE)
    pictures: dict[str, tuple[str, Callable[[Axes | None], Axes]]] = {
        "classes": ("Robust accuracy by class, all attacks", lambda ax: figures.class_accuracy(table, ax)),
    }
    if len(result.attacks) > 1:
        pictures["attacks"] = (
            "Accuracy by class and attack",
            lambda ax: figures.class_by_attack(result.by_attack(name), ax),
        )
    pictures["confusion"] = ("What attacked examples are taken for", lambda ax: figures.confusion(matrix, ax))
    if measured > _MANY_CLASSES:
        pictures["histogram"] = ("How many classes are how robust", lambda ax: figures.class_histogram(table, ax))
    said = {
        "classes": f"worst {model['worst_class']}, {percent(model['worst'])} %, best {model['best_class']}, "
        f"{percent(model['best'])} %; the table below holds the numbers",
        "histogram": f"{measured} classes, mean {percent(model['mean'])} %",
        "attacks": "the table below holds the numbers",
        "confusion": "the download confusion.csv holds the numbers",
    }
    return [
        {
            "title": title,
            "label": f"Figure of {name}: {title}",
            "alt": f"{name}: {title}; {said[kind]}.",
            "svg": svg(draw, f"{model['key']}-{kind}-"),
        }
        for kind, (title, draw) in pictures.items()
    ]


def svg(draw: Callable[[Axes | None], Axes], prefix: str) -> str:
    """Draw a figure of its own size and return it as an SVG element."""
    from matplotlib import pyplot

    with pyplot.rc_context({"interactive": False}):
        figure = draw(None).figure
        assert isinstance(figure, Figure)
        try:
            return figures.to_svg(figure, prefix)
        finally:
            pyplot.close(figure)


def compared(result: AuditResult, ranked: Sequence[str]) -> tuple[list[Comparison], str]:
    """Return the most robust model compared with each other one, and why some can't be.

    Args:
        result: The audit.
        ranked: Names of its models, the most robust first.
    """
    comparisons, why = [], ""
    for other in ranked[1:]:
        try:
            comparisons.append(result.compare(ranked[0], other, attack=WORST_CASE))
        except InputError as error:  # an unfinished audit's models may have other examples
            why = str(error)
    return comparisons, why


def pairwise(comparisons: Sequence[Comparison]) -> dict[str, Any] | None:
    """Return what there is to show of the comparisons, the first of them by class; None if there is none."""
    if not comparisons:
        return None
    first = comparisons[0]
    by_class = first.by_class.sort_values("p_adjusted", kind="stable", na_position="last")
    said = f"{first.first} and {first.second}: robust accuracy by class; the table below holds the numbers."
    return {
        "each": list(zip(comparisons, comparison_table(comparisons)["p_adjusted"], strict=True)),
        "first": first,
        "by_class": list(by_class.to_dict("index").items()),
        "figure": {
            "title": "Robust accuracy by class, all attacks",
            "label": "Figure of the two most robust models",
            "alt": said,
            "svg": svg(lambda ax: figures.compared(first, ax), "pair-"),
        },
    }


def grouped(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return findings of one kind and one advice together, in the order they first came."""
    together: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        together.setdefault((finding.check, finding.advice), []).append(finding)
    return [{"check": check, "advice": advice, "seen": seen} for (check, advice), seen in together.items()]


def described(parameters: dict[str, Any]) -> tuple[str, list[tuple[str, Any]]]:
    """Return an attack's class, and its parameters with their names."""
    return str(parameters.get("class", "")), [(key, value) for key, value in parameters.items() if key != "class"]


def snippet(result: AuditResult) -> str:
    """Return Python that makes the audit again, where no command is known that made it."""
    manifest = result.manifest
    n, name = manifest.examples.n, manifest.examples.dataset
    if name in DATASETS:
        data = f"data = acw.load_dataset({name!r}, split={manifest.examples.split!r}, n_examples={n})"
    else:
        data = f"data = acw.Dataset(x, y, classes)  # the {n} examples of {shorten(repr(name), 60)}"
    options = {"seed": manifest.seed, "worst_case": manifest.worst_case or None}
    told = "".join(f", {key}={value!r}" for key, value in options.items() if value is not None)
    given = ", ".join(f"{model!r}: classifier_{place}" for place, model in enumerate(result.models, start=1))
    return "\n".join(
        [
            "import art_classwise as acw",
            "",
            data,
            f"audit = acw.ClassWiseAudit(threat={str(result.threat)!r}, attacks={list(result.attacks)!r}{told})",
            f"result = audit.evaluate({{{given}}}, data)  # ART classifiers",
        ]
    )


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Download(NamedTuple):
    """A file within the page.

    Attributes:
        name: Its name.
        holds: What it holds, in words.
        url: A ``data:`` URL.
        size: In bytes.
    """

    name: str
    holds: str
    url: str
    size: int


def downloads(result: AuditResult, summary: pd.DataFrame, comparisons: Sequence[Comparison]) -> list[Download]:
    """Return the page's tables as CSV files, and how they were made as JSON.

    Numbers have six digits. Names that a spreadsheet would take for a formula begin with an apostrophe.

    Args:
        result: The audit.
        summary: Its :meth:`~art_classwise.AuditResult.summary`.
        comparisons: Of its models.
    """
    tables = [
        ("by_class.csv", "accuracy per model, attack and class, with intervals", result.by_class()),
        ("summary.csv", "a row per model: mean, worst class, disparity measures", summary),
        ("confusion.csv", "how many examples of each class are taken for which, under all attacks", _confused(result)),
    ]
    if comparisons:
        by_class = {(one.first, one.second): one.table() for one in comparisons}
        each = pd.concat(by_class, names=["first_model", "second_model"])
        tables += [
            ("comparison.csv", "the most robust model beside each other one", comparison_table(comparisons)),
            ("comparison_by_class.csv", "the same, per class", each),
        ]
    if result.findings:
        rows = [(finding.model, finding.check, finding.saw, finding.advice) for finding in result.findings]
        found = pd.DataFrame(rows, columns=["model", "check", "saw", "advice"]).set_index("model")
        tables.append(("findings.csv", "what looks wrong", found))
    files = [_download(name, holds, "text/csv", _csv(table)) for name, holds, table in tables]
    return [
        *files,
        _download(
            "method.json",
            "attacks with all parameters, versions, hardware, command",
            "application/json",
            result.manifest.to_json(),
        ),
    ]


def _download(name: str, holds: str, kind: str, text: str) -> Download:
    # Percent-encoded: of mostly digits and commas that is shorter than base64.
    return Download(name, holds, f"data:{kind};charset=utf-8,{quote(text, safe=' ,:;/()')}", len(text.encode()))


def _csv(table: pd.DataFrame) -> str:
    flat = table.reset_index()
    for column in flat.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in flat.dtypes]]:
        flat[column] = flat[column].astype(object).map(_plain_text)
    return flat.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def _plain_text(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _confused(result: AuditResult) -> pd.DataFrame:
    """Return the confusion matrices of all models as a row per pair that occurs."""
    pairs = []
    for model in result.models:
        counts = result.confusion(model, WORST_CASE, normalize=False)
        of, taken_for = np.nonzero(counts.to_numpy())
        rows = {
            "class": counts.index[of],
            "prediction": counts.columns[taken_for],
            "n": counts.to_numpy()[of, taken_for],
        }
        pairs.append(pd.DataFrame(rows).assign(model=model))
    return pd.concat(pairs).set_index(["model", "class", "prediction"])
