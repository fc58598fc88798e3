"""Attacks by name, and ladders of them from weakest to strongest."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

from art.attacks.attack import EvasionAttack

from art_classwise.attacks.autoattack import MEMBERS, AutoAttack
from art_classwise.attacks.classwise import ClassWiseAttack
from art_classwise.attacks.corruption import Corruption
from art_classwise.attacks.fast_copy import Precision
from art_classwise.attacks.minimum_norm import MinimumNormAttack
from art_classwise.attacks.pgd import LOSSES, PGD, TemperaturePGD
from art_classwise.attacks.transfer import TransferAttack, rebind
from art_classwise.datasets.catalog import DATASETS
from art_classwise.datasets.corruptions import CORRUPTIONS, Corrupted, CorruptedImages, is_corruption, parse_corruption
from art_classwise.errors import InputError, check_name, unknown
from art_classwise.threat import ThreatModel

__all__ = ["WORST_CASE", "AttackFactory", "Attacks", "is_ladder", "is_quick_estimate", "ladder", "usual_threat"]

AttackFactory: TypeAlias = Callable[[Any], Any]
"""An ART classifier -> an ART evasion attack on it."""

Attacks: TypeAlias = str | EvasionAttack | Sequence[str | EvasionAttack] | Mapping[str, AttackFactory | EvasionAttack]
"""What :func:`ladder` takes."""

WORST_CASE = "all attacks"
"""The name, in tables, of the attack that succeeds where any attack of an audit does."""

_LADDERS = {
    "quick": ("fgsm", "pgd-10"),
    "fast": ("apgd-ce", "apgd-t3-40", "margin-20x3"),  # a tenth of AutoAttack's passes: evaluations/speed
    "standard": (
        *("fgsm", "pgd-{steps}", "margin-{steps}"),
        *(f"tpgd{s}-{{steps}}" for s in (2, 5, 10, 50)),  # Tian et al.'s grid
        *("pgd-100x5", "autoattack"),
    ),
    "blackbox": ("square", "transfer-pgd-{steps}"),
}
_FAST_BEFORE = {"apgd-ce", "targeted3-40", "margin-20x3"}
"""What audits may have stored of the ladder ``"fast"``, as it was once."""
_LOSS_OF = {"pgd" if loss == "cross_entropy" else loss: loss for loss in LOSSES}
_SEARCH = re.compile(
    rf"(?P<family>{'|'.join(_LOSS_OF)}|tpgd(?P<inverse_temperature>\d+(\.\d+)?))"
    r"-(?P<steps>[1-9]\d*)(x(?P<restarts>[1-9]\d*))?"
)
_EXAMPLES = (
    *_LADDERS,
    *("fgsm", "pgd-20", "pgd-100x5", "margin-20", "dlr-20", "kl-20", "tpgd5-20", "transfer-pgd-20"),
    *("targeted3-40", "apgd-t3-40", "fmn", "fmn-malt", "autoattack", *MEMBERS),
    *("corruptions", *CORRUPTIONS),
)
_TARGETED = ("autoattack", "apgd-t", "fab-t")
"""AutoAttack and those of its members that try target classes in an order."""

_TOWARDS = re.compile(r"targeted(?P<targets>[1-9]\d*)-(?P<steps>[1-9]\d*)")
_APGD_TOWARDS = re.compile(r"apgd-t(?P<targets>[1-9]\d*)-(?P<steps>[1-9]\d*)")
_MINIMUM_NORM = re.compile(r"fmn(-(?P<steps>[1-9]\d*))?(?P<nearest>-malt)?")


LATER: Final = object()
"""Stands for a surrogate that isn't loaded yet: names are checked, but transfer attacks can't be made."""


@dataclass(frozen=True)
class _Budget:
    """The threat model, step length and number of steps in use for a data set."""

    threat: ThreatModel
    eps_step: float
    steps: int


def usual_threat(dataset: str | None) -> ThreatModel:
    """Return the threat model that is in use for a data set: Linf 8/255 for CIFAR-10, say.

    Raises:
        InputError: None is known for it.
    """
    return _usual(dataset).threat


def _usual(dataset: str | None) -> _Budget:
    if dataset not in DATASETS:
        of = "" if dataset is None else f" for {dataset}"
        raise InputError(
            f"Give a threat model, `threat`, e.g. Linf:8/255: there is no usual one{of}, only for "
            f"{', '.join(DATASETS)}."
        )
    spec = DATASETS[dataset]
    return _Budget(ThreatModel.parse(spec.threat), spec.eps_step, spec.steps)


def _stated(threat: ThreatModel) -> _Budget:
    return _Budget(threat, threat.eps / 4, 20)


def ladder(
    attacks: Attacks,
    threat: ThreatModel | str | None = None,
    *,
    dataset: str | None = None,
    surrogate: Any = None,
    seed: int = 0,
    batch_size: int = 128,
    precision: Precision = "auto",
    corrupted: Mapping[bool, CorruptedImages] | None = None,
) -> dict[str, AttackFactory]:
    """Return attacks by name, each a function from a classifier to an attack on it.

    All of them stop at an example once it is misclassified: they are for verdicts.

    Args:
        attacks: A ladder: ``"quick"`` (FGSM, PGD-10), ``"fast"`` (APGD on cross-entropy and towards three classes in
            MALT's order, margin PGD with 3 restarts: a quick estimate at about a tenth of AutoAttack's cost, not
            AutoAttack), ``"standard"`` (FGSM, PGD-20, margin PGD, Temperature-PGD with 1/T = 2, 5, 10 and 50,
            PGD-100 with 5 restarts, AutoAttack) or ``"blackbox"`` (Square, and transfer from ``surrogate``). Or names
            of ladders and attacks, or ART attacks, which are made anew for each classifier, or a dict of attacks or of
            functions by name. Names are

            - ``"fgsm"``: one step of length eps from x;
            - ``"pgd-20"``: 20 steps of eps / 4 from a random start; ``"pgd-20x5"``: from five;
            - ``"margin-20"``, ``"pma-20"``, ``"dlr-20"``, ``"kl-20"``: likewise, ascending another loss;
            - ``"tpgd5-20"``: Temperature-PGD with 1/T = 5;
            - ``"targeted3-40"``: 40 steps on the margin from x towards each of the 3 classes that are first in MALT's
              order, :class:`art_classwise.ClassWiseAttack`; ``"apgd-t3-40"``: the same by AutoAttack's member apgd-t,
              whose loss compares four classes: on fewer, it is ``"targeted3-40"``;
            - ``"fmn"``: the Fast Minimum-Norm attack with 100 steps, ``"fmn-50"`` with 50: the smallest perturbation of
              each example, of whatever size, so robust accuracy at every radius; ``"fmn-malt"``: also towards the class
              that is first in MALT's order;
            - ``"autoattack"``, and its members ``"apgd-ce"``, ``"apgd-dlr"``, ``"apgd-t"``, ``"fab"``, ``"fab-t"``,
              ``"square"``; ``"autoattack-malt"``, ``"apgd-t-malt"`` and ``"fab-t-malt"`` try target classes in MALT's
              order;
            - ``"transfer-"`` before a name of the first four kinds: that attack on ``surrogate``;
            - ``"fog:3"``, a corruption at a severity; ``"fog"``, at all five; ``"corruptions"``, all fifteen; and those
              after ``"made:"``. They are no adversaries, and come last.
        threat: Norm and radius; if absent, those in use for ``dataset``, with their step length and steps.
        dataset: A name such as ``"cifar10"``.
        surrogate: An ART classifier to transfer attacks from.
        seed: Of the attacks.
        batch_size: Examples computed at once; what an attack finds doesn't depend on it.
        precision: Of the searches: see :class:`art_classwise.attacks.PGD`.
        corrupted: Where corrupted images come from, by whether they are made, as an audit finds them; without it no
            corruption can be computed.

    Returns:
        The attacks, in the order given.

    Raises:
        InputError: A name is unknown or stands twice, there is no attack, no threat model, or no surrogate to
            transfer from.
    """
    budget = _usual(dataset) if threat is None else _stated(ThreatModel.parse(threat))
    shared = {"seed": seed, "batch_size": batch_size, "precision": precision, "verbose": False}
    chosen: dict[str, AttackFactory] = {}
    corruptions: dict[str, AttackFactory] = {}
    for name, given in _listed(attacks, budget.steps):
        if given is None and is_corruption(name):
            for one in parse_corruption(name):
                if str(one) in corruptions:
                    raise InputError(f"The corruption {str(one)!r} is named twice.")
                corruptions[str(one)] = partial(_corruption, corrupted=corrupted, one=one)
            continue
        if name in chosen:
            raise InputError(f"The attack {name!r} is named twice.")
        chosen[name] = _factory(name, given, budget, surrogate, shared)
    if not chosen and not corruptions:
        raise InputError("There is no attack: name at least one.")
    return chosen | corruptions


def is_ladder(attacks: Any) -> bool:
    """Return whether attacks are a ladder's, by its name alone, whose order nobody has chosen."""
    return isinstance(attacks, str) and attacks.lower() in _LADDERS


