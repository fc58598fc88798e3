"""Square Attack on images of any size: pyautoattack's draws and results, less work per query."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from pyautoattack import square
from pyautoattack.autopgd_base import L1_projection
from torch import Tensor

__all__ = ["SquareAttack"]


class SquareAttack(square.SquareAttack):
    """pyautoattack's Square Attack (Andriushchenko et al. 2020, arXiv 1912.00049), faster and for all image sizes.

    From the same random numbers it makes the same points. For Linf, a query changes one square of the image: it is
    written into the image and taken back where it didn't help, and whole images are copied only when some of them are
    done. The random numbers are drawn at once, in the same order: on a GPU, queries wait for the host only to learn who
    is left. For L2 and L1, the patterns are computed once per size, and the first perturbation is cut off at the sides
    of images that its tiles don't fit, where pyautoattack fails.

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
        found, queries = torch.empty_like(points), torch.full((n,), 1.0 + self.n_queries, device=points.device)
        margin = self._margin(points, y)
        if bool((margin < 0).all()):
            return torch.ones_like(queries), points
        left = torch.arange(n, device=points.device)
        squares = self._squares(c, h, w, points.device)
        for made in range(1, self.n_queries + 1):
            going = margin > 0
            if not bool(going.all()):  # the host waits
                found[left[~going]], queries[left[~going]] = points[~going], float(made)
                left, points, low, high, y, margin = (v[going] for v in (left, points, low, high, y, margin))
                if len(left) == 0:
                    break
            row, column, side, change = next(squares)
            window = (..., slice(row, row + side), slice(column, column + side))
            before = points[window].clone()
            points[window] = torch.clamp(before + change, low[window], high[window])
            tried = self._margin(points, y)
            better = tried < margin
            points[window] = torch.where(better.view(-1, 1, 1, 1), points[window], before)
            margin = torch.where(better, tried, margin)
        found[left] = points
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
