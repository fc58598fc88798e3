"""FAB and Square as members of AutoAttack, and a classifier as members see it; APGD is in _apgd.py."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pyautoattack import fab_pt, square
from pyautoattack.autopgd_base import L1_projection
from torch import Tensor, nn

from art_classwise import losses
from art_classwise._core import art_interface
from art_classwise._core.forward import MicroBatches, in_passes
from art_classwise._core.state import float32
from art_classwise.attacks._apgd import Order
from art_classwise.attacks._problem import check_finite
from art_classwise.attacks.search import derivative, input_gradient
from art_classwise.errors import InputError
from art_classwise.threat import is_asked_freely

__all__ = ["FABAttack_PT", "SquareAttack", "Unit", "to_hyperplane"]


class Unit(nn.Module):
    """A classifier as a module over images (C, H, W) in [0, 1], which is what members attack.

    Attributes:
        seen_shape: (C, H, W), as which members see the classifier's inputs.
    """

    def __init__(self, estimator: Any, model: nn.Module, micro_batch_size: int | None) -> None:
        super().__init__()
        self.module = MicroBatches(art_interface.logits_module(estimator, model), micro_batch_size)
        self.low, self.high = art_interface.clip_bounds(estimator, estimator.device)
        self.width, self.n_classes = float(self.high - self.low), estimator.nb_classes
        self.input_shape, self.seen_shape = tuple(estimator.input_shape), image_shape(estimator.input_shape)
        self._largest: Tensor | None = None  # logit since the last check; NaN, if one was

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 0:  # Square asks so where all margins are 0; many networks can't
            return x.new_zeros(0, self.n_classes)
        logits = self.module(torch.add(self.low, x.reshape(len(x), *self.input_shape), alpha=self.width))
        logits = art_interface.check_logits(logits, len(x), self.n_classes)
        self._note(x, logits.detach().abs().amax(1))
        return logits.clone()  # Square writes into what it gets

    def _note(self, x: Tensor, largest: Tensor) -> None:
        """Note the largest size of the logits (n,) of images x (n, ...), unless these are no numbers themselves."""
        if not (is_asked_freely(x.device) and math.isfinite(float(largest.sum()))):
            # Where gradients are infinite, members ask about such points.
            largest = torch.where(x.detach().flatten(1).sum(1).isfinite(), largest, 0.0)
        largest = largest.amax()
        self._largest = largest if self._largest is None else torch.maximum(self._largest, largest)

    def check_finite(self, rows: npt.NDArray[np.intp]) -> None:
        """Check that all logits that a member was given are finite: ``argmax`` takes NaN for the first class.

        Args:
            rows: (m,) of the images that it attacked.

        Raises:
            InputError: One wasn't.
        """
        largest, self._largest = self._largest, None
        if largest is not None and not bool(largest < math.inf):  # the host waits, once per batch
            raise InputError(
                f"The model returns logits that are not finite for attacked images, among those of examples "
                f"{rows.min()} to {rows.max()}: look for a division or a logarithm in it that meets 0."
            )

    def verdict(self, x: Tensor, rows: npt.NDArray[np.intp]) -> Tensor:
        """Return what the module takes images x of these rows for, in the classifier's own units, exactly (m,)."""
        logits = art_interface.exact_logits(self.module, x, self.n_classes)
        check_finite(~logits.isfinite().all(1), rows)
        return logits.argmax(1)

    def margin_gradient(self, x: Tensor, y: Tensor) -> Tensor | None:
        """Return the margin's gradient at images x (m, ...), or None if none goes through the network."""
        with torch.enable_grad(), float32(x.device.type):
            x = x.requires_grad_()
            return derivative(losses.margin(self.module(x), y).sum(), x)


