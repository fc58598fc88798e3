"""Curves and points: accuracy by radius, by epoch, and against other measures of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from art_classwise._core.labels import class_names
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.errors import InputError, unknown
from art_classwise.metrics.correlation import correlations
from art_classwise.report.figures.fonts import in_any_script
from art_classwise.report.figures.layout import (
    BEST,
    MEAN,
    OTHER,
    ROBUST,
    WORST,
    accuracy_of,
    canvas,
    caption,
    check_class_table,
    check_table,
    draw_mean,
    fit_all,
    label,
    name_room,
    percent_axis,
    points,
    side_labels,
    slot,
    some,
    text_width,
    widest,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from art_classwise.audit.result import AuditResult

__all__ = [
    "accuracy_by_radius",
    "attack_strength",
    "check_radii",
    "draw_curves",
    "name_radii",
    "spread",
    "training_curves",
    "weight_norms",
]

_MOST, _SPREAD = 20, 12
_ALL_NAMED, _APART = 10, 7.0  # of more curves those are named that end so many points from each other


def spread(ranking: pd.Index) -> pd.Index:
    """Return which classes to draw: all up to 20, else 12 from the worst to the best, evenly spread."""
    if len(ranking) <= _MOST:
        return ranking
    return ranking[np.linspace(0, len(ranking) - 1, _SPREAD).round().astype(np.int64)]


def _labelled(first: Sequence[Any], ends: pd.Series[float]) -> list[Any]:
    """Return which curves to name: all of few; else the first two, and those that end where there is room for a name.

    Args:
        first: The classes drawn, the worst and the best first.
        ends: Where the curves end, in percent.
    """
    if len(first) <= _ALL_NAMED:
        return list(first)
    named = list(first[:2])
    for name in first[2:]:
        if all(abs(ends[name] - ends[one]) >= _APART for one in named):
            named.append(name)
    return named


def draw_curves(
    ax: Axes | None,
    curves: pd.DataFrame,
    ranking: pd.Index,
    *,
    title: str,
    findings: Sequence[str],
    xlabel: str,
    ylabel: str = "robust accuracy (%)",
) -> Axes:
    """Draw a curve per class in percent, the worst and the best in colour, their mean, and the gap of all as a band.

    Of more than ten curves, the worst and the best are named, and others that end where there is room for a name.

    Args:
        ax: Where to draw; a new figure if absent.
        curves: A row per x, a column per class.
        ranking: The classes, the worst first.
        title: Above the axes.
        findings: Under the title.
        xlabel: Of the x axis.
        ylabel: Of the y axis.

    Returns:
        The axes.
    """
    x = curves.index.to_numpy(dtype=np.float64)
    shown = spread(ranking)
    ends = curves[shown].ffill().iloc[-1]
    first = _labelled([*dict.fromkeys([ranking[0], ranking[-1], *shown])], ends)
    names = fit_all(first, name_room(ax))
    right = widest(names) + points(3)
    ax = canvas(ax, 5.6, 4.4, right)
    band = ax.fill_between(x, curves.min(axis=1), curves.max(axis=1), color="0.91", lw=0, zorder=0)
    marker = "o" if len(x) <= 10 else ""
    colours = dict.fromkeys(shown, OTHER) | {ranking[-1]: BEST, ranking[0]: WORST}
    for name in shown:
        curve, special = curves[name].dropna(), colours[name] != OTHER
        style: dict[str, Any] = {
            "lw": 2.2 if special else 0.9,
            "zorder": 3 if special else 2,
            "marker": marker,
            "ms": 4,
            "clip_on": False,
        }
        # In grey the two are told apart by the dashes, and by the label at the end.
        ax.plot(curve.index, curve, color=colours[name], ls="--" if name == ranking[-1] else "-", **style)
    (mean,) = ax.plot(x, curves.mean(axis=1), color=MEAN, lw=1.4, ls=":", zorder=2.5)
    percent_axis(ax, "y", ylabel)
    if len(x) > 1:
        ax.set_xlim(x[0], x[-1])
    side_labels(
        ax,
        np.full(len(first), x[-1]),
        ends[first].to_numpy(dtype=np.float64),
        names,
        [colours[name] for name in first],
    )
    entries: dict[str, Artist] = {"mean over classes": mean}
    if len(first) < len(ranking):
        drawn = f"{len(shown)} of {len(ranking):,}" if len(shown) < len(ranking) else f"{len(ranking)}"
        entries[f"{drawn} classes"] = Line2D([], [], color=OTHER, lw=0.9)
    entries["from the worst to the best"] = band
    ax.set_xlabel(xlabel)
    caption(ax, title, *findings, legend=entries, right=right)
    return ax


@in_any_script
def accuracy_by_radius(
    results: AuditResult | Sequence[AuditResult],
    model: str | None = None,
    ax: Axes | None = None,
    *,
    attack: str = WORST_CASE,
    title: str = "",
) -> Axes:
    """Draw the robust accuracy of each class against the radius.

    From audits of one model at several radii; or from one audit whose attacks look for the smallest perturbations, such
    as ``"fmn"``: then up to twice its radius, or to where most examples are broken, and a thin line marks its radius.

    At radius 0 stands the accuracy without attack. Bands around the classes that are worst and best, over all radii
    taken together, are their 95 % intervals. Of more than 20 classes, 12 are drawn, spread over the ranking, and the
    gap and mean of all.

    Args:
        results: Audits on the same examples, by rising radius; or one audit.
        model: Name of the model; absent where each audit has but one.
        ax: Where to draw; a new figure if absent.
        attack: An attack that all audits have, or ``"all attacks"``.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: There are fewer than two audits, their radii don't rise, or they are of different models, norms or
            examples; or one audit, none of whose attacks looks for the smallest perturbations.
    """
    if isinstance(results, Sequence) or not hasattr(results, "robust_at"):
        curves, low, high, names = _at_each_audit(results, check_radii(results, model), attack)  # type: ignore[arg-type]
        norm, marked, audits = results[0].threat.norm, None, list(results)  # type: ignore[index, arg-type]
        eps = list(curves.index)
        ranking = curves.iloc[1:].mean().sort_values(kind="stable").index
        gap = curves[ranking[-1]] - curves[ranking[0]]
        at = gap.iloc[1:].idxmax()
        radius = f"{norm}:{names[eps.index(at)]}"
    else:
        curves, low, high, names = _at_every_radius(results, model, attack)
        norm, marked, audits = results.threat.norm, results.threat.eps, [results]
        eps = list(curves.index)
        # Where only some classes are known, no mean would be of the same radii. All are at the audit's own.
        known = curves.iloc[1:].dropna()
        ranking = known.mean().sort_values(kind="stable").index
        gap = known[ranking[-1]] - known[ranking[0]]
        at = marked if gap[marked] > 0 else gap.idxmax()
        radius = str(results.threat) if at == marked else f"{norm}:{at:.3g}"
    estimates = attack == WORST_CASE and all(result.is_quick_estimate for result in audits)
    findings = [
        f"worst: {label(ranking[0])}, {curves.loc[at, ranking[0]]:.1f} % at {radius}",
        f"{gap[at]:.1f} points below the best, {label(ranking[-1])}" if len(ranking) > 1 else "",
    ]
    ylabel = accuracy_of(audits[0] if estimates else None)
    ax = draw_curves(ax, curves, ranking, title=title, findings=findings, xlabel=f"radius ({norm})", ylabel=ylabel)
    for c, colour in {ranking[-1]: BEST, ranking[0]: WORST}.items():
        ax.fill_between(eps, low[c], high[c], color=colour, alpha=0.22, lw=0, zorder=1.5)
    if marked is not None:
        ax.axvline(marked, color=OTHER, lw=0.8, zorder=0.5)
    shown = [(radius, name) for radius, name in zip(eps, names, strict=True) if name]
    name_radii(ax, [radius for radius, _ in shown], [name for _, name in shown])
    return ax


_Curves = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[str]]
"""Robust accuracy in percent, a row per radius, a column per class, its interval, and names of the radii."""


def _at_each_audit(results: Sequence[AuditResult], name: str, attack: str) -> _Curves:
    tables = [result.class_table(name, attack) for result in results]
    tables = [t[t["n"] > 0] for t in tables]
    without = tables[0][["clean", "clean_low", "clean_high"]].set_axis(["robust", "robust_low", "robust_high"], axis=1)
    eps = [0.0, *(result.threat.eps for result in results)]
    curves, low, high = (
        pd.DataFrame([100 * t[column] for t in (without, *tables)], index=pd.Index(eps))
        for column in ("robust", "robust_low", "robust_high")
    )
    return curves, low, high, ["0", *(str(result.threat).partition(":")[2] for result in results)]


_RADII, _FALLEN = 60, 0.8


def _at_every_radius(result: AuditResult, model: str | None, attack: str) -> _Curves:
    """Take radii up to where four fifths of the examples that can be broken are, the audit's own among them."""
    from art_classwise.audit.distances import distances_of

    of, own = distances_of(result, model, attack), result.threat.eps
    broken = of.distance[np.isfinite(of.distance)]
    far = min(max(2 * own, float(np.quantile(broken, _FALLEN)) if len(broken) else 0.0), of.searched)
    eps = sorted({*np.linspace(0, far, _RADII).tolist(), own})
    table = result.robust_at(eps, model, attack)
    table = table[(table["n"] > 0) & (table["unknown"] == "")]
    curves, low, high = (100 * table[column].unstack("class")[:] for column in ("robust", "low", "high"))
    classes = [name for name in result.classes if name in curves]
    marks = {0.0: "0", own: str(result.threat).partition(":")[2], eps[-1]: f"{eps[-1]:.3g}"}
    names = [marks.get(radius, "") for radius in curves.index]
    return curves[classes], low[classes], high[classes], names


