"""How corruptions take part in an audit: asked for beside attacks, or alone, and told from them in its tables."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from art_classwise.attacks.ladder import AttackFactory, Attacks, ladder
from art_classwise.datasets import Dataset
from art_classwise.datasets.catalog import CORRUPTIONS as KINDS
from art_classwise.datasets.corruptions import (
    FOLDERS,
    SEVERITIES,
    Corrupted,
    CorruptedImages,
    corrupted_images,
    corruption_names,
    is_corruption,
    parse_corruption,
)
from art_classwise.errors import InputError
from art_classwise.threat import CORRUPTIONS, ThreatModel

__all__ = [
    "ALL_CORRUPTIONS",
    "MEAN_CORRUPTION",
    "Asked",
    "asked",
    "attack_factories",
    "corruption_kind",
    "described_corruptions",
    "is_described_corruption",
    "is_whole_benchmark",
    "located",
]

MEAN_CORRUPTION = "mean corruption"
"""The name, in tables, of all corruptions of an audit together: of each example the share of them it is right under."""

ALL_CORRUPTIONS = "all corruptions"
"""The name of the attack that succeeds where any corruption of an audit does."""


class Asked(NamedTuple):
    """What an audit is asked for.

    Attributes:
        threat: The threat model; None for the usual one of the data.
        attacks: The adversaries; None if there is none.
        corruptions: Names of corruptions, with severities.
    """

    threat: ThreatModel | None
    attacks: Attacks | None
    corruptions: tuple[str, ...]


def asked(threat: ThreatModel | str | None, attacks: Attacks | None, corruptions: str | Iterable[str] | None) -> Asked:
    """Tell adversaries from corruptions, and find the threat model that they are asked for within.

    Raises:
        InputError: A corruption is unknown or stands twice, or the threat model doesn't fit.
    """
    ball = None if threat is None else ThreatModel.parse(threat)
    names = () if corruptions is None else corruption_names(corruptions)
    if isinstance(attacks, str) and is_corruption(attacks):
        names = (*names, *corruption_names([attacks]))
        attacks = None
    elif isinstance(attacks, Sequence) and not isinstance(attacks, str):
        among = [one for one in attacks if isinstance(one, str) and is_corruption(one)]
        if among:
            names = (*names, *corruption_names(among))
            others = [one for one in attacks if not (isinstance(one, str) and is_corruption(one))]
            attacks = others if others else None
    elif attacks is None and (names or ball == CORRUPTIONS):
        names = names or corruption_names("all")
        attacks = None if ball is None or ball == CORRUPTIONS else "quick"
    elif attacks is None:
        attacks = "quick"
    corruption_names(names or ["all"])  # whether one stands twice
    if attacks is not None and ball == CORRUPTIONS:
        raise InputError(
            "Corruptions have no norm and no radius, within which attacks could search: give a threat model such as "
            '"Linf:8/255", or leave out the attacks.'
        )
    if attacks is None and ball is not None and ball.is_ball:
        raise InputError(
            f"Nothing of the audit is an attack within {ball}, only corruptions: leave out the threat model, or give "
            '"corruptions"; or name an attack, such as pgd-20, too.'
        )
    return Asked(CORRUPTIONS if attacks is None else ball, attacks, names)


def attack_factories(
    attacks: Attacks | None,
    corruptions: Sequence[str],
    threat: ThreatModel | None,
    *,
    corrupted: Mapping[bool, CorruptedImages] | None = None,
    **options: Any,
) -> dict[str, AttackFactory]:
    """Return adversaries and then corruptions by name, each a function from a classifier to one.

    Args:
        attacks: What :func:`art_classwise.attacks.ladder` takes; None for none.
        corruptions: Names of corruptions.
        threat: The threat model.
        corrupted: As for :func:`art_classwise.attacks.ladder`.
        options: Others of it.

    Raises:
        InputError: As :func:`art_classwise.attacks.ladder`.
    """
    made = {} if attacks is None else ladder(attacks, threat, **options)
    if corruptions:
        also = ladder(list(corruptions), CORRUPTIONS, corrupted=corrupted)
        twice = next((name for name in also if name in made), None)
        if twice is not None:
            raise InputError(f"An attack has the name {twice!r}, which is a corruption's: choose another.")
        made |= also
    return made


def located(
    data: Dataset, corruptions: Sequence[str], folder: str | os.PathLike[str] | None
) -> tuple[tuple[str, ...], dict[bool, CorruptedImages]]:
    """Return corruptions, as far as their images can be had, and where from: see :func:`corrupted_images`.

    Raises:
        InputError: The folder isn't there, or its images are of other examples.
    """
    if not corruptions:
        return (), {}
    wanted = [one for name in corruptions for one in parse_corruption(name)]
    names, sources = corrupted_images(data, wanted, folder)
    if names != tuple(corruptions):
        lacking = [kind for kind in dict.fromkeys(one.corruption for one in wanted) if f":{kind}:" not in str(names)]
        without = f", without {', '.join(lacking)}, which can't be made here" if lacking else ""
        warnings.warn(
            f"{FOLDERS.get(data.name, 'A folder of corrupted images')} isn't in "
            f"{Path(os.environ.get('ART_CLASSWISE_DATA', 'data')).absolute()}, so images are made from the clean ones"
            f"{without}; tables call them made:NAME. They aren't the published ones, nor are their accuracies.",
            stacklevel=4,
        )
    return names, sources


_CLASS = "art_classwise.Corruption"


def is_described_corruption(parameters: Mapping[str, Any]) -> bool:
    """Return whether the parameters of an attack, as a manifest has them, are those of a corruption."""
    return parameters.get("class") == _CLASS


def corruption_kind(parameters: Mapping[str, Any]) -> str:
    """Return the name, in tables, of a corruption at all its severities together."""
    return f"{'made:' * (parameters.get('source') == 'made')}{parameters.get('corruption')}"


def described_corruptions(attacks: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return attacks that are corruptions, by the corruption without its severity.

    Args:
        attacks: Parameters by the attacks' names.
    """
    found: dict[str, list[str]] = {}
    for name, parameters in attacks.items():
        if is_described_corruption(parameters):
            found.setdefault(corruption_kind(parameters), []).append(name)
    return found


def is_whole_benchmark(attacks: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether all fifteen corruptions are there, read from a folder, at all severities."""
    there = {
        Corrupted(str(given.get("corruption")), int(given.get("severity", 0)))
        for given in attacks.values()
        if is_described_corruption(given) and given.get("source") != "made"
    }
    return there >= {Corrupted(kind, severity) for kind in KINDS for severity in SEVERITIES}
