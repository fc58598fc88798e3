"""Right examples dealt out to classes at random, in which classes of one size are counted together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import bdtrc, gammaln, xlog1py, xlogy

__all__ = ["dealt_statistics", "hypergeometric", "pearson"]

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_WORTHWHILE = 24  # classes that a round takes: fewer are dealt to one by one
_IMPOSSIBLE = 1e-20


def pearson(k: Counts, n: Counts, share: float) -> Floats:
    """Return the statistic of tables with k (..., C) right of n (C,) examples, ``share`` of all of them."""
    statistic: Floats = _squares(k, n, share).sum(-1)
    return statistic


def _squares(k: Counts, n: npt.ArrayLike, share: float) -> Floats:
    expected = np.asarray(n) * share
    squares: Floats = (k - expected) ** 2 / (expected * (1 - share))
    return squares


def dealt_statistics(n: Counts, right: int, repeats: int, rng: np.random.Generator) -> Floats:
    """Return Pearson's statistics of tables in which the right examples are dealt out to the classes at random.

    The counts k_c are those of the multivariate hypergeometric distribution: independent Binomial(n_c, q), given their
    sum, for any q. So most classes are drawn as independent ones, by how many of a size get how many, and kept with a
    probability proportional to that of the others making up the rest, which is Binomial again; in rounds, q being the
    share that is left, until few classes are.

    Args:
        n: Examples of each class, at least one, (C,).
        right: How many examples of all classes are right; some are, and some aren't.
        repeats: Number of tables, R.
        rng: Generator of random numbers.

    Returns:
        Statistics (R,), as :func:`pearson` has them.
    """
    total = int(n.sum())
    dealt_out = min(right, total - right)  # the statistic is the same of the wrong ones
    share = dealt_out / total
    size, number = np.unique(n, return_counts=True)
    statistics, left = np.zeros(repeats), np.full(repeats, dealt_out)
    while (taken := _taken(size, number, share)).sum() >= _WORTHWHILE:
        now, later = int((number * size).sum()), int(((number - taken) * size).sum())
        waiting = np.arange(repeats)
        while len(waiting):
            q = left[waiting] / now
            dealt, squares = np.zeros(len(waiting), np.int64), np.zeros(len(waiting))
            for m, classes in zip(size[taken > 0], taken[taken > 0], strict=True):
                k = _possible(int(m), float(q.max()))
                alike = bool(np.all(q == q[0]))
                chance = np.exp(_log_binomial(k, m, q[0] if alike else q[:, None]))
                times = rng.multinomial(classes, chance / chance.sum(-1, keepdims=True), len(waiting))
                dealt += times @ k
                squares += times @ _squares(k, m, share)
            rest = left[waiting] - dealt
            mode = np.minimum(np.floor((later + 1) * q), later)
            kept = _log_binomial(rest, later, q) - _log_binomial(mode, later, q) >= -rng.exponential(size=len(q))
            left[waiting[kept]] = rest[kept]
            statistics[waiting[kept]] += squares[kept]
            waiting = waiting[~kept]
        number = number - taken
    if int(number.sum()) == len(n):
        return pearson(rng.multivariate_hypergeometric(n, right, repeats, method="marginals"), n, right / total)
    remaining = int((number * size).sum())
    for of in np.repeat(size, number).tolist():
        remaining -= of
        k = rng.hypergeometric(of, remaining, left)
        statistics += _squares(k, of, share)
        left = left - k
    return statistics


def _taken(size: Counts, number: Counts, share: float) -> Counts:
    """Return how many classes of each size a round takes: seven eighths, where they outnumber the counts they get."""
    taken = 7 * number // 8
    likely = np.minimum(size + 1, 3 + size * share + 3 * np.sqrt(size * share))
    return np.where(taken > 2 * likely, taken, 0)


def _possible(n: int, p: float) -> Counts:
    """Return the numbers of successes in n trials that float64 tells from impossible."""
    k = np.arange(n + 1)
    return k[: 2 + int(np.count_nonzero(bdtrc(k, n, p) > _IMPOSSIBLE))]


def _log_binomial(k: npt.NDArray[np.number], n: int, p: Floats) -> Floats:
    """Return the logarithm of the probability of k successes in n trials, -inf outside of 0 to n."""
    inside = np.clip(k, 0, n)
    log: Floats = _log_choose(n, inside) + xlogy(inside, p) + xlog1py(n - inside, -p)
    return np.where(k == inside, log, -np.inf)


def _log_choose(n: npt.ArrayLike, k: npt.ArrayLike) -> Floats:
    of, taken = np.asarray(n, dtype=np.float64), np.asarray(k, dtype=np.float64)
    log: Floats = gammaln(of + 1) - gammaln(taken + 1) - gammaln(of - taken + 1)
    return log


def hypergeometric(right: int, n: int, drawn: int) -> tuple[Counts, Floats]:
    """Return how many right ones a draw from n can hold, and the probability of each."""
    k = np.arange(max(0, drawn - (n - right)), min(right, drawn) + 1)
    chance = np.exp(_log_choose(right, k) + _log_choose(n - right, drawn - k) - _log_choose(n, drawn))
    return k, chance / chance.sum()
