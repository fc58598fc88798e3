"""Arguments of trainers, looked at before any work is done; and class budgets, before each epoch."""

from __future__ import annotations

import numbers
import warnings
from typing import Any, get_args

import numpy as np
import torch
from art.attacks.attack import EvasionAttack

from art_classwise._core.labels import check_reads_true_labels
from art_classwise.errors import InputError, check_number, unknown
from art_classwise.threat import ThreatModel
from art_classwise.trainers._objective import PassOrder
from art_classwise.trainers._schedule import Interval, needs
from art_classwise.trainers.policies import ClassPolicy

__all__ = [
    "check_attack",
    "check_beta",
    "check_budgets",
    "check_optimizer",
    "check_passes",
    "check_policy",
    "check_scheduler",
    "split_attack",
    "threat_under",
]


def check_optimizer(classifier: Any) -> None:
    """Check that a classifier has an optimizer, of its own weights, whose step needs nothing.

    Raises:
        InputError: It hasn't.
    """
    optimizer = classifier.optimizer
    if optimizer is None:
        raise InputError(
            "The classifier has no optimizer: make it with one, as_classifier(..., optimizer=torch.optim.SGD(...))."
        )
    needed = needs(type(optimizer).step.__get__(optimizer))  # the object's own a scheduler may have wrapped
    if needed:
        raise InputError(
            f"The step of the optimizer {type(optimizer).__name__} needs {needed[0]}, to compute the loss several "
            "times: take one whose step needs nothing, such as torch.optim.SGD or AdamW."
        )
    other = next((p.dtype for p in classifier.model.parameters() if p.dtype != torch.float32), None)
    if other is not None:
        raise InputError(
            f"The network has weights of {other}: trainers keep them in float32 (call network.float()), and compute in "
            "bfloat16 where precision says so."
        )
    unapplied = [p for p in classifier.preprocessing_operations if p.apply_fit and not p.apply_predict]
    if unapplied:
        raise InputError(
            f"The defence {type(unapplied[0]).__name__} of the classifier is for training only (apply_fit without "
            "apply_predict), which adversarial training doesn't do: make the classifier without it."
        )
    own = {id(p) for p in classifier.model.parameters() if p.requires_grad}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise InputError(
            "The optimizer holds none of the classifier's weights that require a gradient, so that nothing would be "
            "trained: make it of the same network's parameters()."
        )


def check_attack(attack: Any, classifier: Any) -> None:
    """Check that an attack can be trained against: ART's, untargeted, on the classifier.

    Raises:
        InputError: It can't.
    """
    if not isinstance(attack, EvasionAttack):
        raise InputError(f"`attack` must be an evasion attack of ART, but is a {type(attack).__name__}.")
    if getattr(attack, "estimator", None) is not classifier:
        raise InputError(
            f"The {type(attack).__name__} must attack the classifier that is trained: make it on that one."
        )
    check_reads_true_labels(f"The {type(attack).__name__}", attack)


def check_policy(policy: Any, attack: Any, ema_decay: Any) -> None:
    """Check that something is a class policy, and that it goes with an attack and an average of weights.

    Raises:
        InputError: It doesn't.
    """
    if not isinstance(policy, ClassPolicy):
        raise InputError(
            f"`class_policy` must be a policy of art_classwise.policies, such as DAFA(warmup=20), but got {policy!r}."
        )
    if policy.sets_budgets and attack is not None:
        raise InputError(
            f"The class policy {type(policy).__name__} sets class budgets, which are for the built-in attack: leave "
            "`attack` out, or choose a policy that sets weights alone."
        )
    if policy.averaging is not None and ema_decay is not None:
        raise InputError(
            f"The class policy {type(policy).__name__} averages weights itself (FAWA): leave `ema_decay` out, or "
            "switch fawa off."
        )


def check_budgets(policy: ClassPolicy, threat: ThreatModel, largest: float, epoch: int) -> None:
    """Check the class budgets of the epoch to come: no radius is 0, or covers the whole range of images.

    Args:
        policy: What sets them.
        threat: Norm and radius of the training attack.
        largest: Radius that covers the whole range.
        epoch: Number of epochs done.

    Raises:
        InputError: One is, or does.
    """
    budgets = policy.class_budgets
    if budgets is None:
        return
    for k, radius in enumerate(threat.eps * scale for scale in budgets.radii.tolist()):
        if not 0 < radius <= largest:
            raise InputError(
                f"{type(policy).__name__} sets the class budget of class {k} to {radius:g} for epoch {epoch + 1}, but "
                f"budgets lie above 0 and at most at {largest:g}: choose parameters by which the policy changes less, "
                "in a training of its own; it may begin with these weights, which are those from after epoch "
                f"{epoch}."
            )


