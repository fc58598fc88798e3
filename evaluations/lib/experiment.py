"""What all experiments share: command line, intervals, claims with their verdicts, and output tables."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

import art_classwise as acw
from art_classwise.datasets import DATASETS
from lib.machine import hardware, versions
from lib.published import NETWORKS, at_hand
from lib.setups import SIZES, Setup, Trainings

matplotlib.use("Agg")
RESULTS = Path(__file__).parents[1] / "results"
ABSENT = 3
"""Exit code of an experiment whose data or networks aren't at hand."""


@dataclass(frozen=True)
class Claim:
    """A claim, and what was measured of it. A larger statistic speaks for it.

    Attributes:
        claim: In a sentence.
        data: Data set and networks.
        statistic: What was measured, in words.
        value: It.
        low: Lower end of its 95 % interval.
        high: Upper end.
        n: What it was measured on.
        least: The smallest value that the claim would speak of.
        null: The value where there is nothing.
        unit: Of the numbers, such as ``"points"``.
        published: The papers' number, if they give one.
        smoke: Whether there are so few examples that it is a test of the script, which has no verdict.
        p: Of several claims that are looked at together, the p value of the null, adjusted for all of them; else NaN.
    """

    claim: str
    data: str
    statistic: str
    value: float
    low: float
    high: float
    n: str
    least: float
    null: float = 0.0
    unit: str = "points"
    published: str = ""
    smoke: bool = False
    p: float = float("nan")

    @property
    def verdict(self) -> str:
        """Whether the claim was seen.

        ``"seen"``: the interval lies above the null, the value isn't below the least, and p, if there is one, is below
        0.05. ``"not seen"``: the interval lies below the least, or doesn't reach above the null. Else ``"unclear"``. Of
        a smoke test ``"smoke test"``.
        """
        if self.smoke:
            return "smoke test"
        if self.low > self.null and self.value >= self.least:
            return "unclear" if self.p >= 0.05 else "seen"
        if self.high < self.least or self.high <= self.null:
            return "not seen"
        return "unclear"

    @property
    def shown(self) -> str:
        """Value and interval, as ``12.3 (10.0 to 15.1) points``."""
        digits = 1 if self.unit in ("points", "%") else 2
        value, low, high = (f"{v:.{digits}f}" for v in (self.value, self.low, self.high))
        interval = "" if np.isnan(self.low) else f" ({low} to {high})"
        return f"{value}{interval} {self.unit}".strip()

    def row(self) -> dict[str, Any]:
        """Return the claim as a row of a table."""
        return {
            **{name: getattr(self, name) for name in self.__dataclass_fields__ if name != "smoke"},
            "result": self.shown,
            "verdict": self.verdict,
        }


def over_seeds(values: Sequence[float], *, within: tuple[float, float] = (-np.inf, np.inf)) -> tuple[float, ...]:
    """Return the mean of a value over seeds, and its 95 % interval by Student's t.

    Args:
        values: One per seed.
        within: What the value can be, which the interval doesn't leave.
    """
    a = np.asarray(values, dtype=np.float64)
    mean = float(a.mean())
    if len(a) < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, len(a) - 1) * a.std(ddof=1) / np.sqrt(len(a)))
    return mean, max(mean - half, within[0]), min(mean + half, within[1])


def shown(values: Sequence[float]) -> str:
    """Return mean and interval of fractions in per cent, as ``54.3 (51.0–57.6)``."""
    mean, low, high = (100 * v for v in over_seeds(values))
    return f"{mean:.1f} ({low:.1f}–{high:.1f})" if low == low else f"{mean:.1f}"