def check_radii(results: Sequence[AuditResult], model: str | None) -> str:
    """Check that the audits differ in their radius only, and return the model's name."""
    from art_classwise.audit.comparison import check_audit

    if not isinstance(results, Sequence) or len(results) < 2:
        raise InputError("`results` must be two audits or more, at different radii: [audit_at_2, audit_at_4, ...].")
    for i, result in enumerate(results):
        check_audit(f"Number {i + 1} of `results`", result)
    first = results[0]
    several = next((r for r in results if len(r.models) > 1), None)
    if model is None and several is not None:
        raise InputError(f"An audit has {len(several.models)} models: choose one, e.g. `model={several.models[0]!r}`.")
    name = first.models[0] if model is None else model
    rows = first.rows(name, WORST_CASE)
    for before, result in pairwise(results):
        if result.threat.norm != first.threat.norm:
            raise InputError(f"The audits have different norms: {first.threat} and {result.threat}.")
        if result.threat.eps <= before.threat.eps:
            raise InputError(
                f"The radii must rise from audit to audit, but {result.threat} follows {before.threat}: sort them, "
                "sorted(results, key=lambda result: result.threat.eps)."
            )
        if result.classes != first.classes:
            raise InputError("The audits have different classes.")
        other = result.rows(name, WORST_CASE)
        if not np.array_equal(other[["example", "label"]], rows[["example", "label"]]):
            raise InputError(f"The audits at {first.threat} and at {result.threat} have different examples.")
        if not np.array_equal(other["clean_prediction"], rows["clean_prediction"]):
            raise InputError(
                f"{name!r} isn't the same model at {first.threat} and at {result.threat}: without attack, its "
                "predictions differ."
            )
    return name


