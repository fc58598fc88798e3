"""What an audit is asked for: models, data and attacks, checked and described."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from art_classwise._core import art_interface
from art_classwise._core.forward import check_predicts_logits
from art_classwise._core.labels import check_reads_true_labels
from art_classwise.attacks.fast_copy import compute_alike
from art_classwise.audit.manifest import Attack
from art_classwise.audit.plan import CLEAN_NAME
from art_classwise.audit.provenance import fingerprint, parameters
from art_classwise.datasets import Dataset
from art_classwise.errors import InputError, check_name, unknown

__all__ = ["check_fit", "check_names", "check_told_apart", "checked_attack", "described_attacks"]


def check_names(models: Any, optional: Any, data: Dataset) -> None:
    """Check the models' names, those of optional ones, and the examples' numbers.

    Raises:
        InputError: They can't be told apart, or there is no model.
    """
    if not isinstance(models, Mapping) or not models:
        raise InputError("`models` must be a dict of at least one ART classifier by name.")
    for name in models:
        check_name("model", name)
    if isinstance(optional, str):
        raise InputError(f"`optional` must be names of models, such as [{optional!r}], but is a string.")
    for name in optional:
        if name not in models:
            raise unknown("model in `optional`", name, models)
    if len(np.unique(data.ids)) < len(data):
        raise InputError("The examples' ids must differ: outcomes are identified by them.")


def described_attacks(attacks: Mapping[str, Mapping[str, Any]], *, worst_case: bool) -> dict[str, Attack]:
    """Return what tells the attacks apart, the same for all models.

    Raises:
        InputError: An attack has other parameters on one model than on another.
    """
    shared: dict[str, dict[str, Any]] = {}
    for model, on_model in attacks.items():
        for name, attack in on_model.items():
            values = parameters(attack)
            if shared.setdefault(name, values) != values:
                raise InputError(
                    f"The attack {name!r} has other parameters on {model!r} than on {next(iter(attacks))!r}, so that "
                    "the two can't be compared: audit them separately."
                )
    if CLEAN_NAME in shared:
        raise InputError(f"The attack name {CLEAN_NAME!r} is reserved for outcomes without attack: choose another.")
    pairs = [[name, values] for name, values in shared.items()]
    return {
        name: Attack(fingerprint=fingerprint(pairs[: i + 1] if worst_case else [name, values]), parameters=values)
        for i, (name, values) in enumerate(shared.items())
    }


def check_fit(name: str, classifier: Any, data: Dataset) -> None:
    """Check that a model can be audited on the data.

    Raises:
        InputError: It can't; the reason is named.
    """
    art_interface.check_classifier(f"The model {name!r}", classifier)
    low, high = classifier.clip_values if classifier.clip_values is not None else (-np.inf, np.inf)
    if not (np.all(np.asarray(low) == 0) and np.all(np.asarray(high) == 1)):
        raise InputError(
            f"The model {name!r} has clip_values {classifier.clip_values}, but an audit's images lie in [0, 1]: "
            "make the classifier with clip_values=(0, 1)."
        )
    check_predicts_logits(f"The model {name!r}", classifier)
    if classifier.nb_classes != len(data.classes):
        raise InputError(
            f"The model {name!r} has {classifier.nb_classes} classes, but {data.name} has {len(data.classes)}."
        )
    if tuple(classifier.input_shape) != data.input_shape:
        raise InputError(
            f"The model {name!r} takes images of shape {tuple(classifier.input_shape)}, but those of {data.name} "
            f"have shape {data.input_shape}."
        )


def check_told_apart(models: Mapping[str, Any], fingerprints: Mapping[str, str]) -> None:
    """Check that models with one fingerprint, which are computed once, are one: classes' code isn't part of it.

    Raises:
        InputError: Two compute differently.
    """
    first: dict[str, str] = {}
    for name, classifier in models.items():
        other = first.setdefault(fingerprints[name], name)
        if classifier.model is models[other].model:
            continue
        same, this = (art_interface.logits_module(one) for one in (models[other], classifier))
        if not compute_alike(same, this, art_interface.noise(classifier)):
            raise InputError(
                f"The models {other!r} and {name!r} have the same weights and layers, but compute differently. What "
                "differs is the code of a class: give the class of one another name."
            )


def checked_attack(name: str, attack: Any) -> Any:
    """Return an attack, if it is one that an audit can ask.

    Raises:
        InputError: It is no evasion attack of ART's, or takes the labels for targets.
    """
    if not (hasattr(attack, "generate") and hasattr(attack, "attack_params")):
        raise InputError(
            f"The function for {name!r} must return an ART evasion attack on the classifier it is given, "
            f"but returned a {type(attack).__name__}."
        )
    check_reads_true_labels(f"The attack {name!r}", attack)
    for inner in getattr(attack, "attacks", None) or ():
        if getattr(inner, "targeted", False):  # ART's AutoAttack leaves them so, and begins by setting this
            inner.set_params(targeted=False)
    return attack
