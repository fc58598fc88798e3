"""RobustBench's leaderboards beside what audits measured."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pandas as pd

from art_classwise.audit.findings import DIFFERS
from art_classwise.audit.outcomes import accuracies
from art_classwise.audit.result import AuditResult
from art_classwise.errors import InputError
from art_classwise.metrics.best import Measure

__all__ = ["beside_measured"]


def beside_measured(
    table: pd.DataFrame, result: AuditResult, dataset: str = "cifar10", threat_model: str = "Linf"
) -> pd.DataFrame:
    """Return a leaderboard with what an audit measured beside what was published.

    Args:
        table: As :func:`art_classwise.zoo.robustbench_table` returns it.
        result: An audit, some of whose models :func:`load_robustbench` loaded.
        dataset: That of the table.
        threat_model: That of the table.

    Returns:
        The rows of models that were audited, with the columns ``model``, its name in the audit; ``n``, examples;
        ``measured_clean`` and ``measured_robust`` (under all attacks of the audit), the shares of them that are right,
        each with its 95 % Wilson interval, ``_low`` and ``_high``. Of two models or more ``measured_worst``, the
        accuracy of the worst class under attack, with an interval that holds for all models at once, and ``mean_rank``
        and ``worst_rank``, their places by robust accuracy, of the mean over classes and of the worst class, each with
        an interval for all of them at once (:func:`art_classwise.metrics.compare_with_best`). Then
        ``strongly_attacked``, whether a strong attack was run, as for the published numbers: if not,
        ``measured_robust`` is an upper bound (:attr:`art_classwise.AuditResult.strongly_attacked`). Last ``differs``,
        whether that is among the audit's findings: beyond an interval that allows for the number of models. A robust
        accuracy is compared where the audit has the published radius; under attacks weaker than AutoAttack it may be
        higher.

    Raises:
        InputError: None of the audit's models is of this leaderboard.
    """
    place = f"robustbench:{dataset}/{threat_model}/"
    sources = {name: of.source for name, of in result.manifest.published.items()}
    found = {model: source.removeprefix(place) for model, source in sources.items() if source.startswith(place)}
    found = {model: name for model, name in found.items() if model in result.models and name in table.index}
    if not found:
        raise InputError(
            f"None of the audit's models ({', '.join(result.models[:5])}{', ...' if result.models[5:] else ''}) is of "
            f"RobustBench's {dataset} {threat_model} leaderboard, as far as the audit tells."
        )
    differs = {finding.model for finding in result.findings if finding.check == DIFFERS}
    rows = []
    for model in found:
        pooled = accuracies(result.rows(model), ["all"], np.zeros_like, 0.95).iloc[0]
        row: dict[str, object] = {"model": model, "n": int(pooled["n"])}
        row |= {f"measured_{column}": value for column, value in pooled.drop("n").items()}
        rows.append(row | {"strongly_attacked": model in result.strongly_attacked, "differs": model in differs})
    measured = pd.DataFrame(rows, index=pd.Index(found.values(), name="name"))  # a model may be there under two names
    if len(found) > 1 and result.adversaries:
        last = ["strongly_attacked", "differs"]
        measured = pd.concat([measured.drop(columns=last), _ranks(result, found), measured[last]], axis=1)
    return table.join(measured, how="inner").rename_axis("name")


def _ranks(result: AuditResult, found: dict[str, str]) -> pd.DataFrame:
    """Return places and worst classes of models, as the leaderboard calls them."""
    names = list(found)
    columns: dict[str, pd.Series[float]] = {}
    for measure in get_args(Measure):
        of = result.compare_with_best(names, measure=measure).loc[names]
        if measure == "worst":
            columns |= {f"measured_worst{end}": of[f"accuracy{end}"] for end in ("", "_low", "_high")}
        columns |= {f"{measure}_rank": of["rank"]}
        columns |= {f"{measure}_rank{end}": of[f"all_ranks{end}"] for end in ("_low", "_high")}
    return pd.DataFrame(columns).set_axis(pd.Index(found.values(), name="name"))