def is_quick_estimate(names: Iterable[str]) -> bool:
    """Return whether attacks are those of the ladder ``"fast"``, whose robust accuracy is only a quick upper bound."""
    return {*names} in ({*_LADDERS["fast"]}, _FAST_BEFORE)


def _listed(attacks: Attacks, steps: int) -> Iterable[tuple[str, Any]]:
    """Give names with what was given for them, or with None where the name says it all."""
    if isinstance(attacks, Mapping):
        for name, given in attacks.items():
            check_name("attack", name)
            if name == WORST_CASE:
                raise InputError(
                    f"The attack name {WORST_CASE!r} is reserved for all attacks together: choose another."
                )
            if not callable(given) and not isinstance(given, EvasionAttack):
                raise InputError(
                    f"The attack {name!r} must be an ART attack, or a function from a classifier to one, such as "
                    f"lambda c: PGD(c, eps=8 / 255), but is a {type(given).__name__}."
                )
            yield name, given
        return
    asked = [attacks] if isinstance(attacks, (str, EvasionAttack)) else attacks
    if not isinstance(asked, Sequence) or not all(isinstance(a, (str, EvasionAttack)) for a in asked):
        raise InputError(
            "`attacks` must be a ladder, attack names, ART attacks, or a dict of attacks or functions by name, such as "
            '{"mine": lambda c: PGD(c, eps=8 / 255)}, ' + f"but got {attacks!r}."
        )
    for ask in asked:
        if isinstance(ask, EvasionAttack):
            yield type(ask).__name__, ask
        else:
            yield from (
                ((name.format(steps=steps), None) for name in _LADDERS[ask.lower()])
                if ask.lower() in _LADDERS
                else [(ask.strip().lower(), None)]
            )