def name_radii(ax: Axes, eps: Sequence[float], names: Sequence[str]) -> None:
    """Name the radii on the x axis, from the largest on: those between which there is room."""
    per_point = eps[-1] / slot(ax, name_room(None))[0]
    free, texts = np.inf, [""] * len(eps)
    for i in reversed(range(len(eps))):
        half = per_point * text_width(names[i], 1) / 2
        if eps[i] + half < free:
            texts[i], free = names[i], eps[i] - half - points(0.5) * per_point
    ax.set_xticks(eps, texts)


_PREFIX = {"validation": "val_robust_", "training": "robust_"}


@in_any_script
def training_curves(
    history: pd.DataFrame,
    ax: Axes | None = None,
    *,
    title: str = "",
    classes: Sequence[str] | None = None,
    data: Literal["validation", "training"] | None = None,
) -> Axes:
    """Draw the robust accuracy of each class over the epochs, the gap between best and worst shaded.

    After Figure 1 of Tian et al. 2021 (arXiv 2105.14240). Of more than 20 classes, 12 are drawn, spread over the
    ranking, and the gap and mean of all. Classes are ranked at the epoch that was kept, which a thin line marks.

    Args:
        history: What ``trainer.fit`` returns, or :func:`art_classwise.trainers.training_history`.
        ax: Where to draw; a new figure if absent.
        title: Above the axes.
        classes: Names of the classes; their numbers if absent.
        data: On which examples: ``"validation"`` ones, or those of the ``"training"``, in train mode before each step.
            Validation if absent, where the history has it.

    Returns:
        The axes.

    Raises:
        InputError: It is no history, it has no such accuracies, or the names are not as many as its classes.
    """
    if not isinstance(history, pd.DataFrame) or "epoch" not in history:
        raise InputError(f"The history must be a DataFrame, as trainer.fit(...) returns it, but got {history!r:.60}.")
    if data is not None and data not in _PREFIX:
        raise unknown("kind of data", data, _PREFIX)
    tables = {kind: _curves(history, prefix) for kind, prefix in _PREFIX.items()}
    source: str = data or next((kind for kind, table in tables.items() if table.notna().any(axis=None)), "training")
    curves = tables[source]
    if not curves.notna().any(axis=None):
        raise InputError(
            f"The history has no robust accuracy of classes in {source}: train with an attack, or give "
            "trainer.fit(...) `validation_data`."
        )
    curves.columns = pd.Index(class_names(classes, len(curves.columns)))
    curves = curves.dropna(how="all").dropna(how="all", axis=1)
    kept: int | None = history.attrs.get("kept_epoch")
    at = kept if kept is not None and kept in curves.index else int(curves.index[-1])
    ranking = pd.Series(curves.loc[at]).sort_values(kind="stable").dropna()
    curves = curves[ranking.index]
    low, high = ranking.iloc[0], ranking.iloc[-1]
    findings = [
        f"epoch {at}{', which was kept' if kept == at else ''}: worst {label(ranking.index[0])}, {low:.1f} %",
        f"{high - low:.1f} points below the best, {label(ranking.index[-1])}" if len(ranking) > 1 else "",
    ]
    ax = draw_curves(ax, curves, ranking.index, title=title, findings=findings, xlabel="epoch")
    ax.set_ylabel(f"robust accuracy in {source} (%)")  # on one line, though it is longer than low axes
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    if kept is not None and len(curves) > 1:
        ax.axvline(at, color=MEAN, lw=0.8, zorder=1, ymax=0.97)
    return ax


