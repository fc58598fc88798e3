"""FAB for Linf and L2 with steps that need no sorting: pyautoattack's results up to rounding, sooner."""

from __future__ import annotations

import torch
from pyautoattack import fab_pt
from torch import Tensor

__all__ = ["FABAttack_PT", "to_hyperplane"]

_TINY = 1e-30  # what is divided by is at least this


class FABAttack_PT(fab_pt.FABAttack_PT):  # noqa: N801  # it takes the other's place, so it bears its name
    """pyautoattack's FAB (Croce and Hein 2020, arXiv 1907.02044), made faster for Linf and L2.

    A step ends, as there, between two projections onto the linearised boundary within the box: that of the current
    point and that of the image. :func:`to_hyperplane` finds both by Newton's method, where pyautoattack sorts the
    pixels. The steps of a targeted run never wait for the host.

    L1, random starts and printing are pyautoattack's own.
    """

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

    def _boundary(self, x: Tensor, y: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the logit of another class less the label's (n,), and its gradient (n, D)."""
        if target is None:  # the class whose linearised boundary is nearest
            differences, gradients = self.get_diff_logits_grads_batch(x, y)
            dual = torch.linalg.vector_norm(gradients.flatten(2), 1 if self.norm == "Linf" else 2, dim=2)
            every, nearest = torch.arange(len(x), device=x.device), (differences.abs() / (dual + 1e-12)).argmin(1)
            return differences[every, nearest], gradients[every, nearest].flatten(1)
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.predict(x)
            difference = (logits.gather(1, target.unsqueeze(1)) - logits.gather(1, y.unsqueeze(1))).squeeze(1)
            (gradient,) = torch.autograd.grad(difference.sum(), x)
        return difference.detach(), gradient.flatten(1)

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