def _factory(name: str, given: Any, budget: _Budget, surrogate: Any, shared: dict[str, Any]) -> AttackFactory:
    if isinstance(given, EvasionAttack):
        return partial(rebind, given)
    if given is not None:
        made: AttackFactory = given
        return made
    ball: dict[str, Any] = {"norm": budget.threat.art_norm, "eps": budget.threat.eps}
    member = name.removesuffix("-malt")
    if member == "autoattack" or member in MEMBERS:
        order: dict[str, Any] = {"target_order": "malt"} if member != name else {}
        if order and member not in _TARGETED:
            raise InputError(f"The attack {name!r} doesn't exist: {', '.join(f'{one}-malt' for one in _TARGETED)} do.")
        members = "standard" if member == "autoattack" else member
        return partial(_autoattack, **ball, attacks=members, **order, **shared)
    if match := _MINIMUM_NORM.fullmatch(name):
        searched = {key: value for key, value in shared.items() if key != "seed"}  # it draws no random numbers
        searched |= {"targets": 1} if match["nearest"] else {}
        return partial(MinimumNormAttack, norm=ball["norm"], max_iter=int(match["steps"] or 100), **searched)
    if match := _TOWARDS.fullmatch(name):
        return partial(_towards, **ball, targets=int(match["targets"]), max_iter=int(match["steps"]), **shared)
    if match := _APGD_TOWARDS.fullmatch(name):
        return partial(_apgd_towards, **ball, targets=int(match["targets"]), max_iter=int(match["steps"]), **shared)
    if not name.startswith("transfer-"):
        make, parameters = _search(name, budget)
        return partial(make, **ball, **parameters, early_stop=True, **shared)
    try:
        make, parameters = _search(name.removeprefix("transfer-"), budget)
    except InputError:
        raise InputError(
            f"Unknown attack {name!r}. Write fgsm or a search with its steps after transfer-, as in transfer-pgd-20, "
            "transfer-margin-20 or transfer-tpgd5-20."
        ) from None
    if surrogate is None:
        raise InputError(f"The attack {name!r} needs a model to transfer from: give `surrogate`, or take square alone.")
    if surrogate is LATER:
        return partial(TransferAttack, attack=None)
    return partial(TransferAttack, attack=make(surrogate, **ball, **parameters, **shared))


