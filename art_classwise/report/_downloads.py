"""The tables that the report page offers as files, within the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pandas as pd

from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.comparison import Comparison, comparison_table
from art_classwise.audit.result import AuditResult

__all__ = ["Download", "downloads"]

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
    method = json.dumps(_told(result), indent=1, ensure_ascii=False, default=str)
    return [
        *files,
        _download(
            "method.json", "attacks with all parameters, versions, hardware, command", "application/json", method
        ),
    ]


def _told(result: AuditResult) -> dict[str, Any]:
    return {"threat": str(result.threat), "classes": result.classes, **result.info}


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