def check_passes(passes: Any, views: str) -> PassOrder | None:
    """Return the order of the forward passes if it is one.

    Args:
        passes: Letters of the views, before and after the step, which is ``|``; or None.
        views: The letters that there are: c, the clean images, and those under attack, which the step needs.

    Raises:
        InputError: It isn't.
    """
    if passes is None:
        return None
    before, _, after = str(passes).partition("|")
    if not isinstance(passes, str) or set(before + after) - set(views) or (set(views) - {"c"}) - set(before):
        attacked = " and ".join(f'"{view}"' for view in views if view != "c") or '"c"'
        raise InputError(
            f'`passes` must be letters of "{views}" and at most one "|", the step, with {attacked} before it, such as '
            f'"{views}" or "{views}|c", but got {passes!r}.'
        )
    return PassOrder(before, after)


def check_scheduler(scheduler: Any, interval: object, optimizer: Any) -> None:
    """Check that a scheduler's step can be called after each epoch or step.

    Raises:
        InputError: It can't.
    """
    if interval not in get_args(Interval):
        raise unknown("scheduler_interval", interval, get_args(Interval))
    if scheduler is None:
        return
    if isinstance(scheduler, type) or not callable(getattr(scheduler, "step", None)):
        raise InputError(f"`scheduler` must be an object with a method step(), but got {scheduler!r}.")
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise InputError(
            f"The {type(scheduler).__name__} is of another optimizer than the classifier's, and would never change its "
            "learning rate: make it of classifier.optimizer."
        )
    needed = needs(scheduler.step)
    most = 1 if interval == "epoch" else 0  # a metric, which there is one of per epoch
    if len(needed) > most:
        raise InputError(
            f"`scheduler.step()` is called {'with a metric at most' if most else 'without arguments'} after each "
            f"{interval}, but that of {type(scheduler).__name__} needs {', '.join(needed)}: wrap it in an object whose "
            "step() takes none."
        )


def threat_under(
    attack: Any, norm: float | str, eps: Any, eps_step: Any
) -> tuple[float | str, float | None, float | None]:
    """Return a trainer's norm, radius and step: where no radius is given, those of its attack, as far as it has them.

    Warns of a radius, or a norm, that isn't the attack's.
    """
    within: Any = getattr(attack, "attack", None)  # a transfer's
    searched = within if hasattr(within, "generate") else attack
    try:
        own = ThreatModel.from_art(searched.norm, searched.eps)
    except (AttributeError, TypeError, ValueError):
        return norm, eps, eps_step  # it has none, or several
    if eps is None:
        step: Any = getattr(searched, "eps_step", None)
        usable = eps_step is None and isinstance(step, numbers.Real) and float(step) > 0
        return own.art_norm, own.eps, float(step) if usable else eps_step
    given = ThreatModel.from_art(norm, eps)
    if given.norm != own.norm or abs(given.eps - own.eps) > 0.01 * given.eps:
        warnings.warn(
            f"The trainer is given {given}, but its attack, a {type(attack).__name__}, searches within {own}, which "
            "applies: leave `norm` and `eps` out.",
            stacklevel=4,
        )
    return norm, eps, eps_step


def split_attack(given: tuple[Any, ...], beta: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return beta and the options of a trainer that may be called as ART's: (classifier, attack, beta).

    Args:
        given: What was given by position after the classifier: beta; an attack; or both, the attack first.
        beta: What was given by name, or the default.
        options: The other arguments.

    Raises:
        InputError: It was given in another order, or twice.
    """
    if given and isinstance(given[0], EvasionAttack):
        if options.get("attack") is not None:
            raise InputError("There are two attacks, one by position and one as `attack`: give one.")
        options = {**options, "attack": given[0]}
        given = given[1:]
    if len(given) > 1:
        raise InputError(
            "After the classifier come `beta`, or an attack and `beta`; everything else is given by its name, "
            f"but got {', '.join(type(value).__name__ for value in given)} as well."
        )
    return (given[0] if given else beta), options


def check_beta(beta: Any) -> float:
    """Return the weight of a KL term if it is one.

    Raises:
        InputError: It isn't a finite number of at least 0.
    """
    if isinstance(beta, EvasionAttack):
        raise InputError(f"`beta` is a number, but got a {type(beta).__name__}: give it as attack=...")
    check_number("beta", beta, 0, np.inf, below=True, words="of at least 0, and finite")
    return float(beta)
