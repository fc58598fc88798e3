"""Measured models among RobustBench's published ones, where a comparison is fair."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.corrupted import is_whole_benchmark
from art_classwise.audit.findings.attack_checks import asked_standard
from art_classwise.audit.findings.evidence import is_same_norm, number
from art_classwise.datasets.corruptions import FOLDERS
from art_classwise.errors import InputError
from art_classwise.metrics.intervals import wilson
from art_classwise.metrics.shares import class_shares
from art_classwise.zoo.robustbench import robustbench_board

if TYPE_CHECKING:
    from art_classwise.audit.result import AuditResult

__all__ = ["mismatches", "place_on_board"]

_IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 5_000}
# SHA-256 of the test set's labels in order, a byte each: they tell the images and their order apart.
_LABELS = {
    "cifar100": "4dad7d09c7c97d33f6cb928d705cf4196221316fd6e31bdd978a08ed9103ee0b",
    "cifar10": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}


def place_on_board(
    result: AuditResult, dataset: str = "cifar10", threat_model: str = "Linf", *, confidence: float = 0.95
) -> pd.DataFrame:
    """Place an audit's models on RobustBench's published leaderboard.

    A model ranks by its accuracy over all examples under all attacks of the audit together, for RobustBench ranks by
    another attack, too, where that broke more than AutoAttack. ``rank`` is the place that this number has.

    ``rank_low`` and ``rank_high`` allow for the examples, of which each published number is an estimate, too: a
    published model is ahead of a measured one, or behind, only if the interval of the difference leaves 0 out, and
    these intervals hold for all published models at once (Bonferroni; confidence sets of ranks in this way: Mogstad,
    Romano, Shaikh and Wilhelm 2024, Review of Economic Studies 91). Each is Newcombe's for independent proportions
    (1998, Statistics in Medicine 17, 873-890, method 10). Both are measured on the same images, and who withstands on
    one network mostly does on another, so they are wider than need be: outcomes of others aren't published.

    Args:
        result: The audit.
        dataset: Of the leaderboard: ``"cifar10"`` or ``"cifar100"``.
        threat_model: ``"Linf"``, ``"L2"`` or ``"corruptions"``, of which an audit must have all, from their folder.
        confidence: That the true rank of a model lies between ``rank_low`` and ``rank_high``.

    Returns:
        A row for each model, by ``model``, the most robust first: ``rank``, ``rank_low``, ``rank_high``, ``entries``,
        the number of places; ``clean``, ``robust``, ``robust_low``, ``robust_high``; and ``published``, its name on the
        leaderboard, or None. One that is there itself isn't compared with its own entry.

    Raises:
        InputError: There is no such leaderboard; or the comparison isn't fair: every mismatch is named.
    """
    board = robustbench_board(dataset, threat_model)
    wrong = mismatches(result, dataset, threat_model)
    if wrong:
        raise InputError(
            f"This audit can't be ranked on RobustBench's {dataset} {threat_model} leaderboard:\n"
            + "\n".join(f"- {one}" for one in wrong)
        )
    place = f"robustbench:{dataset}/{threat_model}/"
    rows = []
    for model in result.models:
        known = result.manifest.published.get(model)
        own = known.source.removeprefix(place) if known is not None and known.source.startswith(place) else None
        others = board.drop(index=own, errors="ignore") if own else board
        outcomes = result.rows(model, WORST_CASE)  # of corruptions their mean, of each image a share
        n, k = len(outcomes), float(outcomes["withstood"].sum())
        low, high = wilson(k, n, confidence)
        if not result.adversaries:
            none = np.zeros(n, np.int64)
            low, high = class_shares(none, outcomes["withstood"], 1, confidence=confidence)[["low", "high"]].iloc[0]
        ahead, behind = _apart(k / n, others["ranked"].to_numpy(float), n, 1 - (1 - confidence) / len(others))
        rows.append(
            {
                "model": model,
                "rank": 1 + int((others["ranked"] > k / n + 1e-12).sum()),
                "rank_low": 1 + ahead,
                "rank_high": 1 + len(others) - behind,
                "entries": len(others) + 1,
                "clean": float((outcomes["clean_prediction"] == outcomes["label"]).mean()),
                "robust": k / n,
                "robust_low": float(low),
                "robust_high": float(high),
                "published": own if own in board.index else None,
            }
        )
    return pd.DataFrame(rows).set_index("model").sort_values("robust", ascending=False, kind="stable")


def _apart(measured: float, published: npt.NDArray[np.float64], n: int, level: float) -> tuple[int, int]:
    """Return how many published numbers are surely above the measured one, and how many surely below."""
    low, high = (float(end) for end in wilson(measured * n, n, level))
    lows, highs = wilson(published * n, n, level)
    above = published - measured - np.hypot(published - lows, high - measured) > 0
    below = published - measured + np.hypot(highs - published, measured - low) < 0
    return int(above.sum()), int(below.sum())


def mismatches(result: AuditResult, dataset: str, threat_model: str) -> list[str]:
    """Return why an audit's numbers can't be compared with those of a leaderboard: a sentence each, or nothing.

    Args:
        result: The audit.
        dataset: Of the leaderboard.
        threat_model: Of the leaderboard.

    Raises:
        InputError: RobustBench has no such leaderboard.
    """
    board = robustbench_board(dataset, threat_model)
    eps = float(board["eps"].mode().iloc[0]) if board["eps"].notna().any() else None
    wrong = []
    if not result.finished:
        wrong.append(f"The audit isn't finished: {' '.join(result.missing)}")
    if eps is None:
        if result.adversaries:
            wrong.append(
                "Threat model: the leaderboard is of common corruptions, the audit of attacks: audit these alone "
                "(--threat corruptions)."
            )
        elif not is_whole_benchmark({name: result.manifest.parameters(name) for name in result.attacks}):
            wrong.append(
                f"Corruptions: the leaderboard is of {FOLDERS[dataset]}, all fifteen at all five severities, the audit "
                "of others, or of some."
            )
        return wrong + _images(result, dataset)
    if not result.adversaries:
        wrong.append("Threat model: the leaderboard is of attacks, the audit of corruptions.")
        return wrong + _images(result, dataset)
    if result.threat.norm != threat_model:
        wrong.append(f"Norm: the audit is of {result.threat.norm}, the leaderboard of {threat_model}.")
    if abs(result.threat.eps - eps) > 1e-6 * eps:
        of_board = f"{eps * 255:g}/255" if threat_model == "Linf" else f"{eps:g}"
        wrong.append(f"Radius: the audit is of eps = {result.threat}, the leaderboard of {threat_model}:{of_board}.")
    wrong += _attacks(result)
    return wrong + _images(result, dataset)


def _attacks(result: AuditResult) -> list[str]:
    wrong = []
    for attack in result.attacks:
        given = result.manifest.parameters(attack)
        if asked_standard(given):
            radius = number(given, "eps")
            within = is_same_norm(given.get("norm"), result.threat)
            if within and radius is not None and abs(radius - result.threat.eps) <= 1e-6 * result.threat.eps:
                return []
            wrong.append(f"Attack: {attack} is AutoAttack with another norm or radius than the audit's.")
    if not wrong:
        wrong.append(
            f"Attack: the leaderboard is of standard AutoAttack, the audit of {', '.join(result.attacks)}: add "
            "autoattack (--attacks)."
        )
    return wrong


def _images(result: AuditResult, dataset: str) -> list[str]:
    wanted, of = _IMAGES[dataset], result.manifest.examples
    first = result.rows(result.models[0], result.attacks[0])
    n = len(first)
    wrong = []
    if any(len(result.rows(model, attack)) != n for model in result.models for attack in result.attacks):
        wrong.append("Choice of images: models or attacks were tried on different ones.")
    if n != wanted:
        wrong.append(f"Number of images: the audit has {n:,}, the leaderboard {wanted:,}, the whole test set.")
    if dataset == "imagenet":
        return [*wrong, "Choice of images: the leaderboard's 5,000 are chosen by file, and an audit keeps no files."]
    if len(result.classes) != int(dataset.removeprefix("cifar")) or (n != wanted and of.dataset != dataset):
        wrong.append(f"Images: the audit is of {of.dataset} ({of.split}), the leaderboard of {dataset} (test).")
    elif n == wanted:
        labels = first.sort_values("example")["label"].to_numpy()
        digest = hashlib.sha256(labels.astype(np.uint8).tobytes()).hexdigest()
        if digest != _LABELS[dataset]:
            wrong.append(
                f"Choice of images: the labels of {of.dataset} ({of.split}) aren't those of {dataset}'s test set, in "
                "its order."
            )
    return wrong
