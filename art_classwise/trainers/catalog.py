"""The training methods, a record each, which command line, recipes, documentation and tests read: without torch."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from art_classwise.errors import unknown

if TYPE_CHECKING:
    from art_classwise.trainers import SearchTrainer

__all__ = ["METHODS", "MethodSpec", "method_names", "method_spec", "usual_beta"]


@dataclass(frozen=True)
class MethodSpec:
    """What is known of a training method before its trainer is imported.

    Attributes:
        name: As the command line and recipes have it.
        title: As prose has it, within a sentence.
        summary: One line: its source, and what it descends.
        class_name: Its trainer's, in ``art_classwise.trainers``.
        beta: The usual weight of the second term, which is the default of the trainer; None where there is none.
        options: The trainer's own options besides ``beta``.
        module: Where the trainer's class is.
        variants: Methods behind the same trainer, which takes their names as ``method``, with a line for each. The
            command line and recipes know them by these names, too.
        method: Which of these the record is of, where it isn't that of them all.
    """

    name: str
    title: str
    summary: str
    class_name: str
    beta: float | None = None
    options: tuple[str, ...] = ()
    module: str = "art_classwise.trainers.methods"
    variants: tuple[tuple[str, str], ...] = ()
    method: str | None = None

    @property
    def trainer(self) -> type[SearchTrainer]:
        """The trainer's class, imported when it is asked for."""
        trainer: type[SearchTrainer] = getattr(importlib.import_module(self.module), self.class_name)
        return trainer


METHODS: dict[str, MethodSpec] = {
    spec.name: spec
    for spec in (
        MethodSpec(
            "standard",
            "standard adversarial training",
            "Madry et al. 2018: cross-entropy under attack",
            "AdversarialTrainerStandardPyTorch",
            options=("nb_epochs", "batch_size", "num_random_init"),
        ),
        MethodSpec(
            "trades",
            "TRADES",
            "Zhang et al. 2019: cross-entropy on clean images, and KL divergence to those under its own attack on it",
            "AdversarialTrainerTRADESPyTorch",
            beta=6.0,
        ),
        MethodSpec(
            "mart",
            "MART",
            "Wang et al. 2020: boosted cross-entropy under attack, and KL divergence weighted by how wrong the clean "
            "prediction is; with all ablations, and exactly as published with `exact=True`",
            "AdversarialTrainerMARTPyTorch",
            beta=5.0,
            options=("boosted", "on", "kl", "weighted", "attacked", "misclassified_attack", "exact"),
        ),
        MethodSpec(
            "bat",
            "BAT",
            "Sun et al. 2023: examples on both sides of the decision boundary that the attack crosses",
            "AdversarialTrainerBATPyTorch",
            beta=6.0,
            options=("exact",),
        ),
        MethodSpec(
            "natural",
            "natural training",
            "cross-entropy on clean images, as a control",
            "NaturalTrainerPyTorch",
        ),
        MethodSpec(
            "fast",
            "fast training",
            "cross-entropy under an attack of one step, N-FGSM or FGSM-RS; tells which classes overfit to it",
            "AdversarialTrainerFastPyTorch",
            options=("method", "noise", "on_collapse", "collapse_gap"),
            module="art_classwise.trainers.fast",
            variants=(
                ("n-fgsm", "N-FGSM, de Jorge et al. 2022"),
                ("fgsm-rs", "FGSM-RS, Wong et al. 2020"),
            ),
        ),
        MethodSpec(
            "distillation",
            "distillation",
            "a teacher's soft labels, clean and under attack: ARD, RSLAD, Fair-ARD or ABSLD",
            "AdversarialTrainerDistillationPyTorch",
            options=("teacher", "method", "alpha", "temperature", "exact"),
            module="art_classwise.trainers.distillation",
            variants=(
                ("ard", "ARD, Goldblum et al. 2020"),
                ("rslad", "RSLAD, Zi et al. 2021"),
                ("fair-ard", "Fair-ARD, Yue et al. 2023"),
                ("absld", "ABSLD, Zhao et al. 2024"),
            ),
        ),
    )
}
"""The training methods by name."""


def method_spec(name: Any) -> MethodSpec:
    """Return the record of a method.

    Raises:
        InputError: There is none of this name.
    """
    if name in METHODS:
        return METHODS[name]
    for spec in METHODS.values():
        if name in dict(spec.variants):
            return replace(spec, name=name, method=name)
    raise unknown("method", name, method_names())


def method_names() -> list[str]:
    """Return the names of all methods, those behind the same trainer as well."""
    return [name for spec in METHODS.values() for name in (spec.name, *dict(spec.variants))]


def usual_beta(name: str) -> float:
    """Return the usual beta of a method that has one: the default of its trainer."""
    beta = METHODS[name].beta
    if beta is None:
        raise ValueError(f"{name} has no beta.")
    return beta
