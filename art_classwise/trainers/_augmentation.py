"""Random changes of training images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from art_classwise._core.random_numbers import ExampleUniform, derive

__all__ = ["Augmentation"]


@dataclass(frozen=True)
class Augmentation:
    """Random crops after zero padding and random horizontal flips, drawn where the images lie.

    Attributes:
        crop_padding: Pixels of padding on each side; 0 is no crop.
        flip: Whether to mirror every other image, at random.
        seed: Of the draws.
    """

    crop_padding: int = 0
    flip: bool = False
    seed: int = 0

    def __call__(self, x: Tensor, epoch: int, ids: Tensor) -> Tensor:
        """Return images (m, C, H, W) of the same type, changed; drawn by (seed, epoch, id) alone."""
        if not (self.crop_padding or self.flip):
            return x
        draws = ExampleUniform(derive(self.seed, "augmentation", epoch), 0, ids)(len(x), 3)
        _, _, height, width = x.shape
        sides = 2 * self.crop_padding + 1
        top, left = (draws[:, :2] * sides).long().clamp_max(sides - 1).unbind(1)
        rows = top[:, None] + torch.arange(height, device=x.device)
        columns = left[:, None] + torch.arange(width, device=x.device)
        if self.flip:
            columns = torch.where(draws[:, 2:] < 0.5, columns.flip(1), columns)
        padded = functional.pad(x, [self.crop_padding] * 4)
        examples = torch.arange(len(x), device=x.device)[:, None, None]
        # One gather does both. It comes out as (m, H, W, C): channels last, as convolutions like it.
        return padded[examples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
