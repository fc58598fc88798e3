"""The threat model: a norm and a radius, and the operations on tensors that a search needs."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from art_classwise.errors import LARGEST, InputError, as_float, shown, too_large, unknown

__all__ = ["CORRUPTIONS", "NORMS", "Norm", "ThreatModel", "Uniform", "dual_norm", "is_asked_freely", "per_example"]

Norm = Literal["Linf", "L2", "L1", "corruptions"]
NORMS: tuple[Norm, ...] = ("Linf", "L2", "L1")
"""Those of balls, in the order in which they are told: at one radius, each ball contains those that follow."""
_NORMS: dict[str, Norm] = {norm.lower(): norm for norm in NORMS}
_ANYWHERE: Norm = "corruptions"
_ART_NORMS: dict[float, Norm] = {np.inf: "Linf", 2: "L2", 1: "L1"}
_DUAL: dict[Norm, Norm] = {"Linf": "L1", "L2": "L2", "L1": "Linf"}
_TEXTS = {"inf": np.inf, "linf": np.inf, "2": 2, "l2": 2, "1": 1, "l1": 1}

Uniform = Callable[..., Tensor]
"""The sides of a shape -> float32 drawn uniformly from (0, 1), new ones at each call."""


@dataclass(frozen=True)
class ThreatModel:
    """All perturbations of an image that an attacker may choose: ``||x_adv - x||_norm <= eps``.

    Or, as RobustBench has it, ``"corruptions"``: images that chance or a camera corrupted, anywhere in [0, 1], with no
    attacker who chooses them.

    Args:
        norm: ``"Linf"``, ``"L2"`` or ``"L1"``; or ``"corruptions"``.
        eps: Radius, in the units of the images (``8 / 255`` on images in [0, 1]); of corruptions 1, the whole range.

    Raises:
        InputError: The norm is unknown, or the radius is not a finite positive number.

    Example:
        >>> ThreatModel.parse("Linf:8/255")
        ThreatModel(norm='Linf', eps=0.03137254901960784)
        >>> str(ThreatModel("L2", 0.5))
        'L2:0.5'
    """

    # Of files that hold one, which pydantic reads.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        if self.norm not in (*_NORMS.values(), _ANYWHERE):
            raise unknown("norm", self.norm, (*_NORMS.values(), _ANYWHERE))
        if self.norm == _ANYWHERE and self.eps != 1:
            raise InputError(
                f"Corruptions have no radius, so theirs must be 1, the whole range, not {shown(self.eps)}."
            )
        if not 0 < as_float(self.eps) <= LARGEST:
            most = too_large(as_float(self.eps))
            raise InputError(
                f"The radius must be a finite number above 0{most}, but got {shown(self.eps)}. "
                'Give it in the units of the images, e.g. "Linf:8/255" for images in [0, 1].'
            )
        object.__setattr__(self, "eps", float(self.eps))

    @classmethod
    def parse(cls, text: str | ThreatModel) -> ThreatModel:
        """Read ``"norm:radius"``, e.g. ``"Linf:8/255"`` or ``"L2:0.5"``, or ``"corruptions"``; others pass through.

        Raises:
            InputError: The text has another form, the norm is unknown or the radius is out of range.
        """
        if isinstance(text, ThreatModel):
            return text
        if str(text).strip().lower() == _ANYWHERE:
            return CORRUPTIONS
        norm, separator, radius = str(text).partition(":")
        if not separator:
            raise InputError(f'A threat model is written "norm:radius", e.g. "Linf:8/255", but got {str(text)!r}.')
        key = norm.strip().lower()
        if key not in _NORMS:
            raise unknown("norm", norm, tuple(_NORMS.values()))
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
        """Read ART's way to write a norm: ``np.inf``, ``"inf"``, ``2`` or ``1``; or ``"Linf"``, ``"L2"``, ``"L1"``.

        Raises:
            InputError: The norm is none of them, or the radius is out of range.
        """
        known = _TEXTS.get(norm.strip().lower(), norm) if isinstance(norm, str) else norm
        if not isinstance(known, numbers.Real) or isinstance(known, bool) or known not in _ART_NORMS:
            raise InputError(f'`norm` must be np.inf, "inf", 2 or 1, or "Linf", "L2" or "L1", but got {shown(norm)}.')
        return cls(_ART_NORMS[float(known)], eps)

    @property
    def is_ball(self) -> bool:
        """Whether it has a norm and a radius, within which an attacker chooses; not of corruptions."""
        return self.norm != _ANYWHERE

    def __str__(self) -> str:
        if not self.is_ball:
            return self.norm
        levels = round(255 * self.eps)
        short = f"{self.eps:g}"
        # Where a few digits say it, they do: 0.2, which is 51/255, too.
        in_levels = math.isclose(self.eps, levels / 255, rel_tol=1e-12) and float(short) != self.eps
        return f"{self.norm}:{f'{levels}/255' if in_levels else short}"

    @property
    def art_norm(self) -> float:
        """The norm as ART writes it: ``np.inf``, ``2`` or ``1``.

        Raises:
            InputError: It is of corruptions, which have none.
        """
        if not self.is_ball:
            raise InputError(
                "Corruptions have no norm and no radius to attack or train within: give a threat model such as "
                '"Linf:8/255".'
            )
        return {"Linf": np.inf, "L2": 2, "L1": 1}[self.norm]

    def diameter(self, width: float, n_features: int) -> float:
        """Return the largest norm of a difference of two images.

        Args:
            width: Of the range of a pixel.
            n_features: Number of pixels times channels.
        """
        sides = {"Linf": 1.0, "L2": math.sqrt(n_features), "L1": float(n_features)}
        return width * sides.get(self.norm, math.inf)  # corruptions lead anywhere, and that is meant

    def check_radius(self, low: float, high: float, n_features: int) -> None:
        """Refuse a radius that reaches across the whole box of images: surely it is in other units.

        Args:
            low: Smallest value a pixel may have.
            high: Largest value a pixel may have.
            n_features: Number of pixels times channels.

        Raises:
            InputError: The ball around any image holds every image.
        """
        diameter = self.diameter(high - low, n_features)
        if self.eps >= diameter:
            in_units = f'; did you mean "{self.norm}:{self.eps:g}/255"?' if high <= 1 < self.eps else "."
            raise InputError(
                f"A {self.norm} radius of {self.eps:g} covers every image with values "
                f"in [{low:g}, {high:g}]: it must stay below {diameter:g}{in_units}"
            )

    def size(self, delta: Tensor) -> Tensor:
        """Return the norm of each perturbation, of corruptions the largest change: (n, ...) -> (n,)."""
        return _norm_of(delta, self.norm)

    def project(
        self,
        x_adv: Tensor,
        x: Tensor,
        low: Tensor,
        high: Tensor,
        eps: Tensor | None = None,
        *,
        out: Tensor | None = None,
    ) -> Tensor:
        """Bring ``x_adv`` into the box [low, high] and the ball around ``x``.

        For Linf and L1 this is the projection onto their intersection, the nearest point of it. For L2 the
        point is clipped to the box, then its perturbation scaled, as everybody does; ``x`` lies in the box, so the
        second step doesn't leave it.

        Args:
            x_adv: (n, ...) points.
            x: (n, ...) centres, inside the box.
            low: Lower bound of the box, broadcastable to ``x``.
            high: Upper bound of the box, broadcastable to ``x``.
            eps: Radii in place of the threat model's: (n, 1, ..., 1); for Linf of any shape that broadcasts to ``x``.
            out: Where to write the result, perhaps ``x_adv`` itself; for Linf and L2.

        Returns:
            (n, ...) points inside both.
        """
        if self.norm == "L1":
            radius = x.new_full((len(x),), self.eps) if eps is None else eps.flatten()
            moved = x + _project_l1(x_adv - x, low - x, high - x, radius.expand(len(x)))
            return _clamped(moved, low, high, out=moved)
        if not self.is_ball:
            return _clamped(x_adv, low, high)
        delta = torch.sub(_clamped(x_adv, low, high, out=out), x, out=out)
        if self.norm == "Linf":
            delta = delta.clamp_(-self.eps, self.eps) if eps is None else delta.clamp_(-eps, eps)
        else:
            size = per_example(self.size(delta), x).clamp_min(torch.finfo(x.dtype).tiny)
            delta = delta.mul_(((self.eps if eps is None else eps) / size).clamp_max(1))
        moved = torch.add(x, delta, out=out)
        return _clamped(moved, low, high, out=moved)  # again: the sum may miss the box by a rounding

    def bounds(self, x: Tensor, low: Tensor, high: Tensor, eps: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return where ball and box around ``x`` end, for Linf: (n, ...) lower and upper bounds.

        :meth:`project` rises with each coordinate, so that for points p it is x + (p - x), rounded likewise, clipped to
        where it takes the corners of the box.

        Args:
            x: As for :meth:`project`.
            low: Likewise.
            high: Likewise.
            eps: Likewise.
        """
        lower, upper = torch.empty_like(x), torch.empty_like(x)
        for side, bound in ((low, lower), (high, upper)):
            self.project(side.expand_as(x), x, low, high, eps, out=bound)
        return lower, upper

    def steepest(
        self,
        gradient: Tensor,
        coordinates: Tensor | None = None,
        *,
        largest: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Return the direction of unit norm along which to step.

        Linf: the sign; L2: g / ||g||: there the loss rises most. For L1 that would be the one largest coordinate,
        which makes no headway; there the sign of the largest coordinates (Tramer and Boneh 2019, arXiv 1904.13000,
        the SLIDE attack). A zero gradient gives a zero step.

        Args:
            gradient: (n, ...).
            coordinates: For L1: (n,) int64, how many coordinates of each example a step changes; 1 % if absent.
            largest: (n,) the largest size of each gradient's entries, if it is known.
            out: Where to write the result; not for L1.
        """
        if self.norm == "Linf":
            return torch.sign(gradient, out=out)
        if self.norm == "L1":
            flat = gradient.flatten(1)
            d = flat.shape[1]
            if coordinates is None:
                coordinates = torch.full((len(flat),), max(1, round(d / 100)), device=flat.device)
            size = flat.abs()
            # The largest alone, where the host knows how many: to sort takes ten times as long.
            k = int(coordinates.max()) if flat.device.type == "cpu" and len(flat) else d
            largest = size.topk(k, dim=1).values if k < d / 4 else size.sort(dim=1, descending=True).values
            threshold = largest.gather(1, coordinates[:, None] - 1)
            chosen = flat.sign().mul_(torch.ge(size, threshold, out=size))  # on a CPU, as floats: bool takes longer
            return chosen.div_(chosen.abs().sum(1, keepdim=True).clamp_min(1)).view_as(gradient)
        # Scaled by the largest entry first: squares of gradients below 1e-23 vanish in float32.
        if largest is None:
            largest = torch.abs(gradient, out=out).flatten(1).amax(1)
        least = torch.finfo(gradient.dtype).tiny
        scaled = torch.div(gradient, per_example(largest, gradient).clamp_min(least), out=out)
        return scaled.div_(per_example(self.size(scaled), gradient).clamp_min(0.5))

    def random_start(self, x: Tensor, uniform: Uniform | None = None, eps: Tensor | None = None) -> Tensor:
        """Return points drawn uniformly from the ball around each of ``x`` (n, ...), not yet in the box.

        Args:
            x: (n, ...) centres.
            uniform: Draws numbers on the device of ``x``; ``torch.rand`` there if absent.
            eps: Radii in place of the threat model's, as for :meth:`project`.
        """
        draw = uniform or (lambda *shape: torch.rand(shape, device=x.device, dtype=x.dtype))
        radius: Tensor | float = self.eps if eps is None else eps
        if self.norm == "Linf":
            return x + radius * (2 * draw(*x.shape) - 1)
        # The direction of a normal vector is uniform on the L2 sphere, that of a Laplace vector on the L1 sphere;
        # the radius of a uniform point of a ball in d dimensions has the density of u^(1/d).
        u = draw(*x.shape).clamp(2**-24, 1 - 2**-24)  # torch.rand may give 0, whose quantile is infinite
        direction: Tensor = (
            torch.special.ndtri(u) if self.norm == "L2" else (u - 0.5).sign() * (1 - (2 * u - 1).abs()).log()
        )
        # In float64: a CPU's float32 power depends in its last digit on the place in the batch.
        share = (draw(len(x)).double() ** (1 / x[0].numel())).to(u.dtype)
        distance = per_example(share / self.size(direction), x)
        return x + direction * (radius * distance)


CORRUPTIONS = ThreatModel(_ANYWHERE, 1.0)
"""The threat model of corrupted images, for audits without an attacker."""


def is_asked_freely(device: torch.device) -> bool:
    """Return whether the host gets a value from a device at no cost: waiting for a GPU takes longer than its work."""
    return device.type == "cpu"


def _clamped(x: Tensor, low: Tensor, high: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return torch.clamp's result; on a CPU, limits that are one tensor each take it six times as long as numbers."""
    if is_asked_freely(x.device) and low.numel() == high.numel() == 1:
        return torch.clamp(x, float(low), float(high), out=out)
    return torch.clamp(x, low, high, out=out)


def _project_l1(delta: Tensor, low: Tensor, high: Tensor, eps: Tensor) -> Tensor:
    """Return the nearest points to ``delta`` (n, ...) with low <= point <= high and ||point||_1 <= eps (n,).

    Given low <= 0 <= high. The box alone if that suffices; else the Karush-Kuhn-Tucker conditions give
    sign(delta) min(cap, max(|delta| - t, 0)) with cap the room to the box and one t > 0 per point (Croce and Hein
    2021, arXiv 2103.01208, section 3). The L1 norm falls with t, so t is found by bisection, to float32's last digits.
    """
    size = delta.abs()
    cap = torch.where(delta >= 0, high, -low).expand_as(delta)
    shape = (-1, *[1] * (delta.dim() - 1))
    under, over = torch.zeros_like(eps), size.flatten(1).amax(1)
    fits = torch.minimum(size, cap).flatten(1).sum(1) <= eps
    left = torch.empty_like(size)
    for _ in range(_BISECTIONS):
        middle = (under + over) / 2
        torch.sub(size, middle.view(shape), out=left).clamp_min_(0)
        too_far = torch.minimum(cap, left, out=left).flatten(1).sum(1) > eps
        under, over = torch.where(too_far, middle, under), torch.where(too_far, over, middle)
    threshold = torch.where(fits, 0.0, over).view(shape)
    torch.sub(size, threshold, out=left).clamp_min_(0)
    return torch.minimum(cap, left, out=left).mul_(delta.sign())


_BISECTIONS = 30


def dual_norm(gradient: Tensor, norm: Norm) -> Tensor:
    """Return how fast functions rise at most per unit of a norm, to first order: (n, ...) gradients -> (n,)."""
    return _norm_of(gradient, _DUAL[norm])


def _norm_of(delta: Tensor, norm: Norm) -> Tensor:
    """Return norms, (n, ...) -> (n,); without torch.linalg.vector_norm where that takes six to twenty times as long."""
    flat = delta.flatten(1)
    if norm in ("Linf", _ANYWHERE):
        return flat.abs().amax(1)
    return flat.abs().sum(1) if norm == "L1" else torch.linalg.vector_norm(flat, dim=1)


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """Shape (n,) values so that they broadcast over ``like`` (n, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))
