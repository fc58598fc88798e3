"""One step of training: what it descends, and how a batch is attacked and classified and the weights move."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from art_classwise import losses
from art_classwise._core import distributed
from art_classwise._core.art_interface import Border, check_logits
from art_classwise._core.forward import is_out_of_memory
from art_classwise._core.random_numbers import ExampleUniform, derive
from art_classwise._core.state import evaluating, frozen, is_exported, preserved, preserved_random_state
from art_classwise.attacks.fast_copy import FastCopy, compiled_network
from art_classwise.errors import InputError
from art_classwise.trainers.engine.adversary import Adversary, Budgets, StepCount, TrainModeNetwork
from art_classwise.trainers.engine.batches import Batch
from art_classwise.trainers.engine.options import TrainingOptions
from art_classwise.trainers.engine.soft_labels import TeacherLabels
from art_classwise.trainers.engine.weights import WeightPerturbation, share_buffers, synchronised_batch_norms
from art_classwise.trainers.policies import ClassPolicy, ClassWeights

__all__ = ["Objective", "PassOrder", "Step", "StepResult", "Terms", "check_passes", "natural_terms"]


Terms = Callable[[Tensor | None, Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""Logits or None, logits under attack, labels -> the two terms of a loss, (n,) each, of which one may be missing."""


def natural_terms(label_smoothing: float = 0.0) -> Terms:
    """Return the terms of natural training: cross-entropy on clean images alone."""

    def terms(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, None]:
        assert logits is not None
        return losses.cross_entropy(logits, y, label_smoothing), None

    return terms


class PassOrder(NamedTuple):
    """The forward passes of a step in train mode, by the letters of the views.

    Of a view that is classified again, or that the objective doesn't need, batch norm alone takes notice.

    Attributes:
        before: Those before the optimizer's step.
        after: Those after it.
    """

    before: str
    after: str = ""


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


@dataclass(frozen=True)
class Objective:
    """What training descends: the first term plus beta times the second.

    Attributes:
        terms: The two terms.
        beta: Factor of the second; None where there is none.
        uses_clean: Whether the terms need the clean logits.
        adversary: The attack; None for natural training, whose logits "under attack" are the clean ones.
        n_views: How many adversarial inputs the attack returns for an image; those of the first view come first.
        two_passes: Whether clean and adversarial images are forward passes of their own, so that batch norm sees two
            batches, as in most published implementations; else one pass, of all.
        views: A letter for each view: c, the clean images, and those under attack, in the order in which the attack
            returns them.
        passes: The forward passes one by one, by these letters: see :class:`PassOrder`. None leaves it to
            ``two_passes``.
        soft_labels: Those of a teacher, where the terms look at them.
    """

    terms: Terms
    beta: float | None
    uses_clean: bool
    adversary: Adversary | None
    n_views: int = 1
    two_passes: bool = False
    views: str = "ca"
    passes: PassOrder | None = None
    soft_labels: TeacherLabels | None = None

    def values(
        self,
        logits: Tensor | None,
        logits_adv: Tensor,
        y: Tensor,
        weights: ClassWeights,
        adjustment: Tensor | None = None,
    ) -> Tensor:
        """Return the objective of each example (n,), class weights included.

        Args:
            logits: (n, C) of the clean images; None if they aren't needed.
            logits_adv: (n_views n, C) of those under attack.
            y: (n,) labels.
            weights: Of the classes.
            adjustment: (C,), added to the logits in the first term.
        """
        first, second = self.terms(logits, logits_adv, y)
        if adjustment is not None:
            shift = adjustment.to(logits_adv.dtype)
            first, _ = self.terms(None if logits is None else logits + shift, logits_adv + shift, y)
        if weights.first is not None:
            first = weights.first[y].to(first.dtype) * first
        if second is None:
            return first
        if weights.second is not None:
            second = weights.second[y].to(second.dtype) * second
        return first + (self.beta or 0.0) * second


class StepResult(NamedTuple):
    """What a step saw of a batch, before it.

    Attributes:
        values: (m,) losses of all examples.
        logits: (l, C) of the labelled ones, if the objective classifies clean images.
        logits_adv: (l, C) of these under attack, if there is one.
    """

    values: Tensor
    logits: Tensor | None
    logits_adv: Tensor | None


