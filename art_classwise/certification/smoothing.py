"""Randomised smoothing (Cohen, Rosenfeld, Kolter 2019, arXiv 1902.02918): predictions and certified L2 radii."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri
from torch import Tensor, nn

from art_classwise._core.art_interface import exact_logits
from art_classwise._core.random_numbers import ExampleUniform, derive, gaussian
from art_classwise.errors import InputError, check_number, check_positive, check_whole
from art_classwise.metrics.intervals import clopper_pearson

__all__ = ["ABSTAINED", "MOST_SAMPLES", "Smoothing", "certified_radius", "smoothing", "votes_of"]

MOST_SAMPLES = 2**53
"""More are no whole numbers as floats."""

ABSTAINED = -1
"""The prediction of an example whose class under noise isn't certain enough."""


@dataclass(frozen=True)
class Smoothing:
    """What decides predictions and radii of a smoothed classifier.

    Noise is a function of seed, example and number of the sample alone: the same in any batch and on any device.

    Attributes:
        noise: Standard deviation of the Gaussian noise, in the units of images.
        n: Noisy samples per example that its radius is computed from.
        n_selection: Those that choose its class before.
        alpha: Probability at most that an example's radius is wrong.
        seed: Of the noise.
    """

    norm: ClassVar[Literal["L2"]] = "L2"

    noise: float
    n: int
    n_selection: int
    alpha: float
    seed: int

    @property
    def reach(self) -> float:
        """The largest radius that n samples can certify, all of one class."""
        return max(0.0, float(certified_radius(self.n, self.n, self.noise, self.alpha)))

    def certify(self, module: nn.Module, image: Tensor, example: int, n_classes: int, most: int) -> tuple[int, float]:
        """Return the smoothed prediction for an image and its certified radius: algorithm CERTIFY of Cohen et al.

        Args:
            module: From noisy images to logits.
            image: (...), the image.
            example: Its number.
            n_classes: Number of classes, C.
            most: Noisy images per forward pass.

        Returns:
            The class and its radius; ``ABSTAINED`` and 0, if the class isn't a majority's with enough certainty.
        """
        of = (module, image, example, n_classes, most)
        chosen = int(self.votes(*of, self.n_selection, 0).argmax())
        radius = float(certified_radius(self.votes(*of, self.n, 1)[chosen], self.n, self.noise, self.alpha))
        return (chosen, radius) if radius > 0 else (ABSTAINED, 0.0)

    def votes(
        self, module: nn.Module, image: Tensor, example: int, n_classes: int, most: int, n: int, draw: int
    ) -> npt.NDArray[np.int64]:
        """Return how often each class is predicted under noise, (C,); ``draw`` tells draws of one example apart."""
        counts = torch.zeros(n_classes, dtype=torch.int64, device=image.device)
        seed = derive(self.seed, "smoothing", example)
        for begin in range(0, n, most):
            ids = torch.arange(begin, min(n, begin + most), device=image.device)
            noise = gaussian(ExampleUniform(seed, draw, ids), len(ids), *image.shape)
            logits = exact_logits(module, image + self.noise * noise, n_classes)
            if not bool(logits.isfinite().all()):  # `argmax` takes the first NaN, or of several infinities the first
                raise InputError(
                    f"The network's logits of example {example} under noise {self.noise:g} aren't finite: look for a "
                    "division or a logarithm in it that meets 0, or take less noise."
                )
            counts += logits.argmax(1).bincount(minlength=n_classes)
        return counts.cpu().numpy()


def smoothing(noise: float, n: int, *, n_selection: int, alpha: float, seed: int) -> Smoothing:
    """Return a smoothing whose numbers are checked.

    Args:
        noise: As of :class:`Smoothing`, as are the others.
        n: Likewise.
        n_selection: Likewise.
        alpha: Likewise.
        seed: Likewise.

    Raises:
        InputError: One is out of range, or so few samples can't certify any example.
    """
    words = f"from {_LEAST_ALPHA:g} to below 0.5"  # below, 1 - 2 alpha has too few digits
    for name, given in (("n", n), ("n_selection", n_selection)):
        if check_whole(name, given, 1) > MOST_SAMPLES:
            raise InputError(f"`{name}` must be at most 2**53, which floats can tell from one more, but got {given}.")
    made = Smoothing(
        noise=float(check_positive("noise", noise)),
        n=int(n),
        n_selection=int(n_selection),
        alpha=float(check_number("alpha", alpha, _LEAST_ALPHA, 0.5, below=True, words=words)),
        seed=seed,
    )
    if made.reach == 0:
        least = math.floor(-math.log2(made.alpha)) + 1
        few = "one sample" if made.n == 1 else f"{made.n:,} samples"
        raise InputError(f"With {few} nothing can be certified at `alpha={made.alpha:g}`: take at least {least}, `n`.")
    return made


_LEAST_ALPHA = 1e-9


def certified_radius(votes: npt.ArrayLike, n: int, noise: float, alpha: float) -> npt.NDArray[np.float64]:
    """Return noise times the normal quantile of the lower bound of a class's probability (theorem 1 of Cohen et al.).

    Args:
        votes: How many of the n samples were of the class.
        n: Number of samples.
        noise: Standard deviation of the noise.
        alpha: Probability at most that the bound (Clopper and Pearson 1934, one-sided) is too high.

    Returns:
        Radii of the shape of ``votes``; negative or 0 where nothing is certified.
    """
    low, _ = clopper_pearson(votes, n, 1 - 2 * alpha)
    radius: npt.NDArray[np.float64] = noise * ndtri(low)
    return radius


def votes_of(radius: npt.ArrayLike, n: int, noise: float, alpha: float) -> npt.NDArray[np.int64]:
    """Return the number of votes whose radius is nearest: the inverse of :func:`certified_radius`, by bisection.

    Args:
        radius: Radii of any shape, from 0 to that of n votes.
        n: Number of samples.
        noise: Standard deviation of the noise.
        alpha: Probability at most that the bound is too high.
    """
    wanted = np.asarray(radius, dtype=np.float64)
    low, high = np.zeros(wanted.shape, dtype=np.int64), np.full(wanted.shape, n, dtype=np.int64)
    while (high - low > 1).any():  # radii rise with votes: that of low is below, that of high isn't
        middle = (low + high) // 2
        reached = certified_radius(middle, n, noise, alpha) >= wanted
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    below, above = (np.abs(certified_radius(k, n, noise, alpha) - wanted) for k in (low, high))
    return np.where(below < above, low, high)