def resampled(
    statistic: Callable[[np.ndarray], float], y: np.ndarray, repeats: int = 500, seed: int = 0
) -> tuple[float, float, float]:
    """Return a statistic of examples and its 95 % interval: percentiles over examples drawn anew within each class.

    Args:
        statistic: Takes the numbers of examples.
        y: The labels.
        repeats: How often they are drawn.
        seed: Of the drawing.
    """
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(y == k) for k in np.unique(y)]
    drawn = [statistic(np.concatenate([rng.choice(g, len(g)) for g in groups])) for _ in range(repeats)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5]) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return statistic(np.arange(len(y))), float(low), float(high)


def over_both(
    values: Sequence[float], variance: float, freedom: float, *, within: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[float, ...]:
    """Return the mean of a value over seeds, and its 95 % interval over seeds and examples, which are crossed.

    The variance is that over seeds, a part of which are examples, and that over examples, by Satterthwaite's degrees of
    freedom; what examples do with one seed alone is in both, so that the interval is rather too wide.

    Args:
        values: One per seed.
        variance: Of the mean over seeds, over examples of the same kind.
        freedom: Degrees of freedom of that.
        within: What the value can be, which the interval doesn't leave.
    """
    mean, error, degrees = _error_over_both(values, variance, freedom)
    if not error > 0:
        return mean, mean, mean
    half = float(stats.t.ppf(0.975, degrees) * error)
    return mean, max(mean - half, within[0]), min(mean + half, within[1])


def p_over_both(values: Sequence[float], variance: float, freedom: float) -> float:
    """Return p, two-sided, of a mean of 0: the error at which the interval of :func:`over_both` ends at 0.

    NaN where nothing varies. Arguments as there.
    """
    mean, error, degrees = _error_over_both(values, variance, freedom)
    return float(2 * stats.t.sf(abs(mean) / error, degrees)) if error > 0 else float("nan")


def _error_over_both(values: Sequence[float], variance: float, freedom: float) -> tuple[float, float, float]:
    """Return the mean, its standard error and the degrees of freedom of that."""
    a = np.asarray(values, dtype=np.float64)
    m = len(a)
    seeds = float(a.var(ddof=1)) / m if m > 1 and np.ptp(a) > 0 else 0.0
    total = seeds + variance
    if not total > 0:
        return float(a.mean()), 0.0, np.nan
    degrees = total**2 / ((seeds**2 / (m - 1) if m > 1 else 0.0) + variance**2 / freedom)
    return float(a.mean()), float(np.sqrt(total)), degrees


def estimated(
    statistics: Sequence[Callable[[np.ndarray], float]],
    labels: Sequence[np.ndarray],
    *,
    within: tuple[float, float] = (-np.inf, np.inf),
    repeats: int = 200,
) -> tuple[float, ...]:
    """Return a statistic's mean over seeds and its interval over seeds and examples, drawn anew within each class.

    The interval lies around the statistic, with the variance over drawn examples, and isn't made of their percentiles:
    an example that is drawn twice is in both halves of a held-out statistic, which raises all of its drawn values.

    Args:
        statistics: One per seed; each takes the numbers of examples.
        labels: Of the examples, one array per seed. Where all are equal, the examples are the same for all seeds, and
            are drawn anew for all together.
        within: What the statistic can be.
        repeats: How often examples are drawn.
    """
    values = [s(np.arange(len(y))) for s, y in zip(statistics, labels, strict=True)]
    rng, same = np.random.default_rng(0), all(np.array_equal(labels[0], y) for y in labels)
    groups = [[np.flatnonzero(y == k) for k in np.unique(y)] for y in labels]
    drawn = []
    for _ in range(repeats):
        rows = [np.concatenate([rng.choice(g, len(g)) for g in of]) for of in (groups[:1] if same else groups)]
        rows = rows * len(labels) if same else rows
        drawn.append(np.mean([s(chosen) for s, chosen in zip(statistics, rows, strict=True)]))
    known = np.array(drawn)[np.isfinite(drawn)]
    variance = float(known.var(ddof=1)) if len(known) > 1 else np.nan
    return over_both(values, variance, repeats - 1, within=within)


def told_seeds(seeds: int, *, examples: bool = True) -> str:
    """Return the number of seeds in words, and what the interval is over: also examples, or these alone."""
    if seeds == 1:
        return "1 seed, interval over test images"
    return f"{seeds} seeds, interval over seeds" + (" and test images" if examples else ", these test images")


def parser(
    script: str,
    doc: str | None,
    *,
    datasets: Sequence[str] | None = tuple(DATASETS),
    seeds: int = 3,
    sizes: Iterable[str] = ("tiny", "quick", "full"),
    methods: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """Return what reads an experiment's command line.

    Args:
        script: ``__file__`` of the script; its results lie in a folder of that name.
        doc: Its docstring.
        datasets: Those it may be asked for; None if there is no choice.
        seeds: How many by default.
        sizes: Those it may be asked for.
        methods: Training methods that it may be asked for; none if there is no choice.
    """
    made = argparse.ArgumentParser(
        description=(doc or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    made.add_argument(
        *("--size",),
        choices=tuple(sizes),
        default="quick",
        help="tiny: to try; quick: minutes on 2 cores; medium: hours on 2 cores; full: a CUDA GPU",
    )
    if datasets is not None:
        made.add_argument("--datasets", nargs="+", choices=datasets, help="default: all available ones")
        made.add_argument("--stand-in", action="store_true", help="use synthetic images, to try the script")
        made.add_argument("--keep", action="store_true", help="keep stored rows of data sets and networks not measured")
    if methods:
        made.add_argument("--methods", nargs="+", choices=methods, default=list(methods), help="networks trained here")
    made.add_argument("--root", help="folder of the data sets")
    made.add_argument("--checkpoints", help="folder of the published networks' weights")
    made.add_argument("--seeds", type=whole, default=seeds, help="number of trainings of each kind")
    made.add_argument("--store", type=Path, default=Path("runs/evaluations"), help="folder of finished work")
    made.add_argument("--out", type=Path, default=RESULTS / Path(script).stem, help="folder of tables and figures")
    return made


def whole(text: str) -> int:
    """Return a whole number above 0, as the command line gives it."""
    if not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, but is {text!r}")
    return int(text)


def store_of(arguments: argparse.Namespace) -> Path:
    """Return the folder of what is done already at this size."""
    folder: Path = arguments.store / arguments.size
    return folder


def all_trainings(
    arguments: argparse.Namespace,
    *,
    default: Sequence[str] | None = None,
    sizes: Mapping[str, Mapping[str, Setup]] = SIZES,
    part: str = "",
) -> Iterator[tuple[str, Trainings]]:
    """Yield the data sets asked for, with their trainings; say which are absent.

    Args:
        arguments: Of :func:`parser`.
        default: The data sets if none is asked for; all of the size if absent.
        sizes: The setups by size and data set.
        part: Subfolder of the store, for setups that only one experiment has.
    """
    known = sizes[arguments.size]
    asked = arguments.datasets or [d for d in known if default is None or d in default]
    found = False
    for dataset in asked:
        if dataset not in known:
            sys.exit(f"error: at --size {arguments.size} there are {', '.join(known)}, but not {dataset}")
        try:
            one = Trainings(known[dataset], arguments.root, store_of(arguments) / part, made_up=arguments.stand_in)
        except acw.InputError as error:
            if arguments.datasets:
                sys.exit(f"error: {error}")
            print(f"left out: {error}", file=sys.stderr, flush=True)
            continue
        found = True
        yield dataset, one
    if not found:
        absent("none of the data sets is available: give their folder as --root, or --stand-in to try the script")


def absent(message: str) -> NoReturn:
    """Stop because data or networks aren't there, and say so: an exit code of its own tells it from a failure."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(ABSENT)


def command(script: str, arguments: argparse.Namespace) -> str:
    """Return the command line that a run had, but for its folders."""
    path = Path(script).resolve()
    parts = [f"python evaluations/{path.parent.name}/{path.name}"]
    for name, value in vars(arguments).items():
        if name in ("root", "checkpoints", "store", "audits", "out", "keep") or value is None or value is False:
            continue
        values = value if isinstance(value, (list, tuple)) else [] if value is True else [value]
        parts.append(" ".join([f"--{name.replace('_', '-')}", *(shlex.quote(str(value)) for value in values)]))
    return " ".join(parts)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how long something took."""
    began = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - began:.0f} s", flush=True)


def panels(n: int, height: float = 5.0) -> tuple[Any, list[Any]]:
    """Return a figure of so many axes, three in a row, and the axes; the height is of one, in inches."""
    columns = min(3, n)
    rows = -(-n // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(6 * columns, height * rows), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[n:]:
        ax.remove()
    return figure, list(axes.flat[:n])


def write(
    script: str, arguments: argparse.Namespace, tables: dict[str, pd.DataFrame], claims: Sequence[Claim], figure: Any
) -> None:
    """Write an experiment's tables, its claims and its figures, and print the verdicts.

    With --keep, rows of the tables that are there already stay if what they are of wasn't measured now.

    Args:
        script: ``__file__`` of the script, whose name begins the files'.
        arguments: Of its command line.
        tables: By the end of the file's name; ``""`` for the main one. Rows may have a hardware, versions and command
            of their own.
        claims: What was measured of each.
        figure: A matplotlib figure, or axes; or several by the end of the file's name; None for none.
    """
    origin = {"hardware": hardware(), "versions": versions(), "command": command(script, arguments)}
    keep = getattr(arguments, "keep", False)
    told = pd.DataFrame([claim.row() for claim in claims])
    for end, table in {**tables, "claims": told}.items():
        path = path_of(script, arguments, end)
        path.parent.mkdir(parents=True, exist_ok=True)
        own = {key: table[key].fillna(value) if key in table else value for key, value in origin.items()}
        text = table.assign(**own).to_csv(index=False, float_format="%.5g")
        if keep and path.is_file():
            stored = path.read_text(encoding="utf-8")
            text = (
                with_stored(*_with_origins(text, stored), CLAIM) if end == "claims" else with_stored(text, stored, KEYS)
            )
        path.write_text(text, encoding="utf-8")
        print(path)
    figures = figure if isinstance(figure, dict) else {} if figure is None else {"": figure}
    for end, drawn in figures.items():
        path = path_of(script, arguments, end, ".svg")
        acw.figures.save(drawn, path)
        print(path)
    if figures and "" not in figures and not keep:
        path_of(script, arguments, "", ".svg").unlink(missing_ok=True)  # of a version that drew all data sets into one
    for claim in claims:
        print(f"{claim.verdict}: {claim.claim} [{claim.data}] {claim.statistic}: {claim.shown}; {claim.n}")
    print(f"{origin['hardware']}; {origin['versions']}")


CLAIM = ["claim", "data"]
"""Columns that tell what a claim is of."""
KEYS = ["dataset", "network", "method", "kind", "part", "weights", "attack", "seed"]
"""Columns that tell what a row of a table was measured on, where it has them."""


def path_of(script: str, arguments: argparse.Namespace, end: str, suffix: str = ".csv") -> Path:
    """Return where :func:`write` puts a table or figure, by the end of its name, perhaps ``""``."""
    folder: Path = arguments.out
    return folder / f"{Path(script).stem}_{arguments.size}{'_' if end else ''}{end}{suffix}"


def others_of(earlier: pd.DataFrame, table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Return the rows of an earlier table that are of something else than those of a table, by the columns ``keys``."""
    now = set(table[list(keys)].itertuples(index=False, name=None))
    return earlier[[of not in now for of in earlier[list(keys)].itertuples(index=False, name=None)]]


def with_stored(table: str, stored: str, keys: Sequence[str]) -> str:
    """Return a table behind the rows of a stored one that are of something else, all as CSV.

    Args:
        table: What was measured now.
        stored: What was measured before.
        keys: Columns that tell what a row is of, where both tables have them.
    """
    new, old = (pd.read_csv(StringIO(text), dtype=str, keep_default_na=False) for text in (table, stored))
    keys = [key for key in keys if key in new and key in old]
    return str(pd.concat([others_of(old, new, keys), new], ignore_index=True).to_csv(index=False, na_rep=""))


def _with_origins(claims: str, stored: str) -> tuple[str, str]:
    """Return claims, where numbers are those of a stored one with its hardware, versions and command; and the stored.

    Claims are made anew of rows that were kept, too, which the command of now didn't measure.
    """
    new, old = (pd.read_csv(StringIO(text), dtype=str, keep_default_na=False) for text in (claims, stored))
    same, origin = [*CLAIM, "value", "low", "high", "n"], ["hardware", "versions", "command"]
    known = dict(zip(old[same].itertuples(index=False, name=None), old[origin].to_numpy().tolist(), strict=True))
    found = [known.get(of) for of in new[same].itertuples(index=False, name=None)]
    for row, one in enumerate(found):
        if one is not None:
            new.loc[row, origin] = one
    return new.to_csv(index=False), stored


def write_beside(rows: Sequence[Mapping[str, Any]], about: Mapping[str, str], path: Path, keys: Sequence[str]) -> None:
    """Write rows to a table, in the place of those of the same name there; others stay, with the command they had.

    Args:
        rows: What was measured now.
        about: Columns that all of them have: hardware, versions, command.
        path: Of the table.
        keys: Columns that name a row.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = pd.DataFrame(rows).assign(**about).to_csv(index=False)
    stored = path.read_text(encoding="utf-8") if path.is_file() else None
    path.write_text(text if stored is None else with_stored(text, stored, keys), encoding="utf-8")


def parser_of_networks(
    doc: str | None, script: str, examples: int, networks: Sequence[str] = tuple(NETWORKS)
) -> argparse.ArgumentParser:
    """Return the command line of a script whose table :func:`write_networks` writes.

    Args:
        doc: The script's docstring, of which the first line is shown.
        script: ``__file__`` of the script, whose name the folder of its table has.
        examples: How many test images, if the command line doesn't say.
        networks: Which networks, likewise.
    """
    made = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0])
    made.add_argument("--root", help="folder of the data sets")
    made.add_argument("--checkpoints", help="folder of the published networks' weights")
    made.add_argument("--examples", type=whole, default=examples, help="test images of each network")
    made.add_argument(
        "--networks", nargs="+", metavar="NAME", default=list(networks), help="published ones, also of nets.json there"
    )
    made.add_argument("--out", type=Path, default=RESULTS / Path(script).stem, help="folder of the table")
    return made


def write_networks(
    script: str, arguments: Any, keys: Sequence[str], measure: Callable[..., Iterable[dict[str, Any]]]
) -> None:
    """Measure the networks asked for, one after another, print the rows and write them into the script's table.

    Args:
        script: ``__file__`` of the script, whose name the table has.
        arguments: Of its command line.
        keys: Columns that name a row.
        measure: Yields the rows of a network, given its name, classifier, test images and threat model.
    """
    rows: list[dict[str, Any]] = []
    asked = (arguments.checkpoints, arguments.root, arguments.examples, arguments.networks)
    for network in at_hand(*asked):
        for row in measure(*network):
            rows.append(row)
            print(row, flush=True)
            about = {"hardware": hardware(), "versions": versions(), "command": command(script, arguments)}
            write_beside(rows, about, arguments.out / f"{Path(script).stem}.csv", keys)
    if not rows:
        sys.exit(ABSENT)


def dataset_of(data: str) -> str:
    """Return the name of the data set that a claim is about, by its ``data``; empty if it names none."""
    found = re.match(rf"({'|'.join(sorted(DATASETS, key=len, reverse=True))})(?![a-z0-9])", data)
    return found[1] if found else ""
