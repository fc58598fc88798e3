"""What the published networks say about the claims: measured on each, and by how they were trained."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd
from claims.attack_strength import claim as strength_claim
from claims.diagnosis import held_out_gap
from claims.temperature_pgd import gain_claim
from scipy import stats

import art_classwise as acw
from art_classwise.audit.outcomes import WORST_CASE
from art_classwise.datasets import DATASETS
from lib.experiment import Claim, over_seeds, resampled
from lib.published import FAMILIES

REPEATS = 200
PARTS = 10  # of the images, to leave one out at a time
WIDTHS = {"points": (-100, 100), "": (-1, 1)}


@dataclass(frozen=True)
class Audited:
    """The outcomes of one network at one radius.

    Attributes:
        name: Of the network.
        result: The audit.
        family: How it was trained, one of :data:`lib.published.FAMILIES`; empty if that isn't known.
        norms: Of the rows of its last linear layer (C,); None if they aren't known.
        is_main: Whether this is the radius that it was trained for.
        published: The robust accuracy that its authors, or a leaderboard, print.
    """

    name: str
    result: acw.AuditResult
    family: str = ""
    norms: np.ndarray | None = None
    is_main: bool = True
    published: float | None = None

    @property
    def n(self) -> int:
        """The number of images, of an unfinished audit those that all its attacks were tried on."""
        return self.result.outcomes["example"].nunique()

    @property
    def board(self) -> str:
        """The leaderboard that it is on: data set and threat model."""
        return f"{self.result.manifest.examples.dataset}, {self.result.threat}"

    @property
    def groups(self) -> str | None:
        """The built-in groups that stand for single classes, of which there are too few images."""
        spec = DATASETS.get(self.result.manifest.examples.dataset)
        return None if spec is None else spec.groups

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, or groups of them."""
        classes = self.result.classes
        return tuple(classes if self.groups is None else acw.metrics.group_labels([0], self.groups, classes)[1])

    def numbered(self, labels: Any) -> np.ndarray:
        """Return the number of each label's class, or group."""
        if self.groups is None:
            return np.asarray(labels)
        return acw.metrics.group_labels(labels, self.groups, self.result.classes)[0]

    def withstood(self, attack: str = WORST_CASE) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes, or groups, of the examples, and whether each withstood an attack: two arrays (n,)."""
        rows = self.result.rows(self.name, attack)
        return self.numbered(rows["label"].to_numpy()), rows["withstood"].to_numpy()

    @property
    def clean(self) -> np.ndarray:
        """Whether the network is right without attack (n,)."""
        rows = self.result.rows(self.name)
        return (rows["label"] == rows["clean_prediction"]).to_numpy()

    def accuracies(self, right: np.ndarray) -> pd.Series[float]:
        """Return by class, or group, the share of examples (n,) that are right; those without examples are left out."""
        of = self.withstood()[0]
        return pd.Series(right, dtype=float).groupby(of).mean()

    def attack(self, begin: str) -> str | None:
        """Return the attack whose name begins so, before the number of its steps; None if there is none."""
        return next((a for a in self.result.attacks if re.fullmatch(rf"{begin}(-\d+)?", a)), None)


def measures(one: Audited) -> list[Claim]:
    """Return what was measured of one network, claim by claim; intervals are over images where nothing else is said."""
    where = f"{one.name}, {one.result.threat}"
    y, right = one.withstood()
    n = f"n = {len(y):,} test images, interval over them"
    found = [
        Claim(
            "0. Classes differ in robust accuracy",
            where,
            "gap between best and worst class, held out",
            *resampled(lambda rows: 100 * held_out_gap(y[rows], right[rows], 20), y, REPEATS),
            n=n,
            least=10,
        ),
        *_norms(one, where),
    ]
    if weak := one.attack("fgsm"):
        found.append(strength_claim(where, [(y, one.withstood(weak)[1], right)], n))
    plain, margin = one.attack("pgd"), one.attack("margin")
    sharp = [a for a in one.result.attacks if a.startswith("tpgd")]
    if plain and sharp:
        broke = np.stack([~one.withstood(a)[1] for a in sharp], axis=1)
        found.append(gain_claim(where, [(y, ~one.withstood(plain)[1], broke)], n))
    if plain and margin:
        more = one.withstood(plain)[1].astype(float) - one.withstood(margin)[1]
        found.append(
            Claim(
                "4. PGD on the margin breaks more than PGD",
                where,
                "attack rate of PGD on the margin minus that of PGD on cross-entropy",
                *resampled(lambda rows: 100 * float(more[rows].mean()), y, REPEATS),
                n=n,
                least=0.5,
            )
        )
    found.append(_between_attacks(one, where, n))
    return found


def _norms(one: Audited, where: str) -> list[Claim]:
    """Return the correlation of weight norms with robust accuracy, and, as the control, with clean accuracy."""
    if one.norms is None:
        return []
    of = one.numbered(np.arange(len(one.result.classes)))
    norms = pd.Series(one.norms).groupby(of).mean()  # of a group, the mean over its classes
    claims = []
    for what, right in (("robust", one.withstood()[1]), ("clean", one.clean)):
        accuracy = one.accuracies(right)
        value, low, high = np.nan, np.nan, np.nan
        if len(accuracy) > 3 and np.ptp(accuracy) > 0:
            row = acw.metrics.correlations(norms[accuracy.index], accuracy).loc["spearman"]
            value, low, high = row["value"], row["low"], row["high"]
        said = "more robust" if what == "robust" else "more accurate without attack"
        claims.append(
            Claim(
                f"2. Classes with larger weight norms are {said}",
                where,
                f"Spearman's correlation of norm and {what} accuracy",
                *(value, low, high),
                n=f"n = {one.n:,} test images, {len(accuracy)} classes, interval over classes",
                least=0.3,
                unit="",
            )
        )
    return claims


def agreement(y: np.ndarray, verdicts: Sequence[np.ndarray], n_classes: int, rows: Any = slice(None)) -> float:
    """Return the mean Kendall's tau between all pairs of outcomes, each order from another half of the images."""
    pairs = [
        acw.metrics.rank_agreement(y[rows], a[rows], b[rows], n_classes, repeats=20)["tau"]
        for a, b in combinations(verdicts, 2)
    ]
    known = [tau for tau in pairs if np.isfinite(tau)]
    return float(np.mean(known)) if known else float("nan")