def image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return how members see inputs of a shape: as images (C, H, W), which most are."""
    *others, height, width = (1, 1, *shape)
    return (math.prod(others), height, width)


_TINY = 1e-30  # what is divided by is at least this
_FAR = 1e10  # the difference of the label's logit from itself, which is no boundary


class FABAttack_PT(fab_pt.FABAttack_PT):  # noqa: N801  # it takes the other's place, so it bears its name
    """pyautoattack's FAB (Croce and Hein 2020, arXiv 1907.02044), made faster for Linf and L2.

    A step ends, as there, between two projections onto the linearised boundary within the box: that of the current
    point and that of the image. :func:`to_hyperplane` finds both by Newton's method, where pyautoattack sorts the
    pixels. The steps of a targeted run never wait for the host.

    L1, random starts and printing are pyautoattack's own, but for the gradients.

    Attributes:
        order: Returns target classes (n, K) of images and labels, the first to be tried first; None for that of the
            logits. For targeted runs in Linf and L2, without random starts.
        micro_batch_size: Examples whose gradients are computed at once; None for all.
    """

    order: Order | None = None
    micro_batch_size: int | None = None

    @torch.no_grad()
    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """Attack those examples that have withstood so far, target by target; the order is asked for once.

        Args:
            x: (n, C, H, W) images in [0, 1].
            y: (n,) labels.

        Returns:
            (n, C, H, W): misclassified points within the radius, and x where there is none.
        """
        if self.order is None or not self.targeted or self.norm == "L1" or self.n_restarts > 1 or self.verbose:
            result: Tensor = super().perturb(x, y)
            return result
        found = x.clone()
        (left,) = (self.predict(x).argmax(1) == y).nonzero(as_tuple=True)  # the host waits
        targets = self.order(x[left], y[left]) if len(left) > 0 else None
        for turn in range(self.n_target_classes):
            if targets is None or len(left) == 0:
                break
            points = self._walk(x[left], y[left], targets[:, turn])
            hit = self.predict(points).argmax(1) != y[left]
            hit &= self._length((points - x[left]).flatten(1)) <= self.eps
            found[left[hit]] = points[hit]
            left, targets = left[~hit], targets[~hit]
        return found

    def attack_single_run(
        self, x: Tensor, y: Tensor | None = None, use_rand_start: bool = False, is_targeted: bool = False
    ) -> Tensor:
        """Walk to the boundary and along it, seeking the nearest point beyond.

        Args:
            x: (n, C, H, W) images in [0, 1].
            y: (n,) labels.
            use_rand_start: Whether to start beside the images.
            is_targeted: Whether to walk towards the class ranked ``target_class`` at the image, not the nearest.

        Returns:
            (n, C, H, W): the nearest misclassified points found, and x where there is none.
        """
        if self.norm == "L1" or use_rand_start or self.verbose or y is None:
            result: Tensor = super().attack_single_run(x, y, use_rand_start, is_targeted)
            return result
        with torch.no_grad():
            logits = self.predict(x)
            right = (logits.argmax(1) == y).nonzero()[:, 0]  # the host waits
            adversarial = x.clone()
            if len(right) > 0:
                target = logits.argsort(1)[right, -self.target_class] if is_targeted else None
                adversarial[right] = self._walk(x[right], y[right], target)
        return adversarial

    def _walk(self, x: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
        starts = torch.stack((x, x)).flatten(2)  # (2, n, D): the current points, and the images
        current, image = starts
        best: Tensor = image.clone()
        shortest = x.new_full((len(x),), torch.inf)
        for _ in range(self.n_iter):
            height, slope = self._boundary(current.view_as(x), y, target)
            of_image = height + torch.linalg.vecdot(slope, image - current)
            moves = to_hyperplane(starts, slope, torch.stack((height, of_image)), self.norm)
            near, far = self._length(moves).clamp_min_(1e-8).unsqueeze(2)
            share = (near / (near + far)).clamp_max_(self.alpha_max)
            ends = moves.mul_(self.eta).add_(starts)
            reached = torch.lerp(ends[0], ends[1], share).clamp_(0.0, 1.0)
            beyond = self.predict(reached.view_as(x)).argmax(1) != y
            length = self._length(reached - image)
            nearer = beyond & (length < shortest)
            shortest = torch.where(nearer, length, shortest)
            best = torch.where(nearer.unsqueeze(1), reached, best)
            kept = torch.where(beyond, self.beta, 1.0).unsqueeze(1)  # from beyond, part of the way back
            torch.lerp(image, reached, kept, out=current)
        return best.view_as(x)

    def get_diff_logits_grads_batch(self, imgs: Tensor, la: Tensor) -> tuple[Tensor, Tensor]:
        """Return the margin to the class whose linearised boundary is nearest (n, 1), and its gradient (n, 1, ...)."""
        height, slope = self._boundary(imgs, la)
        return height.unsqueeze(1), slope.view(len(imgs), 1, *imgs.shape[1:])

    def get_diff_logits_grads_batch_targeted(
        self, imgs: Tensor, la: Tensor, la_target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the margin to a target class (n, 1), and its gradient (n, 1, ...)."""
        height, slope = self._boundary(imgs, la, la_target)
        return height.unsqueeze(1), slope.view(len(imgs), 1, *imgs.shape[1:])

    def _boundary(self, x: Tensor, y: Tensor, target: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the logit of another class less the label's (n,), and its gradient (n, D)."""
        if target is None:
            height, slope = in_passes(self._towards_the_nearest, self.micro_batch_size, x, y)
        else:
            height, slope = in_passes(self._towards, self.micro_batch_size, x, y, target)
        return height, slope

    def _towards(self, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.predict(x)
            difference = (logits.gather(1, target.unsqueeze(1)) - logits.gather(1, y.unsqueeze(1))).squeeze(1)
            gradient = input_gradient(difference.sum(), x)
        return difference.detach(), gradient.flatten(1)

    def _towards_the_nearest(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the class whose linearised boundary is nearest, which takes the gradients of all logits."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.predict(x)
            last = logits.shape[1] - 1
            gradients = [input_gradient(logits[:, k].sum(), x, keep=k < last).flatten(1) for k in range(last + 1)]
        slopes, logits, every = torch.stack(gradients, 1), logits.detach(), torch.arange(len(x), device=x.device)
        slopes -= slopes[every, y].unsqueeze(1)
        differences = (logits - logits.gather(1, y.unsqueeze(1))).scatter_(1, y.unsqueeze(1), _FAR)
        dual = torch.linalg.vector_norm(slopes, {"Linf": 1, "L2": 2}.get(self.norm, math.inf), dim=2)
        nearest = (differences.abs() / (dual + 1e-12)).argmin(1)
        return differences[every, nearest], slopes[every, nearest]

    def _length(self, moves: Tensor) -> Tensor:
        length: Tensor = moves.abs().amax(-1) if self.norm == "Linf" else torch.linalg.vector_norm(moves, dim=-1)
        return length


def to_hyperplane(t: Tensor, w: Tensor, height: Tensor, norm: str, passes: int = 4) -> Tensor:
    r"""Return the shortest moves from points in [0, 1] onto hyperplanes, or as near to them as the box lets.

    The shortest move takes coordinate i as far as :math:`\min(\lambda v_i, p_i)`, where :math:`p_i` is its room up to
    the side of the box that lies that way, and v is 1 for Linf and :math:`|w|` for L2. What has to be solved,
    :math:`\sum_i |w_i| \min(\lambda v_i, p_i) = |h|`, is concave and piecewise linear in :math:`\lambda`. So Newton's
    method from below rises to the solution: in as many passes as there are breakpoints at worst, on images in three
    or four. Where it hasn't arrived, the move is too short.

    Args:
        t: (..., n, D) points in [0, 1].
        w: (n, D) normals of the hyperplanes.
        height: (..., n) h: at t, the value of the linear function that is zero on the hyperplane.
        norm: ``"Linf"`` or ``"L2"``: in which the move is short.
        passes: Steps of Newton's method.

    Returns:
        (..., n, D) moves.
    """
    weight = w.abs()
    drive = weight if norm == "Linf" else weight.square()
    way = w.sign() * -height.sign().unsqueeze(-1)
    room = way.clamp_min(0).sub_(t).abs_()
    wanted = height.abs()
    reach = wanted / drive.sum(-1).clamp_min_(_TINY)
    taken, free = torch.empty_like(t), torch.empty_like(t)  # masks as floats: on a CPU, much faster than bool
    for _ in range(passes):
        limit = _limit(reach, weight, norm)
        torch.minimum(limit, room, out=taken)
        torch.gt(room, limit, out=free)
        missing = (wanted - taken.mul_(weight).sum(-1)).clamp_min_(0)  # below 0 by rounding only
        reach = reach + missing / free.mul_(drive).sum(-1).clamp_min_(_TINY)
        reach.clamp_max_(torch.finfo(reach.dtype).max)  # infinity times a weight of 0 would be NaN
    return torch.minimum(_limit(reach, weight, norm), room, out=taken).mul_(way)


def _limit(reach: Tensor, weight: Tensor, norm: str) -> Tensor:
    """Return how far coordinates go where the box lets them: (..., n, 1) for Linf, else (..., n, D)."""
    limit = reach.unsqueeze(-1)
    return limit if norm == "Linf" else limit * weight


class SquareAttack(square.SquareAttack):
    """pyautoattack's Square Attack (Andriushchenko et al. 2020, arXiv 1912.00049), faster and for all image sizes.

    From the same random numbers it makes the same points. For Linf, a query changes one square of the image: it is
    written into the image and taken back where it didn't help, and whole images are copied only when some of them are
    done. The random numbers are drawn at once, in the same order; so the host need ask a GPU who is left after every
    16th query only, for which those who are done stay as they are. For L2 and L1, whose random numbers go by who is
    left, it asks after each; the patterns are computed once per size, and the first perturbation is cut off at the
    sides of images that its tiles don't fit, where pyautoattack fails.

    Other losses, targets and printing are pyautoattack's own.

    Args:
        *args: As for pyautoattack's.
        to_the_edge: Whether squares also cover the last row and the last column, which pyautoattack's leave out: on
            images they rarely matter, but of a vector they would be a feature that is never tried.
        **kwargs: As for pyautoattack's.
    """

    def __init__(self, *args: Any, to_the_edge: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.to_the_edge = to_the_edge

    def attack_single_run(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Search from stripes or tiles, square by square.

        Args:
            x: (n, C, H, W) images in [0, 1].
            y: (n,) labels.

        Returns:
            (n,) float32, the queries made for each, and (n, C, H, W), the points where the margin was lowest.
        """
        if self.loss != "margin" or self.targeted or self.verbose:
            result: tuple[Tensor, Tensor] = super().attack_single_run(x, y)
            return result
        with torch.no_grad():
            return self._repaint(x, y) if self.norm == "Linf" else self._shift(x, y)

    def _repaint(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Search within Linf: a query paints one square anew (the paper's Algorithm 2)."""
        n, c, h, w = x.shape
        low, high = (x - self.eps).clamp_min(0.0), (x + self.eps).clamp_max(1.0)
        points = torch.clamp(x + self.eps * self.random_choice([n, c, 1, w]), 0.0, 1.0)
        found, queries = torch.empty_like(points), torch.ones(n, device=points.device)
        margin = self._margin(points, y)
        if bool((margin < 0).all()):
            return queries, points
        left, spent = torch.arange(n, device=points.device), torch.ones_like(queries)
        squares, every = self._squares(c, h, w, points.device), self._asks_every(points.device)
        for made in range(self.n_queries):
            going = margin > 0
            if made % every == 0 and not bool(going.all()):  # the host waits
                (gone,), (stay,) = (~going).nonzero(as_tuple=True), going.nonzero(as_tuple=True)
                found[left[gone]], queries[left[gone]] = points[gone], spent[gone]
                if len(stay) == 0:
                    return queries, found
                left, points, low, high, y = (v[stay] for v in (left, points, low, high, y))
                margin, spent, going = margin[stay], spent[stay], going[stay]
            row, column, side, change = next(squares)
            window = (..., slice(row, row + side), slice(column, column + side))
            before = points[window].clone()
            points[window] = torch.clamp(before + change, low[window], high[window])
            tried = self._margin(points, y)
            better = (tried < margin) & going  # who is broken stays where it is until the host asks
            points[window] = torch.where(better.view(-1, 1, 1, 1), points[window], before)
            margin = torch.where(better, tried, margin)
            spent += going
        found[left], queries[left] = points, spent
        return queries, found

    def _shift(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Search within L2 or L1: a query shifts the perturbation of one window to another (Algorithm 3)."""
        n, c, h, w = x.shape
        points = self._within(x, self._tiles(x))
        found, queries = torch.empty_like(points), torch.full((n,), 1.0 + self.n_queries, device=points.device)
        margin = self._margin(points, y)
        if bool((margin < 0).all()):
            return torch.ones_like(queries), points
        left = torch.arange(n, device=points.device)
        for made in range(1, self.n_queries + 1):
            going = margin > 0
            if not bool(going.all()):  # the host waits
                found[left[~going]], queries[left[~going]] = points[~going], float(made)
                left, points, x, y, margin = (v[going] for v in (left, points, x, y, margin))
                if len(left) == 0:
                    break
            side = max(self._side(made - 1, c, h, w), 3)
            side = min(side + 1 - side % 2, h, w)
            grown, emptied = self._window(h, w, side), self._window(h, w, side)
            change = points - x
            both = torch.zeros_like(change)
            both[grown] = both[emptied] = 1.0
            pattern = self._drawn_pattern(side, x.device) * self.random_choice([len(x), c, 1, 1])
            pattern = pattern + change[grown] / (1e-12 + self._size(change[grown]))
            pattern = pattern / (1e-12 + self._size(pattern))
            spent, freed = self.lp_norm(change), self._size(change * both)
            if self.norm == "L2":
                unspent = (torch.full_like(spent, self.eps) ** 2 - spent**2).clamp_min(0)
                pattern = pattern * (unspent / c + freed**2).sqrt()
            else:
                unspent = (self.eps - spent).clamp_min(0)
                pattern = pattern * (unspent / c + freed) * c
            change[emptied] = 0.0
            change[grown] = pattern
            new = self._within(x, change)
            tried = self._margin(new, y)
            better = tried < margin
            points = torch.where(better.view(-1, 1, 1, 1), new, points)
            margin = torch.where(better, tried, margin)
        found[left] = points
        return queries, found

    def _margin(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the logit of the label less the highest other (n,)."""
        logits, y = self.predict(x), y.unsqueeze(1)
        margin: Tensor = (logits.gather(1, y) - logits.scatter(1, y, -math.inf).amax(1, keepdim=True)).squeeze(1)
        return margin

    @staticmethod
    def _asks_every(device: torch.device) -> int:
        """Return after how many queries of Linf the host asks who is left: a CPU, at no cost, after each."""
        return 1 if is_asked_freely(device) else 16

    def _side(self, query: int, c: int, h: int, w: int) -> int:
        return max(round(math.sqrt(self.p_selection(query) * (c * h * w) / c)), 1)

    def _squares(self, c: int, h: int, w: int, device: torch.device) -> Iterator[tuple[int, int, int, Tensor]]:
        """Yield row, column, side and change (C, 1, 1) of each query's square."""
        sides = [min(self._side(query, c, h, w), h, w) for query in range(self.n_queries)]
        drawn, side_of = torch.rand(self.n_queries, 2 + c), torch.tensor(sides)
        free = ((extent - side_of) + int(self.to_the_edge) for extent in (h, w))
        rows, columns = ((places * drawn[:, k]).long().tolist() for k, places in enumerate(free))
        changes = (2.0 * self.eps * torch.sign(2 * drawn[:, 2:] - 1)).view(-1, c, 1, 1).to(device)
        yield from zip(rows, columns, sides, changes, strict=True)

    def _window(self, h: int, w: int, side: int) -> tuple[Any, ...]:
        """Draw where a window of this side lies."""
        places = (extent - side + int(self.to_the_edge) for extent in (h, w))
        row, column = (int(n * torch.rand([1])) for n in places)
        return (..., slice(row, row + side), slice(column, column + side))

    def _tiles(self, x: Tensor) -> Tensor:
        """Draw the first perturbation (n, C, H, W): a pattern of random sign in each tile of a grid, of any size."""
        n, c, h, w = x.shape
        side = max(min(h // 5, w), 1)
        top = max((h - 5 * side) // 2, 0)
        start, change = min(top, w - side), torch.zeros_like(x)
        for row in range(top, top + h // side * side, side):
            for column in range(start, start + w // side * side, side):
                pattern = self._drawn_pattern(side, x.device) * self.random_choice([n, c, 1, 1])
                tile = change[:, :, row : row + side, column : column + side]
                tile += pattern[:, :, : tile.shape[2], : tile.shape[3]]
        return change

    def _within(self, x: Tensor, change: Tensor) -> Tensor:
        """Return the points that perturbations lead to, brought into the ball and the box."""
        if self.norm == "L2":
            return torch.clamp(x + self.normalize(change) * self.eps, 0.0, 1.0)
        points: Tensor = x + change + L1_projection(x, change, self.eps * (1.0 - 1e-6))
        return points

    def _size(self, windows: Tensor) -> Tensor:
        """Return the norm (n, C, 1, 1) of windows, channel by channel."""
        if self.norm == "L2":
            return (windows**2).sum(dim=(-2, -1), keepdim=True).sqrt()
        return windows.abs().sum(dim=(-2, -1), keepdim=True)

    def _drawn_pattern(self, side: int, device: torch.device) -> Tensor:
        return _pattern(side, self.norm, bool(torch.rand([1]) > 0.5), device)


@cache
def _pattern(side: int, norm: str, beside: bool, device: torch.device) -> Tensor:
    """Return a window's change (s, s) of norm 1: two peaks, of either sign, above or beside each other (eq. 1)."""
    pattern = torch.cat([_peak(side // 2, side, norm), -_peak(side - side // 2, side, norm)])
    pattern = pattern / _whole(pattern, norm)
    return (pattern.T.contiguous() if beside else pattern).to(device)  # sums depend on the order in memory


def _peak(height: int, width: int, norm: str) -> Tensor:
    """Return concentric rectangles upon each other, which weigh less the larger they are, of norm 1."""
    middle_row, middle = height // 2, width // 2
    row, column = (torch.arange(height) - middle_row).abs(), (torch.arange(width) - middle).abs()
    ring = torch.maximum(row.unsqueeze(1), column)
    peak = torch.zeros(height, width)
    for k in range(max(middle_row, middle) + 1):
        peak += torch.where(ring <= k, 1.0 / torch.tensor([k + 1.0]) ** (2 if norm == "L2" else 4), 0.0)
    return peak / _whole(peak, norm)


def _whole(pattern: Tensor, norm: str) -> Tensor:
    return (pattern**2).sum(dim=(0, 1), keepdim=True).sqrt() if norm == "L2" else pattern.abs().sum()
