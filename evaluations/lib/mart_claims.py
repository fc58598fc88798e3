"""The claims of MART's paper on CIFAR-10, each as a sum of accuracies, with published numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import art_classwise as acw
from lib.experiment import Claim, estimated, told_seeds
from lib.mart import ABLATIONS, MAXIMISATION, MINIMISATION, NOISES, SURROGATES, noise_kind

# ResNet-18, accuracies in %. Of the re-runs only what was measured under the same attack, but for CW's steps.
PUBLISHED = {
    "paper, best for each attack": {"clean": 83.07, "fgsm": 65.65, "pgd-20": 55.57, "cw-30": 54.87},
    "others' runs": {"clean": 80.70, "fgsm": 58.91, "pgd-20": 54.02, "cw-30": 49.35, "autoattack": 47.49},
    "Adversarial_Training_Pytorch, best (CW-100)": {"clean": 78.59, "fgsm": 58.54, "pgd-20": 54.87, "cw-30": 49.14},
    "MAIR": {"autoattack": 47.51},
}
AIMS = {"pgd-20": 55.57, "autoattack": 47.5}
NAMES = {"standard": "AT", "trades": "TRADES", "mart": "MART"}
TOGETHER = "both"
"""The name, in tables, of PGD-20 and CW-30 together: right is what withstands each of them."""


class Asked(NamedTuple):
    """A claim to be measured: a sum of accuracies, in points, of which at least one is claimed.

    Attributes:
        claim: In a sentence.
        statistic: In words.
        terms: Factor, kind of network and attack of each accuracy.
        published: The number for the paper's network, if there is one.
    """

    claim: str
    statistic: str
    terms: list[tuple[float, str, str]]
    published: str = ""


def white() -> Iterator[Asked]:
    """Yield what is claimed of attacks on the networks themselves."""
    published = {
        ("trades", "pgd-20"): "5.3",
        ("standard", "autoattack"): "-1.2 (re-runs by MAIR)",
        ("trades", "autoattack"): "-1.9 (re-runs by MAIR)",
    }
    for attack, name in (("pgd-20", "PGD-20"), ("autoattack", "AutoAttack")):
        for other in ("standard", "trades"):
            yield Asked(
                f"MART withstands {name} more than {NAMES[other]}",
                f"{name}: MART minus {NAMES[other]}",
                [(1, "mart", attack), (-1, other, attack)],
                published.get((other, attack), ""),
            )
    yield Asked(
        "PGD-20 overstates MART's robustness more than AT's",
        "PGD-20 minus AutoAttack: MART minus AT",
        [(1, "mart", "pgd-20"), (-1, "mart", "autoattack"), (-1, "standard", "pgd-20"), (1, "standard", "autoattack")],
        "3.2 (re-runs by MAIR, PGD-10)",
    )


def black() -> Iterator[Asked]:
    """Yield what is claimed of attacks made on a surrogate."""
    for surrogate, how in zip(SURROGATES, ("a naturally", "an adversarially"), strict=True):
        yield Asked(
            f"PGD-20 on {how} trained surrogate breaks MART less than PGD-20 on itself",
            f"PGD-20: from {surrogate} minus white box",
            [(1, "mart", f"pgd-20 from {surrogate}"), (-1, "mart", "pgd-20")],
            "27.1 (black box of the paper)" if surrogate == "natural" else "",
        )
    yield Asked(
        "PGD-20 on an adversarially trained surrogate breaks MART more than on a naturally trained one",
        "PGD-20: from natural minus from standard",
        [(1, "mart", "pgd-20 from natural"), (-1, "mart", "pgd-20 from standard")],
    )


def ablations() -> Iterator[Asked]:
    """Yield that each part of MART adds to it, and the two questions that its paper begins with."""
    for kind in ABLATIONS:
        for attack, name in (("pgd-20", "PGD-20"), (TOGETHER, "PGD-20 and CW-30")):
            yield Asked(
                f"MART withstands {name} more than its variant {kind!r}",
                f"{name}: MART minus {kind}",
                [(1, "mart", attack), (-1, kind, attack)],
            )
    for attack, name in (("pgd-20", "PGD-20"), (TOGETHER, "PGD-20 and CW-30")):
        yield Asked(
            "How misclassified examples are regularised matters more than how they are attacked",
            f"{name}: mean of {', '.join(MAXIMISATION)} minus mean of {', '.join(MINIMISATION)}",
            [
                *((1 / len(MAXIMISATION), kind, attack) for kind in MAXIMISATION),
                *((-1 / len(MINIMISATION), kind, attack) for kind in MINIMISATION),
            ],
        )
        yield Asked(
            "The regulariser helps more on misclassified examples than on correct ones",
            f"{name}: KL on misclassified only minus KL on correct only",
            [(1, "KL on misclassified only", attack), (-1, "KL on correct only", attack)],
        )


def noise() -> Iterator[Asked]:
    """Yield that wrong labels cost MART less."""
    for share, lost in zip(NOISES, ("0.8", "1.9"), strict=True):
        terms = [(1, "standard"), (-1, noise_kind("standard", share)), (-1, "mart"), (1, noise_kind("mart", share))]
        yield Asked(
            f"{100 * share:.0f} % wrong labels cost MART less than AT",
            "loss of PGD-20 accuracy: AT's minus MART's",
            [(factor, kind, "pgd-20") for factor, kind in terms],
            f"MART's loss {lost}",
        )


CLAIMS = {"white": white, "black": black, "ablations": ablations, "noise": noise}
"""By part of the experiment."""


class Verdicts:
    """Which images each network got right under each attack, side by side, seed by seed.

    Args:
        outcomes: As :meth:`lib.mart.Networks.outcomes` returns them, of one kind of weights.
    """

    def __init__(self, outcomes: pd.DataFrame) -> None:
        self._tables, self._labels = [], []
        for _, found in outcomes.groupby("seed"):
            rows = found.drop_duplicates(["kind", "attack", "example"])
            table = rows.pivot(index="example", columns=["kind", "attack"], values="right")
            self._tables.append(table)
            self._labels.append(rows.drop_duplicates("example").set_index("example")["label"].loc[table.index])

    def total(self, terms: Sequence[tuple[float, str, str]]) -> tuple[list[Any], list[np.ndarray]] | None:
        """Return a sum of accuracies in points, by seed a function of the numbers of images; and the images' labels.

        Args:
            terms: Factor, kind and attack of each. Only images that all of them were tried on count.

        Returns:
            As :func:`lib.experiment.estimated` takes them; None if one of the terms wasn't measured.
        """
        wanted = [(kind, attack) for _, kind, attack in terms]
        factors = np.array([factor for factor, *_ in terms])
        statistics, labels = [], []
        for table, y in zip(self._tables, self._labels, strict=True):
            if any(column not in table for column in wanted):
                continue
            found = table[wanted].dropna()
            values = 100 * found.to_numpy(dtype=float) @ factors
            statistics.append(lambda rows, values=values: float(values[rows].mean()))
            labels.append(y.loc[found.index].to_numpy())
        return (statistics, labels) if statistics else None

    def at_chance(self, kinds: Iterable[str]) -> list[str]:
        """Return which of these networks are no better than chance without attack, from any seed: they didn't learn.

        The lower end of the 95 % Wilson interval isn't above one in as many classes as there are.
        """
        failed = []
        for kind in dict.fromkeys(kinds):
            for table, y in zip(self._tables, self._labels, strict=True):
                if (kind, "clean") in table:
                    right = table[kind, "clean"].dropna()
                    low, _ = acw.metrics.wilson(right.sum(), len(right))
                    failed += [kind] if low <= 1 / y.nunique() and kind not in failed else []
        return failed


def with_together(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Return outcomes with :data:`TOGETHER` among the attacks."""
    keys = ["kind", "weights", "seed", "example", "label"]
    rows = outcomes[outcomes["attack"].isin(["pgd-20", "cw-30"])].drop_duplicates([*keys, "attack"])
    together = rows.groupby(keys, sort=False, as_index=False)["right"].all().assign(attack=TOGETHER)
    return pd.concat([outcomes, together], ignore_index=True)


