"""The attack inside training."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast
from unittest.mock import patch

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from torch import Tensor, nn

from art_classwise import losses
from art_classwise._core.random_numbers import ExampleUniform, derive, gaussian
from art_classwise._core.state import evaluating, preserved
from art_classwise.attacks.search import Loss, Solved, search
from art_classwise.errors import InputError
from art_classwise.threat import ThreatModel, Uniform, per_example
from art_classwise.trainers.engine.soft_labels import TeacherLabels

__all__ = [
    "Adversary",
    "ArtAdversary",
    "Attacked",
    "BoundarySearch",
    "Budgets",
    "InnerSearch",
    "MisclassifiedAttack",
    "StepCount",
    "TrainModeNetwork",
]

Attacked = Literal["all", "correct", "misclassified"]
MisclassifiedAttack = Literal["pgd", "fgsm", "cw", "none"]


class StepCount:
    """How many iterates each example of a batch withstood: what a search leaves here for a policy.

    Attributes:
        n_withstood: int64 (m,) of the points at which it computed a gradient; None before.
    """

    n_withstood: Tensor | None = None


@dataclass(frozen=True)
class Budgets:
    """What the examples of a batch may be changed by, relative to the threat model's radius and the usual step.

    Attributes:
        radii: (m,), the radii; None is the threat model's for all.
        steps: (m,), the lengths of the steps; None is the usual one.
        targets: int64 (m,), classes that they are moved towards, -1 for none; None is none for all.
        count: Where to leave how many iterates each withstood, if that is asked for.
    """

    radii: Tensor | None = None
    steps: Tensor | None = None
    targets: Tensor | None = None
    count: StepCount | None = None


class Adversary(Protocol):
    """What makes the adversarial inputs of a batch."""

    def __call__(
        self, module: nn.Module, x: Tensor, y: Tensor, uniform: Uniform, budgets: Budgets | None = None
    ) -> Tensor:
        """Return adversarial inputs (m, ...), or several for each, one after the other (k m, ...).

        Args:
            module: Maps images to logits; it is as before afterwards.
            x: (m, ...) images.
            y: (m,) labels.
            uniform: Draws uniform numbers that belong to the examples.
            budgets: Each example's own; the threat model's if absent.
        """


@dataclass(frozen=True)
class InnerSearch:
    """Projected gradient ascent, in eval mode and with frozen weights, on the device.

    Attributes:
        threat: Norm and radius.
        eps_step: Length of a step.
        max_iter: Number of steps.
        low: Lower bound of the box of images.
        high: Upper bound of the box of images.
        start: ``"uniform"`` in the ball (Madry et al. 2018), ``"gaussian"``, x + 0.001 N(0, 1) (TRADES, MART), or
            ``"clean"``, x itself.
        loss: What is ascended: ``"cross_entropy"``, or ``"kl"``, the divergence from the clean prediction (TRADES).
            Examples that have a target ascend the negative cross-entropy with that instead.
        attacked: Which examples: all, or those that the network gets right, or wrong; the others stay as they are.
        misclassified_attack: How examples are attacked that the network gets wrong without: by the search (``"pgd"``);
            in one step of the radius from the image itself (``"fgsm"``); by the search on the margin (``"cw"``); or
            not at all (``"none"``). Those that have a target are moved towards it by all of these.
        friendly_tau: If given, each example's search ends at the iterate that is misclassified for the
            ``friendly_tau + 1``-th time (Zhang et al. 2020, FAT, algorithm 1). The last iterate isn't looked at: it
            stands for what wasn't found before.
        reference: What ``"kl"`` is the divergence from, in place of the clean prediction: a teacher's labels (RSLAD).
        noise: Radius of the uniform start, relative to the ball's.
        clipped: Whether the iterates stay in the ball; else in the box of images alone (N-FGSM).
    """

    threat: ThreatModel
    eps_step: float
    max_iter: int
    low: Tensor
    high: Tensor
    start: Literal["uniform", "gaussian", "clean"] = "uniform"
    loss: Literal["cross_entropy", "kl"] = "cross_entropy"
    attacked: Attacked = "all"
    misclassified_attack: MisclassifiedAttack = "pgd"
    friendly_tau: int | None = None
    reference: TeacherLabels | None = None
    noise: float = 1.0
    clipped: bool = True

    def __call__(
        self, module: nn.Module, x: Tensor, y: Tensor, uniform: Uniform, budgets: Budgets | None = None
    ) -> Tensor:
        """See :class:`Adversary`."""
        if self.friendly_tau is None:
            x_adv, clean = self._search(module, x, y, uniform, budgets)
        else:
            x_adv, clean = self._until_misclassified(module, x, y, uniform, budgets, self.friendly_tau)
        if clean is None or not self._splits:
            return x_adv
        correct = per_example(clean.argmax(1) == y, x)
        if self.misclassified_attack == "fgsm":
            x_adv = torch.where(correct, x_adv, self._fgsm(module, x, y, budgets))
        elif self.misclassified_attack == "none":
            x_adv = torch.where(correct, x_adv, x)
        if self.attacked != "all":
            x_adv = torch.where(correct if self.attacked == "correct" else ~correct, x_adv, x)
        return x_adv

    @property
    def _splits(self) -> bool:
        """Whether examples are treated by whether the network gets them right without the attack."""
        return self.attacked != "all" or self.misclassified_attack != "pgd"

    def _fgsm(self, module: nn.Module, x: Tensor, y: Tensor, budgets: Budgets | None) -> Tensor:
        """Return images after one step of the radius along cross-entropy (Goodfellow et al. 2015), or to the target."""
        asked = Budgets() if budgets is None else budgets
        eps = None if asked.radii is None else self.threat.eps * per_example(asked.radii, x)
        ascended = losses.cross_entropy if asked.targets is None else _towards(asked.targets, losses.cross_entropy)
        return search(
            *(module, x, y, self.threat, ascended),
            eps_step=self.threat.eps if eps is None else eps,
            max_iter=1,
            low=self.low,
            high=self.high,
            eps=eps,
        ).x_adv

    def _until_misclassified(
        self, module: nn.Module, x: Tensor, y: Tensor, uniform: Uniform, budgets: Budgets | None, tau: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return the iterates that are misclassified for the (tau + 1)-th time, else the last ones; clean logits."""
        n_wrong, found = torch.zeros(len(x), dtype=torch.int64, device=x.device), x
        wrong: list[Tensor] = []  # of the iterate that observe is shown next

        def look(logits: Tensor, rows: Tensor) -> Tensor:
            wrong[:] = [logits.argmax(1) != y]
            return wrong[0]

        def observe(step: int, rows: Tensor, x_adv: Tensor, gradient: Tensor) -> None:
            nonlocal n_wrong, found
            n_wrong = n_wrong + wrong[0]
            found = torch.where(per_example(wrong[0] & (n_wrong == tau + 1), x), x_adv, found)

        x_adv, clean = self._search(module, x, y, uniform, budgets, solved=look, observe=observe)
        return torch.where(per_example(n_wrong > tau, x), found, x_adv), clean

    def _search(
        self,
        module: nn.Module,
        x: Tensor,
        y: Tensor,
        uniform: Uniform,
        budgets: Budgets | None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the last iterates, and the clean logits where they were needed."""
        asked = Budgets() if budgets is None else budgets
        eps = None if asked.radii is None else self.threat.eps * per_example(asked.radii, x)
        step = self.eps_step if asked.steps is None else self.eps_step * per_example(asked.steps, x)
        start: Tensor | None = None
        if self.start == "uniform":
            start = self.threat.random_start(x, uniform, eps if self.noise == 1 else self.noise * self._radii(eps, x))
        elif self.start == "gaussian":
            start = x + 0.001 * gaussian(uniform, *x.shape)
        if not self.clipped:  # a ball that no iterate can leave
            eps = self.noise * self._radii(eps, x) + self.max_iter * step
        compared: Tensor = y
        clean: Tensor | None = None
        if (self.loss == "kl" and self.reference is None) or self._splits:
            with torch.no_grad(), evaluating(module):
                clean = module(x)
        ascended: Loss = losses.cross_entropy
        if self.loss == "kl":
            compared = cast(Tensor, clean) if self.reference is None else self.reference.logits_adv
            ascended = _from_clean
        if self.misclassified_attack == "cw" and clean is not None:
            ascended = _margin_where(clean.argmax(1) != y, ascended, y)
        if asked.targets is not None:
            ascended = _towards(asked.targets, ascended)
        if asked.count is not None:
            options["solved"] = _counting(asked.count, y, options.get("solved"))
        x_adv = search(
            module,
            x,
            compared,
            self.threat,
            ascended,
            eps_step=step,
            max_iter=self.max_iter,
            low=self.low,
            high=self.high,
            eps=eps,
            start=start,
            **options,
        ).x_adv
        return x_adv, clean

    def _radii(self, eps: Tensor | None, x: Tensor) -> Tensor:
        return per_example(x.new_full((len(x),), self.threat.eps), x) if eps is None else eps


@dataclass(frozen=True)
class BoundarySearch(InnerSearch):
    """The search of BAT, which looks for the boundary: of its iterates two, one on each side.

    Sun et al. 2023 (arXiv 2209.07534), section 4. Returned are the first iterates that are misclassified, and after
    them the last ones before those, (2 m, ...). Where no iterate is misclassified both are the last one; where the
    first iterate is, the clean image is the one before it.

    Attributes:
        exact: As the released code: see :class:`art_classwise.AdversarialTrainerBATPyTorch`.
    """

    exact: bool = False

    def __call__(
        self, module: nn.Module, x: Tensor, y: Tensor, uniform: Uniform, budgets: Budgets | None = None
    ) -> Tensor:
        """See :class:`Adversary`."""
        if self.exact:
            last = self._until_crossing(module, x, y, uniform, budgets)
            first, _ = self._until_misclassified(module, x, y, uniform, budgets, tau=1)  # from a start of its own
            return torch.cat([first, last])
        first, before = x.clone(), x.clone()
        crossed = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        wrong: list[Tensor] = []  # of the iterate that observe is shown next

        def look(logits: Tensor, rows: Tensor) -> Tensor:
            wrong[:] = [logits.argmax(1) != y]
            return wrong[0]

        def observe(step: int, rows: Tensor, x_adv: Tensor, gradient: Tensor) -> None:
            nonlocal first, before, crossed
            first = torch.where(per_example(crossed, x), first, x_adv)
            before = torch.where(per_example(crossed | wrong[0], x), before, x_adv)
            crossed = crossed | wrong[0]

        x_adv, _ = self._search(module, x, y, uniform, budgets, solved=look, observe=observe)
        with torch.no_grad(), evaluating(module):
            look(module(x_adv), y)  # the last iterate, which no step follows
        observe(self.max_iter, y, x_adv, x_adv)
        return torch.cat([first, before])

    def _until_crossing(
        self, module: nn.Module, x: Tensor, y: Tensor, uniform: Uniform, budgets: Budgets | None
    ) -> Tensor:
        """Return the iterates before the first wrong ones.

        Where there is none it is the last iterate, which isn't looked at; before the first iterate there is itself.
        """
        n_wrong = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        before, previous = x, x
        wrong: list[Tensor] = []

        def look(logits: Tensor, rows: Tensor) -> Tensor:
            wrong[:] = [logits.argmax(1) != y]
            return wrong[0]

        def observe(step: int, rows: Tensor, x_adv: Tensor, gradient: Tensor) -> None:
            nonlocal n_wrong, before, previous
            n_wrong = n_wrong + wrong[0]
            before = torch.where(per_example(wrong[0] & (n_wrong == 1), x), previous if step else x_adv, before)
            previous = x_adv

        x_adv, _ = self._search(module, x, y, uniform, budgets, solved=look, observe=observe)
        return torch.where(per_example(n_wrong == 0, x), x_adv, before)


class TrainModeNetwork(nn.Module):
    """A network for attacks as it is while it trains: putting this in eval mode leaves the network in train mode.

    Its batch norms see each iterate of a batch, and take it into their running statistics.

    Args:
        network: Maps images to logits, in train mode.
        bf16: Whether matrix products are computed in bfloat16.
    """

    def __init__(self, network: nn.Module, *, bf16: bool) -> None:
        super().__init__()
        self._network, self._bf16 = (network,), bf16  # in a tuple it isn't a submodule

    def forward(self, x: Tensor) -> Tensor:
        """Return logits float32 (n, C)."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._bf16):
            logits: Tensor = self._network[0](x)
        return logits.float()


def _from_clean(logits: Tensor, clean: Tensor) -> Tensor:
    return losses.kl(clean, logits)


def _margin_where(chosen: Tensor, other: Loss, y: Tensor) -> Loss:
    """Return a loss that is the margin for the chosen examples (m,), with labels y (m,), and another for the rest."""

    def loss(logits: Tensor, compared: Tensor) -> Tensor:
        return torch.where(chosen, losses.margin(logits, y), other(logits, compared))

    return loss


def _towards(targets: Tensor, loss: Loss) -> Loss:
    """Return a loss that rises towards the targets (m,), where they are classes, and is as it was elsewhere."""
    aimed, classes = targets >= 0, targets.clamp_min(0)

    def towards(logits: Tensor, compared: Tensor) -> Tensor:
        return torch.where(aimed, -losses.cross_entropy(logits, classes), loss(logits, compared))

    return towards


def _counting(count: StepCount, y: Tensor, solved: Solved | None) -> Solved:
    """Return what a search asks at each iterate, which counts those that are classified as (m,) labels say."""
    count.n_withstood = torch.zeros_like(y)

    def counting(logits: Tensor, rows: Tensor) -> Tensor:
        wrong = logits.argmax(1) != y
        assert count.n_withstood is not None
        count.n_withstood = count.n_withstood + ~wrong
        return wrong if solved is None else solved(logits, rows)

    return counting


@dataclass(frozen=True)
class ArtAdversary:
    """Any evasion attack of ART, by way of arrays on the CPU.

    Attributes:
        attack: The attack, on the classifier that is trained.
        n_classes: Number of classes.
    """

    attack: Any
    n_classes: int

    def __call__(
        self, module: nn.Module, x: Tensor, y: Tensor, uniform: Uniform, budgets: Budgets | None = None
    ) -> Tensor:
        """See :class:`Adversary`. The attack has its own radius, and draws from the global random state or its seed.

        One with a seed starts elsewhere in each epoch; where it takes the examples' numbers, each example where the
        epoch and its number say, whatever the batch. Validations all start alike.
        """
        model = self.attack.estimator.model  # what it attacks, whatever the module is
        one_hot = np.eye(self.n_classes, dtype=np.float32)[y.cpu().numpy()]
        extra: dict[str, Any] = {}
        with ExitStack() as stack:
            stack.enter_context(preserved(model))
            stack.enter_context(evaluating(model))
            if hasattr(self.attack, "verbose"):  # a bar of its own for each batch would drown the training's
                stack.enter_context(patch.object(self.attack, "verbose", False))
            if isinstance(uniform, ExampleUniform):
                ids = uniform.ids.cpu().numpy()
                by_example = bool(getattr(self.attack, "uses_example_ids", False))
                extra = {"example_ids": ids} if by_example else {}
                for attack in _seeded(self.attack):
                    # Without the examples' numbers an attack would do the same to the n-th example of every batch.
                    seed = derive(uniform.seed, "attack", attack.seed)
                    seed = seed if by_example else derive(seed, "batch", int(ids.min()))
                    stack.enter_context(patch.object(attack, "seed", seed))
            x_adv = np.asarray(self.attack.generate(x.cpu().numpy(), one_hot, **extra), dtype=np.float32)
        if x_adv.shape != x.shape:
            raise InputError(
                f"The {type(self.attack).__name__} returned images of shape {x_adv.shape} for images of shape "
                f"{tuple(x.shape)}: training needs one adversarial input for each."
            )
        return torch.from_numpy(x_adv).to(x.device)


def _seeded(attack: Any) -> list[Any]:
    """Return those of an attack, and of the one within, that draw random numbers from a seed."""
    inner = getattr(attack, "attack", None)
    both = [attack, *(_seeded(inner) if isinstance(inner, EvasionAttack) else [])]
    return [a for a in both if "seed" in a.attack_params and isinstance(a.seed, int)]