def jackknifed(
    statistic: Callable[[np.ndarray], float], n: int, parts: int | None = None
) -> tuple[float, float, float]:
    """Return a statistic of n examples and its 95 % interval, from leaving out a part of them at a time.

    Drawing them anew would put an example into both halves of a split.
    """
    everything, parts = np.arange(n), parts or PARTS
    value = statistic(everything)
    left = [
        statistic(np.setdiff1d(everything, part))
        for part in np.array_split(np.random.default_rng(0).permutation(n), parts)
    ]
    spread = float(np.sqrt((parts - 1) ** 2 / parts * np.var(left, ddof=1)))
    half = float(stats.t.ppf(0.975, parts - 1)) * spread
    return value, max(-1.0, value - half), min(1.0, value + half)


def _between_attacks(one: Audited, where: str, n: str) -> Claim:
    names = [a for begin in ("fgsm", "pgd", "margin", "tpgd5", "autoattack") if (a := one.attack(begin))]
    found = [one.withstood(a) for a in names]
    y, verdicts = found[0][0], [right for _, right in found]
    return Claim(
        "5. The same classes are weak under all attacks",
        where,
        f"mean Kendall's tau between {', '.join(names)}",
        *jackknifed(lambda rows: agreement(y, verdicts, len(one.names), rows), len(y)),
        n=n,
        least=0.5,
        unit="",
    )


def by_family(measured: Sequence[tuple[Audited, Claim]]) -> list[Claim]:
    """Return each claim's mean over the networks of a family, with an interval over networks.

    Args:
        measured: Networks with what was measured of them, each network at one radius.
    """
    table: dict[tuple[str, str], list[tuple[Audited, Claim]]] = {}
    for one, claim in measured:
        table.setdefault((claim.claim, one.family), []).append((one, claim))
    claims = []
    for said, family in product(dict.fromkeys(said for said, _ in table), FAMILIES):
        found = table.get((said, family), [])
        known = [(one, claim) for one, claim in found if np.isfinite(claim.value)]
        if not known:
            continue
        lost = "" if len(known) == len(found) else f", {len(found) - len(known)} more without variation"
        first = known[0][1]
        if len(known) == 1:
            claims.append(replace(first, data=f"{family} networks: {first.data}", n=first.n + lost))
            continue
        value, low, high = over_seeds([claim.value for _, claim in known], within=WIDTHS[first.unit])
        seen = sum(claim.verdict == "seen" for _, claim in known)
        claims.append(
            replace(
                first,
                data=f"{family} networks",
                statistic=f"{re.sub(' between fgsm.*', ' between attacks', first.statistic)}, mean over networks",
                value=value,
                low=low,
                high=high,
                n=f"{_sizes([one.n for one, _ in known])} test images, {len(known)} networks{lost}, interval over "
                f"networks; seen on {seen} of them alone",
            )
        )
    return claims