def _curves(history: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """Return percent by epoch, a column per class in their order."""
    named = {int(str(c).removeprefix(prefix)): c for c in history if str(c).startswith(prefix)}
    values = history[[named[k] for k in sorted(named)]].to_numpy(dtype=np.float64)
    return pd.DataFrame(100 * values, index=pd.Index(history["epoch"]), columns=sorted(named))


_MOST_LABELS = 12
_ENDS = 3


@in_any_script
def attack_strength(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw what each class loses from a weak attack to a strong one against its accuracy under the weak one.

    If the stronger attack hit all classes alike, they would lie on the level of the mean. A class can't lose more than
    it has: none lies above the thin line. Of more than 12 classes, the three weakest and the three that lose most have
    their names.

    Args:
        table: ``result.attack_strength(model, weak, strong)``. With its ``split_seed``, what says how weak a class is
            and what says how much it loses are of different examples: else their noise correlates them.
        ax: Where to draw; a new figure if absent.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: It is another table, or no class has an example.
    """
    columns = ["n", "baseline", "weak", "strong", "drop", "low", "high", "cumulated"]
    rows = check_table(table, columns, "result.attack_strength(model, weak, strong)")
    measured = some(rows[(rows["n"] > 0) & rows["baseline"].notna()]).sort_values("baseline", kind="stable")
    x, y = 100 * measured["baseline"], 100 * measured["drop"]
    largest = y.sort_values(ascending=False, kind="stable").index
    named = _named(measured.index, largest[:_ENDS])
    names = fit_all(named, name_room(ax))
    right = widest(names) + points(3)
    ax = canvas(ax, 5.4, 4.4, right)
    low, high = 100 * measured["low"], 100 * measured["high"]
    ax.set_ylim(min(0.0, low.min()) - 2, max(high.max() * 1.05, 5))
    percent_axis(ax, "x", "accuracy under the weaker attack (%)")
    ax.set_ylabel("lost to the stronger attack (points)")
    floor = ax.axline((0, 0), slope=1, color=MEAN, lw=0.8, zorder=1)
    if ax.get_ylim()[0] < -2:
        ax.axhline(0, color="0.8", lw=0.8, zorder=0)
    _points(ax, x, y, low, high, named, names)
    mean = float(y.mean())
    same = np.allclose(measured["baseline"], measured["weak"])
    caption(
        ax,
        title,
        _share(measured),
        _correlation("spearman", x, y),
        "both axes from the same examples: their noise correlates them" if same else "",
        legend={f"mean, {mean:.1f} points": draw_mean(ax, "y", mean), "all that a class has": floor},
        right=right,
    )
    return ax


@in_any_script
def weight_norms(norms: npt.ArrayLike, table: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Draw each class's robust accuracy against the norm of its weights in the last layer.

    Of more than 12 classes, the three weakest and the three most robust have their names. Classes with a norm of 0,
    which were excluded in training, are left out.

    Args:
        norms: (C,): ``art_classwise.metrics.head_weight_norms(classifier)``.
        table: A row per class, in the same order: ``result.class_table(model, attack)``.
        ax: Where to draw; a new figure if absent.
        title: Above the axes.

    Returns:
        The axes.

    Raises:
        InputError: It is another table, no class has an example, or the norms are not as many as the classes, or no
            norms.
    """
    measured = check_class_table(table)
    try:
        values = np.asarray(norms, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(())
    if values.shape != (len(table),) or not np.isfinite(values).all() or (values < 0).any():
        raise InputError(
            f"`norms` must be a norm for each of the {len(table)} classes, as metrics.head_weight_norms(classifier) "
            f"returns them, but got {norms!r:.60}."
        )
    all_norms = pd.Series(values, index=table.index)
    measured = some(measured[all_norms[measured.index] > 0], "every class was excluded in training")
    x, y = all_norms[measured.index], 100 * measured["robust"]
    named = _named(measured.index, measured.index[::-1][:_ENDS])
    names = fit_all(named, name_room(ax))
    right = widest(names) + points(3)
    ax = canvas(ax, 5.4, 4.4, right)
    percent_axis(ax, "y", "robust accuracy (%)")
    ax.set_xlabel("L2 norm of the class's weights in the last layer")
    margin = 0.06 * float(np.ptp(x)) or 0.1 * float(x.iloc[0])
    ax.set_xlim(float(x.min()) - margin, float(x.max()) + margin)
    _points(ax, x, y, 100 * measured["robust_low"], 100 * measured["robust_high"], named, names)
    mean = float(y.mean())
    caption(
        ax,
        title,
        _correlation("pearson", x, y),
        _correlation("spearman", x, y),
        legend={f"mean, {mean:.1f} %": draw_mean(ax, "y", mean)},
        right=right,
    )
    return ax


def _named(ranking: pd.Index, others: pd.Index) -> list[Any]:
    """Return the classes to name, the worst first: all up to 12, else the three weakest and the others."""
    chosen = ranking if len(ranking) <= _MOST_LABELS else [*ranking[:_ENDS], *others]
    return [*dict.fromkeys(chosen)]


def _points(
    ax: Axes,
    x: pd.Series[float],
    y: pd.Series[float],
    low: pd.Series[float],
    high: pd.Series[float],
    named: Sequence[Any],
    names: Sequence[str],
) -> None:
    """Draw a point per class with its interval, the worst in its colour, and the names of some, the worst first."""
    worst = x.index == named[0]
    few = len(x) <= 100  # the intervals of more would be a cloud
    with_interval = np.full(len(x), True) if few else worst
    ax.vlines(x[with_interval], low[with_interval], high[with_interval], color="0.8", lw=1, zorder=1.5)
    size = 30 if few else 10
    ax.scatter(x[~worst], y[~worst], color=ROBUST, s=size, zorder=3, lw=0, clip_on=False)
    ax.scatter(x[worst], y[worst], color=WORST, s=size + 20, marker="D", zorder=4, lw=0, clip_on=False)
    at_x, at_y = (of[named].to_numpy().astype(np.float64) for of in (x, y))
    side_labels(ax, at_x, at_y, names, [WORST, *[OTHER] * (len(names) - 1)])


def _share(measured: pd.DataFrame) -> str:
    """Say which part of the drop falls on the weakest third of the classes."""
    k = max(len(measured) // 3, 1)
    share = measured["cumulated"].iloc[k - 1]
    if np.isnan(share) or len(measured) < 3:
        return ""
    alike = f"if all lost alike: {100 * k / len(measured):.0f} %"
    return f"{100 * share:.0f} % of the loss is of the {k} weakest classes ({alike})"


def _correlation(kind: str, a: npt.ArrayLike, b: npt.ArrayLike) -> str:
    row = correlations(a, b).loc[kind]
    if np.isnan(row["value"]):
        return ""
    p = "p < 0.001" if row["p"] < 0.001 else f"p = {row['p']:.3f}"
    chance = "" if row["p"] <= 0.05 else ": may be chance"
    return f"{kind.capitalize()}'s correlation {row['value']:.2f}, {p}, {row['n']:.0f} classes{chance}"
