"""Square Attack for Linf that touches the square alone: pyautoattack's draws and results, less work per query."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from pyautoattack import square
from torch import Tensor

__all__ = ["SquareAttack"]


class SquareAttack(square.SquareAttack):
    """pyautoattack's Square Attack (Andriushchenko et al. 2020, arXiv 1912.00049), made faster for Linf.

    From the same random numbers it makes the same points. A query changes one square of the image: it is written into
    the image and taken back where it didn't help, and whole images are copied only when some of them are done. The
    random numbers are drawn at once, in the same order: on a GPU, queries wait for the host only to learn who is left.

    Other norms, losses, targets and printing are pyautoattack's own.
    """

    def attack_single_run(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Search from stripes, square by square.

        Args:
            x: (n, C, H, W) images in [0, 1].
            y: (n,) labels.

        Returns:
            (n,) float32, the queries made for each, and (n, C, H, W), the points where the margin was lowest.
        """
        if self.norm != "Linf" or self.loss != "margin" or self.targeted or self.verbose:
            result: tuple[Tensor, Tensor] = super().attack_single_run(x, y)
            return result
        with torch.no_grad():
            return self._search(x, y)

    def _search(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
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

    def _margin(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the logit of the label less the highest other (n,)."""
        logits, y = self.predict(x), y.unsqueeze(1)
        margin: Tensor = (logits.gather(1, y) - logits.scatter(1, y, -math.inf).amax(1, keepdim=True)).squeeze(1)
        return margin

    def _squares(self, c: int, h: int, w: int, device: torch.device) -> Iterator[tuple[int, int, int, Tensor]]:
        """Yield row, column, side and change (C, 1, 1) of each query's square."""
        sides = []
        for query in range(self.n_queries):
            side = max(round(math.sqrt(self.p_selection(query) * (c * h * w) / c)), 1)
            sides.append(min(side, h, w))
        drawn, side_of = torch.rand(self.n_queries, 2 + c), torch.tensor(sides)
        rows, columns = (((extent - side_of) * drawn[:, k]).long().tolist() for k, extent in enumerate((h, w)))
        changes = (2.0 * self.eps * torch.sign(2 * drawn[:, 2:] - 1)).view(-1, c, 1, 1).to(device)
        yield from zip(rows, columns, sides, changes, strict=True)
