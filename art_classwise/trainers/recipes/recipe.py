"""A recipe: how a network is trained, as one object; plain and fast ones."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from art_classwise.attacks import usual_threat
from art_classwise.datasets.catalog import DATASETS
from art_classwise.datasets.load import known_name
from art_classwise.errors import (
    InputError,
    as_float,
    check_flag,
    check_number,
    check_positive,
    check_whole,
    shown,
    unknown,
)
from art_classwise.threat import ThreatModel
from art_classwise.trainers.catalog import METHODS, method_spec
from art_classwise.trainers.engine.options import check_beta, training_options
from art_classwise.trainers.engine.schedule import Keep
from art_classwise.trainers.policies import parse_policy

__all__ = ["Recipe", "fast_recipe", "plain_recipe"]

Schedule = Literal["decay", "cosine", "one-cycle"]
DecayUnit = Literal["epoch", "step"]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: optimizer, schedule, training attack, augmentation, what is done to weights.

    Attributes:
        name: ``"paper"``, ``"fast"`` or ``"plain"``; of a method's variants ``"paper:awp"``, ``"paper:dafa"``, ...
        method: Which trainer it is for: a name of ``art_classwise.trainers.METHODS``.
        source: Where the numbers come from.
        threat: Norm and radius of the training attack.
        eps_step: Length of its steps. If absent a quarter of the radius; in L2 for TRADES' own recipes twice the radius
            divided by the number of steps, as in its authors' code.
        steps: Number of its steps.
        beta: Weight of the objective's second term, a divergence; None where there is none.
        epochs: Number of epochs.
        batch_size: Examples per step of the optimizer.
        lr: SGD's learning rate, the highest one of the schedule.
        momentum: SGD's.
        weight_decay: SGD's.
        nesterov: Whether momentum is Nesterov's.
        schedule: ``"decay"``: as ``decay`` says; ``"cosine"``: to 0, epoch by epoch; ``"one-cycle"``: step by step
            from lr / 25 up to lr for the first three tenths, then down to almost 0 (Smith and Topin 2017, arXiv
            1708.07120).
        rise: Share of the one cycle in which the rate rises, in place of three tenths.
        decay: Pairs (first, factor): from epoch ``first`` on, counted from 1, the learning rate is ``factor * lr``.
        decay_unit: Whether ``first`` counts epochs or steps of the optimizer.
        crop_padding: Pixels of zero padding before a random crop; 0 for none.
        flip: Whether images are flipped at random.
        two_passes: As the trainers' option.
        passes: As the trainers' option.
        exact: Whether MART or BAT follows its published implementation to the letter.
        precision: As the trainers' option. The published trainings computed in float32, which ``"fp32"`` does.
        compile: Whether to compile the network; None: where it is on a CUDA device.
        unlabeled_fraction: Share of each batch that is unlabelled, where it is a recipe for semi-supervised training.
        verified: Of a paper's recipe, whether all its numbers were read in the paper or in the authors' code; None for
            the others.
        unverified: What wasn't, where it isn't: numbers that are second-hand, remembered, or chosen by us.
        changed: Of a paper's recipe, which attributes :meth:`override` has changed.
        attack_mode: As the trainers' option, as are ``friendly_tau``, ``class_balanced``, ``label_smoothing``,
            ``gradient_clip``, ``ema_decay``, ``awp_gamma`` and ``awp_warmup``.
        class_policy: As a command line has it, ``"dafa:lamb=1.5"``: see
            :func:`art_classwise.policies.parse_policy`. None if there is none.
        validation: Share of the training examples to hold out, and to validate on after each epoch.
        keep: Which epoch's weights to keep, as ``fit`` has it; None leaves it to whoever trains.
        fine_tunes: Whether it starts from a robust network.

    Raises:
        InputError: The method, class policy or schedule is unknown, or a value is out of range.
    """

    name: str
    method: str
    source: str
    threat: ThreatModel
    eps_step: float | None = None
    steps: int = 10
    beta: float | None = None
    epochs: int = 30
    batch_size: int = 128
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    schedule: Schedule = "cosine"
    decay: tuple[tuple[int, float], ...] = ()
    decay_unit: DecayUnit = "epoch"
    crop_padding: int = 0
    flip: bool = False
    two_passes: bool = False
    passes: str | None = None
    exact: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool | None = False
    unlabeled_fraction: float | None = None
    rise: float = 0.3
    verified: bool | None = None
    unverified: str = ""
    changed: tuple[str, ...] = ()
    attack_mode: Literal["eval", "train"] = "eval"
    friendly_tau: int | None = None
    class_balanced: bool = False
    label_smoothing: float = 0.0
    gradient_clip: float | None = None
    ema_decay: float | None = None
    awp_gamma: float = 0.0
    awp_warmup: int = 0
    class_policy: str | None = None
    validation: float = 0.0
    keep: Keep | None = None
    fine_tunes: bool = False

    def __post_init__(self) -> None:
        method_spec(self.method)
        if not isinstance(self.threat, ThreatModel):
            raise InputError(f'`threat` must be a ThreatModel, such as ThreatModel("Linf", 0.03), not {self.threat!r}.')
        check_positive("lr", self.lr)
        for name in ("epochs", "batch_size", "steps"):
            check_whole(name, getattr(self, name), 1)
        for name in ("nesterov", "exact", "fine_tunes"):
            check_flag(name, getattr(self, name))
        check_number("momentum", self.momentum, 0, 1, below=True)
        check_number("weight_decay", self.weight_decay, 0, math.inf, below=True, words="of at least 0, and finite")
        if self.nesterov and self.momentum == 0:
            raise InputError("`nesterov` needs `momentum` above 0.")
        if self.beta is not None:
            check_beta(self.beta)
        for what, value, known in (("schedule", self.schedule, Schedule), ("decay_unit", self.decay_unit, DecayUnit)):
            if value not in get_args(known):
                raise unknown(what, value, get_args(known))
        _check_decay(self.decay)
        if self.unlabeled_fraction is not None:
            check_number("unlabeled_fraction", self.unlabeled_fraction, 0, 1)
        check_number("rise", self.rise, 0, 1)
        check_number("validation", self.validation, 0, 1, below=True)
        compiled = False if self.compile is None else self.compile  # None leaves it to the device
        training_options({name: getattr(self, name) for name in (*_SHARED, *_TRAINERS)} | {"compile": compiled})
        if self.keep is not None and self.keep not in get_args(Keep):
            raise unknown("rule to keep weights by", self.keep, get_args(Keep))
        if not isinstance(self.class_policy, str | None):
            raise InputError(
                "A recipe's `class_policy` is written as on a command line, such as 'dafa:lamb=1.5', but got "
                f"{shown(self.class_policy)}. A trainer takes policies themselves."
            )
        for part in () if self.class_policy is None else re.split(r"\s\+\s", self.class_policy):
            if part.partition(":")[0].strip().lower() not in ("weights", "budgets"):  # of classes, not known here
                parse_policy(part, ())

    @property
    def provenance(self) -> str:
        """The source, with what of it wasn't verified, and what was changed."""
        if self.verified is None:
            return self.source
        told = "verified" if self.verified else f"not verified: {self.unverified}"
        return f"{self.source} ({told}{'; changed: ' if self.changed else ''}{', '.join(self.changed)})"

    def override(self, **given: Any) -> Recipe:
        """Return the recipe with other values for these attributes; None leaves an attribute as it is.

        With a new ``threat`` and no new ``eps_step``, steps are as if the recipe had none: see there. With new
        ``epochs``, what begins at an epoch still begins there: ``decay``, ``awp_warmup``, the class policy.

        Raises:
            InputError: A recipe has no such attribute, a value is out of range, or ``beta`` is given for a method that
                has none.
        """
        for name in given:
            if name not in (known := [f.name for f in fields(self)]):
                raise unknown("attribute of a recipe", name, known)
        changes = {name: value for name, value in given.items() if value is not None}
        if "beta" in changes and self.beta is None:
            have = ", ".join(name for name, spec in METHODS.items() if spec.beta is not None)
            raise InputError(f"`beta` is a parameter of {have}; {self.method} has none.")
        if "threat" in changes:
            changes["threat"] = ThreatModel.parse(changes["threat"])
        if "threat" in changes and changes["threat"] != self.threat:
            changes.setdefault("eps_step", None)
        if self.verified is not None:
            new = [name for name, value in changes.items() if value != getattr(self, name) and name != "compile"]
            changes["changed"] = tuple(dict.fromkeys((*self.changed, *new)))
        return replace(self, **changes)

    def optimizer(self, module: nn.Module) -> torch.optim.SGD:
        """Return the optimizer of a module's parameters."""
        return torch.optim.SGD(
            module.parameters(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )

    def scheduler(
        self, optimizer: torch.optim.Optimizer, n_examples: int, *, batch_size: int | None = None
    ) -> tuple[LRScheduler, Literal["epoch", "step"]]:
        """Return the schedule, and whether it steps after each epoch or after each step of the optimizer.

        Args:
            optimizer: As :meth:`optimizer` made it.
            n_examples: Number of labelled training examples.
            batch_size: How many of them are in a step; the recipe's batch size if absent.

        Returns:
            ``fit``'s ``scheduler`` and ``scheduler_interval``.
        """
        if self.schedule == "decay":
            return LambdaLR(optimizer, _Decay(self.decay)), self.decay_unit
        if self.schedule == "cosine":
            return CosineAnnealingLR(optimizer, self.epochs), "epoch"
        steps = self.epochs * math.ceil(n_examples / (batch_size or self.batch_size))
        return OneCycleLR(optimizer, self.lr, total_steps=steps, pct_start=self.rise, cycle_momentum=False), "step"

    def fit_options(
        self, optimizer: torch.optim.Optimizer, n_examples: int, *, batch_size: int | None = None
    ) -> dict[str, Any]:
        """Return a trainer's options for ``fit``: batch size, epochs, schedule. Arguments as :meth:`scheduler`.

        What to validate on and which epoch to keep, ``validation`` and ``keep``, is for the caller.
        """
        scheduler, interval = self.scheduler(optimizer, n_examples, batch_size=batch_size)
        return {
            "batch_size": self.batch_size,
            "nb_epochs": self.epochs,
            "scheduler": scheduler,
            "scheduler_interval": interval,
        }

    def trainer_options(self, module: nn.Module | None = None, classes: Sequence[str] = ()) -> dict[str, Any]:
        """Return the options for the trainer of this method.

        Args:
            module: The network, on the device it is trained on: it decides where ``compile`` is None. If absent,
                whether there is a CUDA device decides.
            classes: The class names, for a ``class_policy`` that names some.

        Raises:
            InputError: The class policy names another class.
        """
        options: dict[str, Any] = {
            "norm": self.threat.art_norm,
            "eps": self.threat.eps,
            "eps_step": self._step(),
            "max_iter": self.steps,
            "crop_padding": self.crop_padding,
            "flip": self.flip,
            "two_passes": self.two_passes,
            "passes": self.passes,
            "precision": self.precision,
            "compile": _on_cuda(module) if self.compile is None else self.compile,
        }
        options |= {name: value for name, value in self._changed().items() if name in _SHARED}
        if self.class_policy is not None:
            options["class_policy"] = parse_policy(self.class_policy, classes)
        if self.beta is not None:
            options["beta"] = self.beta
        if "exact" in method_spec(self.method).options:
            options["exact"] = self.exact
        return options

    def _step(self) -> float | None:
        """Return the length of the attack's steps, where the recipe has one; else the trainer's default holds."""
        papers = self.name.partition(":")[0] == "paper"
        if self.eps_step is None and papers and (self.method, self.threat.norm) == ("trades", "L2"):
            return 2 * self.threat.eps / self.steps
        return self.eps_step

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for a checkpoint's ``recipe``; from ``rise`` on what isn't the default."""
        values = {name: value for name, value in asdict(self).items() if name not in _ADDED} | self._changed()
        step = self._step()
        step = self.threat.eps / 4 if step is None else step
        decay = [list(pair) for pair in self.decay]
        if self.changed:
            values["changed"] = list(self.changed)
        return values | {"recipe": values.pop("name"), "threat": str(self.threat), "eps_step": step, "decay": decay}

    def _changed(self) -> dict[str, Any]:
        """Return those of the attributes added later that aren't the default."""
        return {name: getattr(self, name) for name, usual in _ADDED.items() if getattr(self, name) != usual}


_SHARED = (
    *("attack_mode", "friendly_tau", "class_balanced", "label_smoothing"),
    *("gradient_clip", "ema_decay", "awp_gamma", "awp_warmup"),
)
"""Options of all trainers that a recipe may set, and leaves to the trainer's default else."""

_TRAINERS = ("eps_step", "crop_padding", "flip", "two_passes", "precision")
"""Options of all trainers that a recipe always sets, by the same names."""

_ADDED = {
    f.name: f.default
    for f in fields(Recipe)
    if f.name
    in {*_SHARED, "rise", "verified", "unverified", "changed", "class_policy", "validation", "keep", "fine_tunes"}
}
"""Attributes that checkpoints of before don't name, with their defaults."""


def _check_decay(decay: object) -> None:
    pairs = decay if isinstance(decay, Sequence) and not isinstance(decay, str) else [decay]
    firsts = [1]
    for pair in pairs:
        first, factor = pair if isinstance(pair, Sequence) and len(pair) == 2 else (None, None)
        if isinstance(first, bool) or not isinstance(first, int) or not 0 < as_float(factor) < math.inf:
            raise InputError(
                "`decay` must be pairs (first, factor), the first whole number from 1 and a factor above 0, such as "
                f"((75, 0.1), (90, 0.01)), but got {shown(decay)}."
            )
        firsts.append(first)
    if any(later < before for before, later in itertools.pairwise(firsts)):  # of several at once the last one holds
        raise InputError(f"`decay` must begin at 1 or later, and never fall back, but got {shown(decay)}.")


class _Decay:
    """The factor of the learning rate by epoch (or step). An object, so that a scheduler's state_dict holds it."""

    def __init__(self, decay: tuple[tuple[int, float], ...]) -> None:
        self.decay = decay

    def __call__(self, done: int) -> float:
        return next((factor for first, factor in reversed(self.decay) if done + 1 >= first), 1.0)


def _on_cuda(module: nn.Module | None) -> bool:
    parameter = None if module is None else next(module.parameters(), None)
    return torch.cuda.is_available() if parameter is None else parameter.is_cuda


_OWN_DATA = "Linf:8/255"
"""Where no threat model is in use for a data set, as for the user's own."""


def plain_recipe(method: str, dataset: str | None = None, *, threat: ThreatModel | str | None = None) -> Recipe:
    """Return a recipe to start from: SGD at 0.05, a cosine over 30 epochs, 10 attack steps, no augmentation.

    Args:
        method: A name of ``art_classwise.trainers.METHODS``: ``"mart"``, say.
        dataset: Its name, as :func:`art_classwise.load_dataset` takes it, decides on the threat model if none is given.
        threat: Norm and radius of the training attack; if absent, the ones in use for the data set, or ``Linf:8/255``.

    Raises:
        InputError: The method is unknown, or the threat model can't be read.
    """
    spec = None if dataset is None else DATASETS.get(known_name(dataset))
    usual = spec.threat if spec else _OWN_DATA
    return Recipe(
        "plain",
        method,
        "a cosine schedule; no paper's",
        ThreatModel.parse(usual if threat is None else threat),
        beta=method_spec(method).beta,
    )


def fast_recipe(
    method: str,
    dataset: str | None,
    *,
    architecture: str | None = None,
    threat: ThreatModel | str | None = None,
    epochs: int = 30,
    image_size: int | None = None,
) -> Recipe:
    """Return a one-cycle recipe of about 30 epochs; bfloat16 where the hardware has it, compiled on a CUDA device.

    The learning rate peaks at 0.2 for networks with batch norm, as in Wong, Rice, Kolter, "Fast is better than
    free" (ICLR 2020, arXiv 2001.03994), and at 0.05 for the small networks without it. No paper's.

    Args:
        method: A name of ``art_classwise.trainers.METHODS``: ``"mart"``, say.
        dataset: Its name, as :func:`art_classwise.load_dataset` takes it, decides on the augmentation, and on the
            threat model if none is given; None is data of your own.
        architecture: As :func:`art_classwise.build` knows it; if absent, a small network for MNIST and the digits
            and a ResNet for all else.
        threat: Norm and radius of the training attack; the ones in use for the data set if absent.
        epochs: Number of epochs.
        image_size: Side of the images, if they are resized: crops are padded in proportion.

    Raises:
        InputError: The method is unknown, or no threat model is given and none is in use for the data set.
    """
    name = None if dataset is None else known_name(dataset)
    spec = None if name is None else DATASETS.get(name)
    network = architecture if architecture is not None else spec and spec.network
    small = network in {own.network for own in DATASETS.values()} - {None}
    return Recipe(
        "fast",
        method,
        "a one-cycle schedule; no paper's",
        usual_threat(name) if threat is None else ThreatModel.parse(threat),
        beta=method_spec(method).beta,
        epochs=epochs,
        lr=0.05 if small else 0.2,
        nesterov=True,
        schedule="one-cycle",
        crop_padding=spec.crop_padding_at(image_size) if spec else 0,
        flip=spec is not None and spec.flip,
        compile=None,
    )
