"""What an audit's numbers leave open, in sentences, for documents that are read without the page."""

from __future__ import annotations

from typing import Any

from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.report.data import FEWEST_EXAMPLES, Estimate, ModelData, ReportData

__all__ = ["limits", "worst_class"]

_MOST_NAMED = 10


def limits(report: ReportData, model: ModelData) -> list[str]:
    """Return what wasn't tested of a model, and what looks wrong, a sentence each.

    Args:
        report: The audit.
        model: One of its models.
    """
    others = "" if report.corruptions is None else "other "
    if report.overall == WORST_CASE:
        told = [
            f"Only perturbations within {report.threat} were tested: no other norms or radii, no patches, rotations or "
            f"{others}common corruptions.",
            f"Only these attacks were run: {', '.join(report.attacks)}. No attack was adapted to this model.",
        ]
    else:
        told = [
            f"Only these corruptions were tried: {', '.join(report.attacks)}. Nobody attacked the model, so nothing is "
            "known of its accuracy under attack."
        ]
    told.append(f"Only {report.n_examples:,} examples{report.data} were tested; other data may give other numbers.")
    if report.is_estimate:
        told.append(report.bound)
    elif model.is_bound:
        told.append(
            "No strong attack, such as standard AutoAttack, was run: robust accuracy is at most what is given here."
        )
    lacking = [one.name for one in model.classes if one.n == 0]
    if lacking:
        told.append(f"Not tested, because there was no example: {_named(lacking)}.")
    few = [one.name for one in model.classes if 0 < one.n < FEWEST_EXAMPLES]
    if few:
        told.append(f"Tested on fewer than {FEWEST_EXAMPLES} examples each: {_named(few)}.")
    if model.name in report.unchecked:
        told.append("The network itself wasn't checked for masked gradients and other faults.")
    of_model = [one for one in report.checks if one.model == model.name]
    ran = {one.check.name for one in of_model if not one.skipped}
    skipped = list(dict.fromkeys(one.check.name for one in of_model if one.check.name not in ran))
    if skipped and model.name not in report.unchecked:
        told.append(f"Checks that couldn't run: {_named(skipped)}.")
    told += [f"The audit isn't finished: {sentence}" for sentence in report.missing]
    found = [finding for finding in report.findings if finding.model in (None, model.name)]
    told += [f"Finding, {finding.check}: {finding.saw}" for finding in found]
    return told


def _named(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return f"{', '.join(names[:_MOST_NAMED])}{f' and {more} more' if more > 0 else ''}"


def worst_class(report: ReportData, model: ModelData) -> Estimate:
    """Return the smallest of the class robust accuracies, with the interval of the worst class's accuracy."""
    rows: dict[Any, dict[Any, Any]] = report.summary.to_dict("index")
    return Estimate.of(rows[model.name], "worst", "worst_low", "worst_high")
