"""A zoo of networks that are odd, each in a way that breaks a careless attack, and a plain attack to compare with.

The networks stand in files by what is odd about them: their gradients, what they do with their input, their layouts and
dtypes, their modules.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Builder", "OddNetwork", "Written", "conv_net", "head", "odd", "table"]

Builder = Callable[[], nn.Module]


@dataclass(frozen=True)
class OddNetwork:
    """A network, and what may be asked of it.

    Attributes:
        name: What is odd about it.
        why: Which carelessness it shows.
        build: Makes it, from the global random state.
        shape: Shape of an input.
        n_classes: Number of logits.
        has_gradients: Whether the loss has a gradient at the input. Where it has none, an attack must say so.
        may_mask: Whether some gradients are zero all the same: then it may.
        trains: Whether the loss has a gradient at the weights. Where it has none, a trainer must say so.
        is_random: Whether an example's logits change from pass to pass, or with the examples around it.
        centred: Whether its last layer's biases are to be set so that noise is seen as several classes.
        noise: How many of 16 examples may withstand ours and not the plain attack, by chance.
    """

    name: str
    why: str
    build: Builder
    shape: tuple[int, ...] = (3, 8, 8)
    n_classes: int = 4
    has_gradients: bool = True
    may_mask: bool = False
    trains: bool = True
    is_random: bool = False
    centred: bool = False
    noise: int = 2

    def make(self) -> nn.Module:
        """Return the network, the same each time, in eval mode."""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch deprecates some of what is tried here
            torch.manual_seed(zlib.crc32(self.name.encode()))  # of its own: alike ones have other weights
            module = self.build()
            with suppress(NotImplementedError):  # an exported program is what it is
                module.eval()
            if self.centred:
                last = [m for m in module.modules() if isinstance(m, nn.Linear) and m.out_features == self.n_classes]
                with torch.no_grad():
                    last[-1].bias -= module(self.images(64, seed=0)).mean(0)
            return module

    @property
    def slack(self) -> int:
        """How many of 16 examples may withstand ours and not the plain attack."""
        return 7 if self.is_random else self.noise  # what these break differs by 1.3 from seed to seed

    def images(self, n: int, seed: int = 1) -> Tensor:
        """Return n inputs of noise."""
        return torch.rand(n, *self.shape, generator=torch.Generator().manual_seed(seed))


_TABLE: dict[str, OddNetwork] = {}


def odd(why: str, **traits: Any) -> Callable[[Builder], Builder]:
    """Enter a builder into the table under its own name."""

    def enter(build: Builder) -> Builder:
        name = build.__name__.replace("_", " ").strip()
        assert name not in _TABLE, name
        _TABLE[name] = OddNetwork(name, why, build, **traits)
        return build

    return enter


def table() -> tuple[OddNetwork, ...]:
    """Return all odd networks."""
    import odd_gradients  # they enter themselves
    import odd_inputs
    import odd_layouts
    import odd_modules

    assert {odd_gradients, odd_inputs, odd_layouts, odd_modules}
    return tuple(_TABLE.values())


class Written(nn.Module):
    """A network whose forward is a function of itself and its input."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


def head(features: int, n_classes: int = 4, *, large: bool = False) -> nn.Sequential:
    """Return layers from features to logits; with a million weights, for which a fast copy is made, if ``large``."""
    wide = 1024 if large else 32
    middle = [nn.Linear(wide, wide), nn.ReLU()] if large else []
    last = nn.Linear(wide, n_classes)
    with torch.no_grad():
        last.weight *= 8  # so that noise is seen as several classes
    return nn.Sequential(nn.Flatten(), nn.Linear(features, wide), nn.ReLU(), *middle, last)


def conv_net(channels: int = 3, side: int = 8, n_classes: int = 4, *, large: bool = False) -> nn.Sequential:
    """Return a small network with a batch norm as training leaves it: away from the identity."""
    norm = nn.BatchNorm2d(8)
    with torch.no_grad():
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.05, 0.2)
        norm.weight.uniform_(0.5, 1.5)
    top = head(8 * (side // 2) ** 2, n_classes, large=large)
    net = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), norm, nn.ReLU(), nn.AvgPool2d(2), top).eval()
    with torch.no_grad():
        top[-1].bias -= net(torch.rand(64, channels, side, side)).mean(0)  # each class for some noise
    return net
