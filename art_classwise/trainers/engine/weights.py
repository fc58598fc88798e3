"""What is done to weights beside descending: averages, perturbation, copies."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from art_classwise._core import distributed
from art_classwise.errors import InputError, first_line

__all__ = ["WeightAverage", "WeightPerturbation", "all_finite", "share_buffers", "snapshot", "synchronised_batch_norms"]


class WeightAverage:
    """An exponential moving average of a model's weights and buffers, to be updated after each step.

    With ``warm_up``, after step t, from 0, the decay is at most (1 + t) / (10 + t), so that the weights it began with
    are soon forgotten (as in TensorFlow's ExponentialMovingAverage). The first update is a copy. torch's own
    AveragedModel counts its updates where the CPU would wait for the device.

    Args:
        model: The model.
        decay: Below 1.
        warm_up: Whether the decay is smaller at first.

    Attributes:
        module: A copy of the model, with the average as its weights.
        n_averaged: Number of updates.

    Raises:
        InputError: The model can't be copied.
    """

    def __init__(self, model: nn.Module, decay: float, *, warm_up: bool = True) -> None:
        try:
            self.module = copy.deepcopy(model).requires_grad_(False).eval()
        except Exception as error:  # whatever can't be copied
            raise InputError(f"`ema_decay` needs a network that copy.deepcopy can copy: {first_line(error)}") from error
        self.n_averaged = 0
        self._decay, self._warm_up = decay, warm_up

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's weights of now into the average."""
        steps = self.n_averaged
        decay = min(self._decay, (1 + steps) / (10 + steps)) if self._warm_up else self._decay
        keep = decay if steps else 0.0
        values = [t.detach() for t in (*model.parameters(), *model.buffers())]
        averages = [*self.module.parameters(), *self.module.buffers()]
        moving = [i for i, a in enumerate(averages) if a.is_floating_point() and steps]
        if moving:
            torch._foreach_lerp_([averages[i] for i in moving], [values[i] for i in moving], 1 - keep)
        for i in set(range(len(averages))) - set(moving):  # the first time, and whole numbers always
            averages[i].copy_(values[i])
        self.n_averaged += 1

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """Let the average, once there is one, be a model's weights for the block: any attack on it meets them."""
        if not self.n_averaged:
            yield
            return
        trained = snapshot(model)
        model.load_state_dict(self.module.state_dict())
        try:
            yield
        finally:
            model.load_state_dict(trained)


class WeightPerturbation:
    """Adversarial weight perturbation (Wu et al. 2020, arXiv 2004.05884): the step before the step.

    Each weight of two dimensions or more, a layer's, is moved along the gradient of the loss, by ``gamma`` times the
    layer's norm; the gradient is then taken there, and the weights put back.

    Args:
        parameters: The network's.
        gamma: Length of the perturbation, relative to the weights.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], gamma: float) -> None:
        self._weights = [p for p in parameters if p.requires_grad and p.dim() > 1]
        self._gamma = gamma

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """Move the weights along the gradients they hold, for the block."""
        with torch.no_grad():
            before = [w.detach().clone() for w in self._weights]  # to be put back to the bit
            for weight in self._weights:
                if weight.grad is not None:
                    length = weight.grad.norm().clamp_min(1e-20)  # a zero gradient moves nothing
                    weight.add_(weight.grad * (self._gamma * weight.norm() / length))
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, value in zip(self._weights, before, strict=True):
                    weight.copy_(value)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Return a copy of the model's weights and buffers, and of what else its layers keep (``get_extra_state``)."""
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in model.state_dict().items()
    }


def all_finite(model: nn.Module) -> Tensor:
    """Return whether all weights are finite, () bool, without waiting for the device."""
    return torch.stack([p.detach().isfinite().all() for p in model.parameters()]).all()


@torch.no_grad()
def share_buffers(model: nn.Module, *, as_main: bool = False) -> None:
    """Give all processes the mean of their buffers: batch norm's running statistics differ where it isn't shared.

    Args:
        model: The network, in this process.
        as_main: Give them those of the main process instead, of whole numbers, too.
    """
    if distributed.world() == 1:
        return
    for buffer in model.buffers():
        if as_main:
            dist.broadcast(buffer, 0)
        elif buffer.is_floating_point():  # in float64: the mean of equal numbers is then that number
            buffer.copy_(distributed.sum_(buffer.double()) / distributed.world())


@contextmanager
def synchronised_batch_norms(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Within the block batch norms see the batches of all processes, on GPUs: the same training on any number.

    The layers stand in for the network's own and share their weights and statistics.
    """
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    own: list[tuple[nn.Module, str, nn.Module]] = []
    if distributed.world() > 1 and device.type == "cuda":
        own = [(p, name, m) for p in model.modules() for name, m in p.named_children() if type(m) in norms]
    for parent, name, norm in own:
        setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(norm))
    try:
        yield
    finally:
        for parent, name, norm in own:
            setattr(parent, name, norm)