def _sizes(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"n = {low:,}" if low == high else f"n = {low:,} to n = {high:,}"


def _counted(n: int) -> str:
    return f"{n} network{'' if n == 1 else 's'}"


def by_board(boards: Mapping[str, Sequence[Audited]]) -> list[Claim]:
    """Return what each leaderboard says: what a mean hides, who changes places, and whether the weak classes agree.

    Args:
        boards: Networks by data set and radius.
    """
    return [claim for board, networks in boards.items() for claim in _of_board(board, networks)]


def _of_board(board: str, networks: Sequence[Audited]) -> Iterator[Claim]:
    y, right, tried = together(networks)
    n_classes, m = len(networks[0].names), len(networks)

    known: dict[bytes, tuple[np.ndarray, ...]] = {}  # both statistics are drawn alike, and their parts are dear

    def numbers(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        key = rows.tobytes()
        if key not in known:
            known[key] = _means_and_worst(y[rows], right[rows], tried[rows], n_classes)
        return known[key]

    def hidden(rows: np.ndarray) -> float:
        means, worst = numbers(rows)
        return 100 * float((means - worst).mean())

    def swapped(rows: np.ndarray) -> float:
        means, worst = numbers(rows)
        i, j = np.triu_indices(m, 1)
        return 100 * float(((means[i] - means[j]) * (worst[i] - worst[j]) < 0).mean())

    n = f"{_sizes(tried.sum(0).tolist())} test images, {_counted(m)}, interval over images"
    yield Claim(
        "An average hides the worst class",
        board,
        "mean robust accuracy minus that of the worst class, held out, mean over networks",
        *resampled(hidden, y, REPEATS),
        n=n,
        least=10,
    )
    if m < 2:
        return
    yield Claim(
        "Ranked by the worst class, networks change places",
        board,
        "pairs of networks in opposite order by mean and by worst class (close pairs by chance, too)",
        *resampled(swapped, y, REPEATS),
        n=n,
        least=5,
        unit="%",
    )
    most = tried.sum(0) == tried.sum(0).max()  # what the others share with them is fewer images
    common = np.flatnonzero(tried[:, most].all(1))
    verdicts = list(right[common][:, most].T)
    if len(verdicts) < 2:
        return
    yield Claim(
        "5. The same classes are weak after all defences",
        board,
        "mean Kendall's tau between networks",
        *jackknifed(lambda rows: agreement(y[common], verdicts, n_classes, rows), len(common)),
        n=f"n = {len(common):,} test images, {_counted(len(verdicts))}, interval over images",
        least=0.5,
        unit="",
    )


def together(networks: Sequence[Audited]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the examples of networks: classes (n,), whether each withstood all attacks and was tried (n, networks)."""
    columns = {}
    for one in networks:
        rows = one.result.rows(one.name)
        columns[one.name] = pd.Series(rows["withstood"].to_numpy(), index=rows["example"]), rows.set_index("example")
    examples = np.unique(np.concatenate([column.index for column, _ in columns.values()]))
    label = pd.concat([rows["label"] for _, rows in columns.values()]).groupby(level=0).first().loc[examples]
    wide = pd.DataFrame({name: column.reindex(examples) for name, (column, _) in columns.items()})
    tried = wide.notna().to_numpy()
    return networks[0].numbered(label.to_numpy()), wide.fillna(False).to_numpy(dtype=bool), tried


def _means_and_worst(y: np.ndarray, right: np.ndarray, tried: np.ndarray, n_classes: int) -> tuple[np.ndarray, ...]:
    means, worst = [], []
    for model in range(right.shape[1]):
        of, withstood = y[tried[:, model]], right[tried[:, model], model]
        n, k = np.bincount(of, minlength=n_classes), np.bincount(of[withstood], minlength=n_classes)
        means.append((k[n > 0] / n[n > 0]).mean())
        enough = (n > 1).any()
        worst.append(acw.metrics.worst_class(of, withstood, n_classes, repeats=20)["accuracy"] if enough else np.nan)
    return np.array(means), np.array(worst)
