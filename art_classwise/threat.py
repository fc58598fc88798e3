"""The threat model: a norm and a radius, and the three operations on tensors that a search needs."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from art_classwise.errors import InputError, unknown

__all__ = ["Norm", "ThreatModel"]

Norm = Literal["Linf", "L2"]
_NORMS: dict[str, Norm] = {"linf": "Linf", "l2": "L2"}


@dataclass(frozen=True)
class ThreatModel:
    """All perturbations of an image that an attacker may choose: ``||x_adv - x||_norm <= eps``.

    Args:
        norm: ``"Linf"`` or ``"L2"``.
        eps: Radius, in the units of the images (``8 / 255`` on images in [0, 1]).

    Raises:
        InputError: The norm is unknown, or the radius is not a finite positive number.

    Example:
        >>> ThreatModel.parse("Linf:8/255")
        ThreatModel(norm='Linf', eps=0.03137254901960784)
        >>> str(ThreatModel("L2", 0.5))
        'L2:0.5'
    """

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        if self.norm not in _NORMS.values():
            raise unknown("norm", self.norm, ("Linf", "L2"))
        number = isinstance(self.eps, numbers.Real) and not isinstance(self.eps, bool)
        if not (number and math.isfinite(self.eps) and self.eps > 0):
            raise InputError(
                f"The radius must be a finite number above 0, but got {self.eps!r}. "
                'Give it in the units of the images, e.g. "Linf:8/255" for images in [0, 1].'
            )
        object.__setattr__(self, "eps", float(self.eps))

    @classmethod
    def parse(cls, text: str | ThreatModel) -> ThreatModel:
        """Read ``"norm:radius"``, e.g. ``"Linf:8/255"`` or ``"L2:0.5"``; a threat model passes through.

        Raises:
            InputError: The text has another form, the norm is unknown or the radius is out of range.
        """
        if isinstance(text, ThreatModel):
            return text
        norm, separator, radius = str(text).partition(":")
        if not separator:
            raise InputError(f'A threat model is written "norm:radius", e.g. "Linf:8/255", but got {str(text)!r}.')
        key = norm.strip().lower()
        if key not in _NORMS:
            raise unknown("norm", norm, ("Linf", "L2"))
        try:
            numerator, slash, denominator = radius.partition("/")
            eps = float(numerator) / float(denominator) if slash else float(radius)
        except (ValueError, ZeroDivisionError):
            raise InputError(
                f'The radius must be a number or a fraction such as "8/255", but got {radius!r}.'
            ) from None
        return cls(_NORMS[key], eps)

    @classmethod
    def from_art(cls, norm: float | str, eps: float) -> ThreatModel:
        """Read ART's way to write a norm: ``np.inf``, ``"inf"`` or ``2``.

        Raises:
            InputError: The norm is neither, or the radius is out of range.
        """
        if norm in (np.inf, "inf"):
            return cls("Linf", eps)
        if norm == 2:
            return cls("L2", eps)
        raise InputError(f'`norm` must be np.inf, "inf" or 2, but got {norm!r}.')

    def __str__(self) -> str:
        in_grey_levels = Fraction(self.eps).limit_denominator(255)
        is_fraction = in_grey_levels.denominator == 255 and math.isclose(self.eps, in_grey_levels, rel_tol=1e-12)
        return f"{self.norm}:{in_grey_levels if is_fraction else f'{self.eps:g}'}"

    @property
    def art_norm(self) -> float:
        """The norm as ART writes it: ``np.inf`` or ``2``."""
        return np.inf if self.norm == "Linf" else 2

    def check_radius(self, low: float, high: float, n_features: int) -> None:
        """Refuse a radius that reaches across the whole box of images: surely it is in other units.

        Args:
            low: Smallest value a pixel may have.
            high: Largest value a pixel may have.
            n_features: Number of pixels times channels.

        Raises:
            InputError: The ball around any image holds every image.
        """
        width = high - low
        diameter = width if self.norm == "Linf" else width * math.sqrt(n_features)
        if self.eps >= diameter:
            in_units = f'; did you mean "{self.norm}:{self.eps:g}/255"?' if high <= 1 < self.eps else "."
            raise InputError(
                f"A {self.norm} radius of {self.eps:g} covers every image with values "
                f"in [{low:g}, {high:g}]: it must stay below {diameter:g}{in_units}"
            )

    def size(self, delta: Tensor) -> Tensor:
        """Return the norm of each perturbation: (n, ...) -> (n,)."""
        flat = delta.flatten(1)
        return flat.abs().amax(1) if self.norm == "Linf" else flat.norm(dim=1)

    def project(self, x_adv: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Bring ``x_adv`` into the box [low, high], then into the ball around ``x``.

        ``x`` lies in the box, so the second step doesn't leave it. For L2 the second step scales the
        perturbation (the projection onto the ball).

        Args:
            x_adv: (n, ...) points.
            x: (n, ...) centres, inside the box.
            low: Lower bound of the box, broadcastable to ``x``.
            high: Upper bound of the box, broadcastable to ``x``.

        Returns:
            (n, ...) points inside both.
        """
        delta = torch.clamp(x_adv, low, high) - x
        if self.norm == "Linf":
            return x + delta.clamp(-self.eps, self.eps)
        return x + delta * _per_example(self.eps / self.size(delta).clamp_min(self.eps), x)

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the direction of unit norm along which the gradient rises most: sign, or g / ||g||.

        A zero gradient gives a zero step.
        """
        if self.norm == "Linf":
            return gradient.sign()
        # Scaled by the largest entry first: squares of gradients below 1e-23 vanish in float32.
        scaled = gradient / _per_example(gradient.flatten(1).abs().amax(1), gradient).clamp_min(
            torch.finfo(gradient.dtype).tiny
        )
        return scaled / _per_example(self.size(scaled), gradient).clamp_min(0.5)

    def random_start(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return points drawn uniformly from the ball around each of ``x`` (n, ...), not yet in the box.

        Args:
            x: (n, ...) centres.
            generator: On the device of ``x``; the global one if absent.
        """

        def draw(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=x.device, dtype=x.dtype)

        if self.norm == "Linf":
            return x + self.eps * (2 * draw(*x.shape) - 1)
        direction = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        radius = self.eps * draw(len(x)) ** (1 / x[0].numel())
        return x + direction * _per_example(radius / self.size(direction), x)


def _per_example(values: Tensor, like: Tensor) -> Tensor:
    """Shape (n,) values so that they broadcast over (n, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))