def _corruption(classifier: Any, *, corrupted: Mapping[bool, CorruptedImages] | None, one: Corrupted) -> Corruption:
    source = (corrupted or {}).get(one.made)
    if source is None:
        raise InputError(f"It isn't known where the images of the corruption {str(one)!r} are: let an audit find them.")
    return Corruption(classifier, one.corruption, one.severity, source)


def _autoattack(classifier: Any, *, batch_size: int, **options: Any) -> AutoAttack:
    """Return AutoAttack with random numbers that don't depend on how many examples are computed at once.

    They belong to its batches, so these are of one size: 64 MiB of images, which fit where the network does.
    """
    batch = min(512, max(16, 2**24 // math.prod(classifier.input_shape)))
    return AutoAttack(classifier, batch_size=batch, micro_batch_size=batch_size, **options)


def _apgd_towards(classifier: Any, *, targets: int, max_iter: int, **options: Any) -> AutoAttack | ClassWiseAttack:
    """Return apgd-t towards the nearest classes; with too few classes for its loss, a search on the margin."""
    if classifier.nb_classes < 4:
        return _towards(classifier, targets=targets, max_iter=max_iter, **options)
    few: dict[str, Any] = {"attacks": "apgd-t", "target_order": "malt", "n_target_classes": targets, "n_iter": max_iter}
    return _autoattack(classifier, **few, **options)


def _towards(classifier: Any, *, eps: float, targets: int, max_iter: int, **options: Any) -> ClassWiseAttack:
    """Return a search from x on the margin towards each of the nearest classes, whose steps could cross the ball twice.

    From a quarter of the radius on they are the shorter the more there are.
    """
    return ClassWiseAttack(
        classifier,
        eps=eps,
        eps_step=eps / max(4.0, max_iter / 4),
        targets=min(targets, classifier.nb_classes - 1),
        order="malt",
        max_iter=max_iter,
        num_random_init=0,
        **options,
    )


def _search(name: str, budget: _Budget) -> tuple[type[PGD] | type[TemperaturePGD], dict[str, Any]]:
    """Return the class and parameters of an attack that is a search."""
    if name == "fgsm":
        return PGD, {"eps_step": budget.threat.eps, "max_iter": 1, "num_random_init": 0}
    match = _SEARCH.fullmatch(name)
    if match is None or (match["inverse_temperature"] and float(match["inverse_temperature"]) == 0):
        hint = "Steps follow the hyphen, restarts an x; tpgd5-20 is Temperature-PGD with 1/T = 5."
        raise unknown("attack", name, _EXAMPLES, hint=hint)
    steps = int(match["steps"])
    # A short attack with a long one's steps would end inside of the ball.
    step = budget.eps_step if steps >= budget.steps else budget.threat.eps / 4
    parameters = {"eps_step": step, "max_iter": steps, "num_random_init": int(match["restarts"] or 1)}
    if match["inverse_temperature"]:
        return TemperaturePGD, {**parameters, "inverse_temperature": float(match["inverse_temperature"])}
    return PGD, {**parameters, "loss": _LOSS_OF[match["family"]]}
