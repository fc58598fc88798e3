"""Certificates as they are shown: for a terminal, and beside the models of an audit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from art_classwise._core.console import UNLIMITED, console
from art_classwise._core.words import more
from art_classwise.audit.result import AuditResult
from art_classwise.certification.result import Certificate, CertifiedResult
from art_classwise.errors import InputError
from art_classwise.report.data import Estimate
from art_classwise.report.tables import WIDTH, Grid, Marked, interval, percent, printable, shorten

__all__ = [
    "Beside",
    "CertifiedModel",
    "by_class_grid",
    "by_radius_grid",
    "print_certified",
    "shown_certificate",
]

_NAME, _MOST_CLASSES = 16, 20


@dataclass(frozen=True)
class Beside:
    """Certified and robust accuracy of a class at the audit's radius; what isn't known of smoothing is None."""

    name: str
    n: int
    certified: Estimate
    robust: Estimate
    undecided: float | None
    contradictions: int | None


@dataclass(frozen=True, eq=False)
class CertifiedModel:
    """A model's certificate as a page shows it.

    Attributes:
        model: Its name.
        certified: The certificate.
        says: What was certified, in sentences.
        radii: As they are written.
        classes: Of each class its name, how many examples it has, and its accuracy at each radius, the weakest first.
        mean: Over classes, at each radius.
        worst: The worst class of each radius, and its accuracy on examples that didn't choose it.
        beside: What an audit found beside it; empty where they can't be compared.
        why_not: Why they can't be; empty where they can.
    """

    model: str
    certified: CertifiedResult
    says: str
    radii: tuple[str, ...]
    classes: tuple[tuple[str, int, tuple[Estimate, ...]], ...]
    mean: tuple[Estimate, ...]
    worst: tuple[tuple[str, Estimate], ...]
    beside: tuple[Beside, ...]
    why_not: str

    @property
    def is_of_network(self) -> bool:
        """Whether it is of the network itself, which the audit attacked, and not of the smoothed one."""
        return self.certified.certificate.noise is None


def shown_certificate(certified: CertifiedResult, result: AuditResult, model: str) -> CertifiedModel:
    """Return a certificate beside an audit of the same model on the same examples."""
    summary = certified.summary()
    try:
        beside, why_not = _beside(certified, result, model), ""
    except InputError as error:
        beside, why_not = (), str(error)
    return CertifiedModel(
        model,
        certified,
        told(certified.certificate),
        tuple(f"{radius:.3g}" for radius in certified.radii),
        tuple(_classes(certified, certified.radii)),
        tuple(Estimate.of(row, "mean", "mean_low", "mean_high") for _, row in summary.iterrows()),
        tuple(
            (str(row["worst_class"]), Estimate.of(row, "held_out", "worst_low", "worst_high"))
            for _, row in summary.iterrows()
        ),
        beside,
        why_not,
    )


def told(of: Certificate) -> str:
    """Say, in sentences, what is certified and how."""
    within = f"Within its certified radius ({of.norm}) no perturbation, whatever made it, changes an example's class"
    if of.noise is None:
        how = "intervals" if of.method == "interval" else "zonotopes"
        return f"{within}: a lower bound of robust accuracy, by {how} that bound the network's logits."
    return (
        f"{within}. It holds for the network smoothed by Gaussian noise {of.noise:g}, which predicts what the network "
        f"returns most often under that noise, by {of.n:,} samples of each example; a certificate is wrong with a "
        f"probability of {of.alpha:g} at most, which the low ends allow for."
    )


def _classes(certified: CertifiedResult, radii: Sequence[float]) -> list[tuple[str, int, tuple[Estimate, ...]]]:
    """Return classes with their accuracy at radii: those with the lowest sum first, without examples last."""
    table = certified.certified_at(radii)
    rows = []
    for name in certified.classes:
        of = table.xs(name, level="class")
        estimates = tuple(Estimate.of(row, "certified", "low", "high") for _, row in of.iterrows())
        known = [one.value for one in estimates if one.value == one.value]
        rows.append((sum(known) if known else float("inf"), name, int(of["n"].iloc[0]), estimates))
    return [(name, n, estimates) for _, name, n, estimates in sorted(rows, key=lambda row: row[0])]


def _beside(certified: CertifiedResult, result: AuditResult, model: str) -> tuple[Beside, ...]:
    table = certified.beside(result, model).sort_values("certified", kind="stable", na_position="last")
    return tuple(
        Beside(
            str(name),
            int(row["n"]),
            Estimate.of(row, "certified", "certified_low", "certified_high"),
            Estimate.of(row, "robust", "robust_low", "robust_high"),
            None if row["undecided"] != row["undecided"] else float(row["undecided"]),
            None if row["contradictions"] != row["contradictions"] else int(row["contradictions"]),
        )
        for name, row in table.iterrows()
    )


def print_certified(certified: CertifiedResult, model: str, radii: Sequence[float] | None = None) -> None:
    """Print certified accuracy by class over radii, then the mean and the worst class of each; within 80 columns.

    Args:
        certified: The certificate.
        model: Name of the model.
        radii: Which radii; those of the certificate, if absent.
    """
    out, asked = console(), certified.radii if radii is None else radii
    out.print(by_class_grid(certified, model, asked, out.width).rich())
    out.print(by_radius_grid(certified, asked, out.width).rich())


def by_class_grid(certified: CertifiedResult, model: str, radii: Sequence[float], width: int = WIDTH) -> Grid:
    """Return a row per class, the weakest first, with as many radii as there is room for.

    Args:
        certified: The certificate.
        model: Name of the model.
        radii: Which radii.
        width: Columns of the terminal.
    """
    unlimited, of = width >= UNLIMITED, certified.certificate
    rows = _classes(certified, radii)
    most = len(rows) if unlimited else _MOST_CLASSES
    names = [shorten(printable(name), sys.maxsize if unlimited else _NAME) for name, *_ in rows[:most]]
    cells = [[str(one) for one in estimates] for _, _, estimates in rows[:most]]
    free = width - max(map(len, [*names, "class"])) - 3 - max(len(f"{n:,}") for _, n, _ in rows) - 2
    columns = max(1, sum(1 for _ in _fitting(cells, free)))
    shown = len(radii) if unlimited else min(len(radii), columns)
    lowest = [
        min((estimates[i].value for _, _, estimates in rows if estimates[i].value == estimates[i].value), default=None)
        for i in range(shown)
    ]
    lines = [
        [
            name,
            f"{n:,}",
            *((Marked if estimates[i].value == lowest[i] else str)(text) for i, text in enumerate(line[:shown])),
        ]
        for name, (_, n, estimates), line in zip(names, rows, cells, strict=False)
    ]
    notes = [f"at {of.norm} radii", "brackets: exact 95 % intervals", "marked: the worst class"]
    if shown < len(radii):
        notes.append(f"{more(len(radii) - shown, 'radius', 'radii')} in certified.csv")
    if most < len(rows):
        notes.append(f"{more(len(rows) - most, 'class')} in certified.csv")
    if any(radius > of.reach for radius in radii[:shown]):
        notes.append(f"–: beyond {of.reach:.3g}, the largest radius that could be certified")
    heads = ("class", "n", *(f"{radius:.3g}" for radius in radii[:shown]))
    return Grid(f"{model}: certified accuracy in %, worst class first", heads, lines, notes)


def _fitting(cells: Sequence[Sequence[str]], free: int) -> Sequence[int]:
    """Return how wide the columns are that fit, one for each."""
    widths = []
    for column in zip(*cells, strict=True):
        free -= 3 + max(5, *map(len, column))
        if free < 0:
            break
        widths.append(max(map(len, column)))
    return widths


def by_radius_grid(certified: CertifiedResult, radii: Sequence[float], width: int = WIDTH) -> Grid:
    """Return a row per radius: the mean over classes and the worst class.

    Args:
        certified: The certificate.
        radii: Which radii.
        width: Columns of the terminal.
    """
    of = certified.certificate
    lines = []
    for radius, row in certified.summary(radii).iterrows():
        known = row["mean"] == row["mean"]
        name = printable(str(row["worst_class"])) if known else "–"
        lines.append(
            [
                f"{radius:.3g}",
                interval(row["mean"], row["mean_low"], row["mean_high"]),
                shorten(name, sys.maxsize if width >= UNLIMITED else _NAME),
                Marked(percent(row["worst"])) if known else "–",
                interval(row["held_out"], row["worst_low"], row["worst_high"]),
            ]
        )
    by = f"smoothing, noise {of.noise:g}, n {of.n:,}, alpha {of.alpha:g}" if of.noise is not None else of.method
    notes = [
        "mean over classes",
        "held out: the worst class on examples it wasn't chosen on",
        f"{percent((certified.examples['prediction'] < 0).mean())} % abstained",
    ]
    heads = ("radius", "mean", "worst class", "worst", "held out")
    return Grid(f"Certified accuracy in % by radius ({of.norm}; {by})", heads, lines, notes, frozenset([2]))
