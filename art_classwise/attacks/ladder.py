"""Attacks by name, and ladders of them from weakest to strongest."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from art_classwise.attacks.temperature_pgd import TemperaturePGD
from art_classwise.errors import InputError, check_name, unknown
from art_classwise.threat import ThreatModel

__all__ = ["WORST_CASE", "AttackFactory", "ladder"]

AttackFactory = Callable[[Any], Any]
"""An ART classifier -> an ART evasion attack on it."""

WORST_CASE = "all attacks"
"""The name, in tables, of the attack that succeeds where any attack of an audit does."""

_LADDERS = {"quick": ("fgsm", "pgd-10")}
_PATTERN = re.compile(r"(?P<family>pgd|margin|tpgd(?P<inverse_temperature>\d+(\.\d+)?))-(?P<steps>\d+)")
_EXAMPLES = (*_LADDERS, "fgsm", "pgd-20", "margin-20", "tpgd5-20")


def ladder(
    attacks: str | Sequence[str] | Mapping[str, AttackFactory],
    threat: ThreatModel | str,
    *,
    seed: int = 0,
    batch_size: int = 128,
) -> dict[str, AttackFactory]:
    """Return attacks by name, each a function from a classifier to an attack on it.

    Args:
        attacks: A ladder (``"quick"``: FGSM, PGD-10), or names of attacks and ladders, or your own functions by name:
            ``"fgsm"`` (one step of length eps from x), ``"pgd-20"`` (20 steps of eps / 4, a random start),
            ``"margin-20"`` (the same, ascending the margin), ``"tpgd5-20"`` (Temperature-PGD with 1/T = 5).
        threat: Norm and radius.
        seed: Of the random starts.
        batch_size: Examples attacked at once.

    Returns:
        The attacks, in the order given.

    Raises:
        InputError: A name is unknown or stands twice, or there is no attack.
    """
    chosen: dict[str, AttackFactory]
    if isinstance(attacks, Mapping):
        chosen = dict(attacks)
        for name, make in chosen.items():
            check_name("attack", name)
            if name == WORST_CASE:
                raise InputError(f"The attack name {WORST_CASE!r} stands for all attacks together: choose another.")
            if not callable(make):
                raise InputError(
                    f"The attack {name!r} must be a function from a classifier to an attack on it, such as "
                    f"lambda c: TemperaturePGD(c, eps=8 / 255), but is a {type(make).__name__}."
                )
    else:
        if not isinstance(attacks, (str, Sequence)) or not all(isinstance(a, str) for a in attacks):
            raise InputError(
                "`attacks` must be a ladder, attack names, or a dict of functions by name, such as "
                '{"mine": lambda c: TemperaturePGD(c, eps=8 / 255)}, ' + f"but got {attacks!r}."
            )
        asked = (attacks,) if isinstance(attacks, str) else attacks
        names = [name for ask in asked for name in _LADDERS.get(ask, (ask,))]
        repeated = [n for n in names if names.count(n) > 1]
        if repeated:
            raise InputError(f"The attack {repeated[0]!r} is named twice.")
        shared: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "verbose": False}
        chosen = {n: partial(TemperaturePGD, **_parameters(n, ThreatModel.parse(threat)), **shared) for n in names}
    if not chosen:
        raise InputError("There is no attack: name at least one.")
    return chosen


def _parameters(name: str, threat: ThreatModel) -> dict[str, Any]:
    ball = {"norm": threat.art_norm, "eps": threat.eps}
    if name == "fgsm":
        return {
            **ball,
            "eps_step": threat.eps,
            "max_iter": 1,
            "inverse_temperature": 1.0,
            "num_random_init": 0,
        }
    match = _PATTERN.fullmatch(name)
    if match is None or int(match["steps"]) < 1 or match["inverse_temperature"] == "0":
        raise unknown(
            "attack",
            name,
            _EXAMPLES,
            hint="Steps follow the hyphen; tpgd5-20 is Temperature-PGD with 1/T = 5.",
        )
    inverse_temperature = {"pgd": 1.0, "margin": float("inf")}.get(match["family"])
    return {
        **ball,
        "eps_step": threat.eps / 4,
        "max_iter": int(match["steps"]),
        "inverse_temperature": inverse_temperature or float(match["inverse_temperature"]),
        "num_random_init": 1,
    }