def judged(outcomes: Mapping[str, pd.DataFrame], data: str, *, published: bool) -> list[Claim]:
    """Return what was seen of each claim that was measured; "unclear" is what rests on a training that failed.

    Args:
        outcomes: By part, with :data:`TOGETHER`, of one kind of weights.
        data: Data set and network.
        published: Whether it is the paper's network and recipe, so that its numbers belong beside ours.
    """
    made = []
    for part, rows in outcomes.items():
        verdicts = Verdicts(rows)
        for asked in CLAIMS[part]():
            found = verdicts.total(asked.terms)
            if found is None:
                continue
            value, *interval = estimated(*found, within=(-200, 200))
            n = f"n = {len(found[1][0]):,} test images, {told_seeds(len(found[0]))}"
            if failed := verdicts.at_chance(kind for _, kind, _ in asked.terms):
                interval, n = [np.nan, np.nan], f"{n}; no verdict, since at chance without attack: {', '.join(failed)}"
            made.append(
                Claim(
                    asked.claim,
                    data,
                    asked.statistic,
                    value,
                    *interval,
                    n=n,
                    least=1,
                    published=asked.published if published else "",
                )
            )
    return made


def report(overall: pd.DataFrame, *, published: bool) -> str:
    """Return what to print: accuracies part by part.

    Args:
        overall: A row per ``part``, ``kind``, ``weights`` and ``attack``, with ``n`` and ``accuracy``.
        published: Whether it is the paper's network and recipe, so that its numbers belong beside ours.
    """
    lines = []
    for part, rows in overall.groupby("part", sort=False):
        sizes = rows.drop_duplicates("attack")[["attack", "n"]].itertuples(index=False)
        lines += ["", f"{part}, accuracy in % ({', '.join(f'{attack} of {n:,}' for attack, n in sizes)} images)"]
        percent = rows.assign(accuracy=100 * rows["accuracy"])
        table = percent.pivot_table(index=["kind", "weights"], columns="attack", values="accuracy", sort=False)
        table.index = pd.Index([f"{kind}, {weights}" for kind, weights in table.index])
        if part == "white" and published:
            lines.append(_text(pd.concat([table, pd.DataFrame.from_dict(PUBLISHED, orient="index")])))
            for model in table.index[table.index.str.startswith("mart")]:
                away = [f"{a} {table.loc[model, a] - aim:+.2f} (aim {aim:g})" for a, aim in AIMS.items()]
                lines.append(f"{model}, points from what was aimed at: {', '.join(away)}")
        else:
            lines.append(_text(table))
    if not published:
        lines += ["", "This isn't the paper's network and training: its numbers don't compare."]
    return "\n".join(lines[1:])


def _text(frame: pd.DataFrame) -> str:
    return frame.rename_axis(index=None, columns=None).to_string(float_format=lambda v: f"{v:.2f}", na_rep="-")