class Step:
    """The step, and the network that it moves.

    Args:
        model: The network whose weights are trained, on its device.
        module: Maps images to logits by way of the model: the border around it.
        optimizer: Of the model's parameters.
        objective: What to descend.
        options: How.
        n_classes: Number of classes.
        sample: (n, ...) an image or two, on the device.
        policy: What sets class weights and budgets; changed as the training goes.
        gamma: Weight of examples with pseudo-labels.

    Raises:
        InputError: The module doesn't return logits (n, C).
    """

    def __init__(
        self,
        model: nn.Module,
        module: Border,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        options: TrainingOptions,
        n_classes: int,
        sample: Tensor,
        policy: ClassPolicy | None = None,
        gamma: float = 1.0,
    ) -> None:
        self.model, self.module, self.optimizer = model, module, optimizer
        self.objective, self.options, self.policy, self._gamma = objective, options, policy, gamma
        self.n_classes, self.sample = n_classes, sample
        if any(is_exported(m) for m in model.modules()):
            raise InputError(
                f"The network {type(model).__name__} is a graph of torch.export, which has no training mode: train the "
                "module that it was exported from."
            )
        with torch.no_grad(), evaluating(module):
            check_logits(module(sample), len(sample), n_classes)
        self._fast = self._copied()
        self._searched: Border | None = None
        self._followed = True  # whether the copy made at first has agreed so far
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._trained = [p for p in model.parameters() if p.requires_grad and id(p) in own]
        self._awp = WeightPerturbation(self._trained, options["awp_gamma"]) if options["awp_gamma"] else None
        self._network: nn.Module = module  # ready() puts it on many devices, and compiles it

    def searched(self) -> nn.Module:
        """Return the network of now as attacks search it."""
        network = self._fast.of(self.model)
        if self._searched is None or self._searched.model is not network:
            self._searched = self.module.around(network)
        return self._searched

    def begin_epoch(self) -> None:
        """See whether the copy that is searched on still agrees with the network, whose weights have moved."""
        if not (self._followed and self._fast.agrees(self.model, self.sample, self.module.around)):
            self._followed = False  # chosen anew from now on, so that a training that is resumed chooses alike
            self._fast = self._copied()

    def _copied(self) -> FastCopy:
        precision, compiled = self.options["precision"], self.options["compile"]
        return FastCopy(self.model, self.sample, precision, self.module.around, compile=compiled, dynamic=False)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Lay the network out channels last, on many devices, and compile it, for the block.

        Its modes, requires_grad flags and gradients are as before afterwards.
        """
        with ExitStack() as stack:
            stack.enter_context(preserved(self.model))
            # What the optimizer doesn't hold needs no gradient.
            for parameter in self.model.parameters():  # one by one: TorchScript has no requires_grad_ of its own
                parameter.requires_grad_(False)
            for weight in self._trained:
                weight.requires_grad_()
            stack.enter_context(synchronised_batch_norms(self.model, self.sample.device))
            stack.callback(self._lay_out())
            network: nn.Module = self.module if distributed.world() == 1 else self._on_many_devices()
            if self._fast.compiled:  # all batches but the last are of one size
                network = compiled_network(network, self.options["compile"], dynamic=False)
                if isinstance(self.options["compile"], str):
                    network = _OwnLogits(network)
            self._network = network
            yield

    def _lay_out(self) -> Callable[[], None]:
        """Lay the weights out channels last, where that gains and the network trains so; return the way back."""
        weights = [p for p in self.model.parameters() if p.dim() == 4]
        if not (self._fast.channels_last and all(w.is_contiguous() for w in weights)):
            return lambda: None

        def lay_out(memory_format: torch.memory_format) -> None:
            for weight in weights:
                weight.data = weight.data.contiguous(memory_format=memory_format)

        lay_out(torch.channels_last)
        if not self._trains():
            lay_out(torch.contiguous_format)
        return lambda: lay_out(torch.contiguous_format)

    def _trains(self) -> bool:
        """Return whether the network, laid out as it is now, gets through a pass of training and back."""
        buffers = [b.clone() for b in self.model.buffers()]
        with preserved_random_state(0):
            try:
                self.model.train()
                with torch.autocast(self.sample.device.type, torch.bfloat16, enabled=self._fast.bf16):
                    logits = self.module(self.sample)
                check_logits(logits, len(self.sample), self.n_classes).float().sum().backward()
            except Exception as error:  # of the network's own code: of any kind
                if is_out_of_memory(error):
                    raise
                return False
            finally:
                with torch.no_grad():
                    for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                        buffer.copy_(before)
                for weight in self._trained:
                    weight.grad = None
        return True

    def _on_many_devices(self) -> nn.Module:
        """Return the module with gradients averaged over all processes, which begin as the main one is."""
        with torch.enable_grad(), evaluating(self.module):
            gradients = torch.autograd.grad(self.module(self.sample).sum(), self._trained, allow_unused=True)
        # Buffers aren't shared at each pass: of two passes the second would overwrite what the first still needs.
        arguments = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in arguments else "broadcast_buffers"  # by torch's age
        options: dict[str, Any] = {name: False, "find_unused_parameters": any(g is None for g in gradients)}
        network = DistributedDataParallel(self.module, **options)
        share_buffers(self.model, as_main=True)
        return network

    def __call__(self, batch: Batch, epoch: int) -> StepResult:
        """Attack a batch and take one step, in an epoch from 0. Nothing of ours in here waits for the device."""
        x_adv = self._attack(batch, epoch)
        self.model.train()
        if self._awp is not None and epoch >= self.options["awp_warmup"]:
            buffers = [b.clone() for b in self.model.buffers()]
            weighted = self.policy is None or self.policy.weighs_perturbation
            _, weights = self._backward(batch, x_adv, None if weighted else ClassWeights())
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(before)  # batch norm has seen this batch once, as without the perturbation
            with self._awp.perturbed():
                result, _ = self._backward(batch, x_adv, weights if weighted else None)
        else:
            result, _ = self._backward(batch, x_adv, None)
        if self.options["gradient_clip"] is not None:
            nn.utils.clip_grad_norm_(self._trained, self.options["gradient_clip"])
        self.optimizer.step()
        if self.objective.passes is not None:
            self._forward_in_order(batch.x, x_adv, self.objective.passes.after, set())
        return result

    def _attack(self, batch: Batch, epoch: int) -> Tensor | None:
        """Return the adversarial inputs of a batch, view after view; none in natural training."""
        if self.objective.adversary is None:
            return None
        starts = ExampleUniform(derive(self.options["seed"], "starts", epoch), 0, batch.ids)
        budgets = self._budgets(batch, epoch)
        if self.options["attack_mode"] == "eval":
            x_adv = self.objective.adversary(self.searched(), batch.x, batch.y, starts, budgets)
        else:
            self.model.train()
            as_it_trains = TrainModeNetwork(self.module, bf16=self._fast.bf16)
            with frozen(self.module):
                x_adv = self.objective.adversary(as_it_trains, batch.x, batch.y, starts, budgets)
        if self.policy is not None and budgets is not None and budgets.count is not None:
            assert budgets.count.n_withstood is not None  # policies that ask for it take no other attack
            self.policy.see_steps(batch.y[: batch.n_labelled], budgets.count.n_withstood[: batch.n_labelled])
        return x_adv

    def _budgets(self, batch: Batch, epoch: int) -> Budgets | None:
        """Return what the policy asks of the attack on a batch; None if it asks for nothing."""
        if self.policy is None:
            return None
        uniform = ExampleUniform(derive(self.options["seed"], "targets", epoch), 0, batch.ids)
        scales, targets = self.policy.budgets_of(batch.y), self.policy.targets_of(batch.y, uniform)
        count = StepCount() if self.policy.counts_steps else None
        if scales is None and targets is None and count is None:
            return None
        radii, steps = (None, None) if scales is None else (scales.radii.to(batch.x), scales.steps.to(batch.x))
        return Budgets(radii, steps, targets, count)

    def _backward(
        self, batch: Batch, x_adv: Tensor | None, weights: ClassWeights | None
    ) -> tuple[StepResult, ClassWeights]:
        """Set the gradients, and return the result with the class weights; the policy is asked if they're absent."""
        self.optimizer.zero_grad()
        n, labelled, objective = len(batch.x), batch.n_labelled, self.objective
        clean, adversarial = self._forward(batch.x, x_adv)
        logits = None if clean is None else check_logits(clean, n, self.n_classes).float()
        if x_adv is None or adversarial is None:
            assert logits is not None
            first_view = attacked = logits
        else:
            attacked = check_logits(adversarial, n * objective.n_views, self.n_classes).float()
            first_view = attacked[:n]
        if weights is None:
            weights = ClassWeights()
            if self.policy is not None:
                with torch.no_grad():
                    if logits is not None:
                        self.policy.see_clean(batch.y[:labelled], logits[:labelled].detach())
                    weights = self.policy.weigh(batch.y[:labelled], first_view[:labelled].detach())
        adjustment = None if self.policy is None else self.policy.logit_adjustment
        values = objective.values(logits, attacked, batch.y, weights, adjustment)
        more = None if self.policy is None else self.policy.term(batch.y[:labelled], first_view[:labelled])
        if more is not None:
            values = torch.cat([values[:labelled] + more.to(values.dtype), values[labelled:]])
        if labelled < n:
            values = torch.cat([values[:labelled], self._gamma * values[labelled:]])
        # The mean over the whole batch: of the processes' gradients DDP takes the mean again.
        loss = values.sum() * (distributed.world() / batch.size)
        if loss.requires_grad:
            loss.backward()
        if not loss.requires_grad or all(weight.grad is None for weight in self._trained):
            raise InputError(
                f"The network {type(self.model).__name__} can't be trained: no gradient of its logits reaches the "
                "weights. Look for no_grad, detach() or NumPy in it, for layers that are quantised or frozen."
            )
        logits_adv = None if x_adv is None else first_view[:labelled]
        return StepResult(values.detach(), None if logits is None else logits[:labelled], logits_adv), weights

    def _forward(self, x: Tensor, x_adv: Tensor | None) -> tuple[Any, Any]:
        """Return what the network gives for clean and for adversarial images, as far as they are needed."""
        objective, n = self.objective, len(x)
        if objective.passes is not None:
            needed = set(objective.views) - (set() if objective.uses_clean else {"c"})
            logits_of = self._forward_in_order(x, x_adv, objective.passes.before, needed)
            attacked = [logits_of[view] for view in objective.views if view != "c" and view in logits_of]
            return logits_of.get("c"), torch.cat(attacked) if attacked else None
        with _needs_two_examples(), torch.autocast(x.device.type, torch.bfloat16, enabled=self._fast.bf16):
            if x_adv is None:
                return self._network(x), None
            if not objective.uses_clean:
                return None, self._network(x_adv)
            if objective.two_passes:
                clean = self._network(x)
                parts = [self._network(view) for view in x_adv.chunk(objective.n_views)]
                return clean, parts[0] if len(parts) == 1 else torch.cat(parts)
            both = check_logits(self._network(torch.cat([x, x_adv])), n + len(x_adv), self.n_classes)
            return both[:n], both[n:]

    def _forward_in_order(self, x: Tensor, x_adv: Tensor | None, order: str, needed: set[str]) -> dict[str, Tensor]:
        """Classify the views in this order, and return the logits of those needed, by letter.

        Of a second pass, batch norm alone takes notice: its logits are those of the first.
        """
        attacked = () if x_adv is None else x_adv.chunk(self.objective.n_views)
        images = dict(zip(self.objective.views, (x, *attacked), strict=True))
        logits_of: dict[str, Tensor] = {}
        for view in order:
            new = view in needed and view not in logits_of
            # An autocast each: it would give a later pass the weights that it rounded without a gradient.
            rounded = torch.autocast(x.device.type, torch.bfloat16, enabled=self._fast.bf16)
            with _needs_two_examples(), torch.set_grad_enabled(new), rounded:
                logits = check_logits(self._network(images[view]), len(x), self.n_classes)
            if new:
                logits_of[view] = logits
        return logits_of


class _OwnLogits(nn.Module):
    """Logits in memory of their own: the next run of a CUDA graph overwrites what it has returned."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        logits = self.network(x)
        return logits.clone() if isinstance(logits, Tensor) else logits


@contextmanager
def _needs_two_examples() -> Iterator[None]:
    """Say of a batch too small for batch norm what to do about it."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            "A batch of one example has no variance, which the network's batch norm divides by: take a larger "
            "`batch_size`, or more examples."
        ) from error
