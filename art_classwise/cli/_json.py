"""With ``--json``, a command prints a single JSON document on stdout; other messages go to stderr.

Every document is an object with ``schema``, the version of its format (2; it changes when a field is removed or
renamed, not when one is added), ``kind`` and ``art_classwise``, the package's version. Accuracies are fractions,
unknown values are null, never NaN, and names are not changed. By ``kind``:

- ``audit`` (of ``audit``, ``report`` and ``quickstart``): ``dataset``, ``split``, ``examples``, ``norm``, ``eps``,
  ``seed``, ``worst_case``, ``finished``, ``command``, ``classes``, ``attacks``; ``models``, in the order of the audit,
  each with ``name``, the columns of :meth:`art_classwise.AuditResult.summary`, ``trained_at``, the threat model that
  its checkpoint was trained against or null, and ``attacks``, those of the audit and
  ``"all attacks"``, each with ``name`` and ``classes``, the rows of :meth:`art_classwise.AuditResult.class_table`; with
  ``--groups`` also ``groups``, likewise, under all attacks; and where attacks measured smallest perturbations, as
  ``fmn``, ``distances``: ``searched``, the largest that was looked for (null: any), ``classes``, the rows of
  :meth:`art_classwise.AuditResult.distances`, and ``radii``, each with ``eps`` and ``classes``, the rows of
  :meth:`art_classwise.AuditResult.robust_at`; ``findings``, each with ``model`` (null for the whole
  audit), ``check``, ``saw``, ``advice``; ``checks``, the rows of :attr:`art_classwise.AuditResult.checks`;
  ``strongly_attacked``, the models whose robust accuracy isn't only an upper bound; ``unchecked``; and ``files``, by
  kind.
  With ``--require`` also ``requirements``, for each requirement and model ``requirement``, as it was written,
  ``measure``, ``operator``, ``bound``, ``model`` (null for the whole audit), ``other``, the second of two, ``about``,
  ``value``, ``low``, ``high``, ``confidence``, ``n``, ``met``, ``state`` ("met", "not met" or "not judged") and
  ``reason``, why it can't be judged; and ``met``, whether all are met. So have ``radii`` and ``comparison``.
- ``radii`` (of ``audit`` with several radii): ``audits``, each as a document of ``audit``, by rising radius; ``radii``,
  the rows of :meth:`art_classwise.studies.RadiusSweep.table`; and ``files``.
- ``comparison`` (of ``compare``): ``comparisons``, each with ``first``, ``second``, ``about``, ``accuracy`` (robust or
  clean), ``model``, ``attack``, ``threat``, ``examples``, ``confidence``; ``classes``, a row each, ``overall``,
  ``mean`` and ``worst_class``, as in :class:`art_classwise.audit.Comparison`. ``overall.p_adjusted`` is
  adjusted for the number of comparisons. Of three or more models of one audit also ``compared_with_best``: by
  ``mean`` over classes and by ``worst`` class, the rows of :meth:`art_classwise.AuditResult.compare_with_best`.
- ``certificate`` (of ``certify``): ``model``, ``dataset``, ``split``, ``examples``, how many; ``norm``, ``method``,
  ``noise``, ``n``, ``n_selection``, ``alpha``, ``seed`` and ``reach`` as in
  :class:`art_classwise.certification.Certificate`; ``classes``, names; ``radii``, the rows of
  :meth:`art_classwise.certification.CertifiedResult.summary`, each with ``classes``, those of ``certified_at``;
  ``files``; and ``root``, the audit's root digest with the certificate, null without ``--audit``.
- ``leaderboard`` (of ``zoo``): ``dataset``, ``threat_model``, ``model_dir``; ``models``, the rows of
  :func:`art_classwise.zoo.robustbench_table`, with ``--measured`` also the audit's results.
- ``ranking`` (of ``zoo --rank``): ``dataset``, ``threat_model``; ``models``, the rows of
  :func:`art_classwise.studies.place_on_board`; ``board``, those of :func:`art_classwise.zoo.robustbench_board`.
- ``training`` (of ``train``): ``recipe``, all settings used; ``epoch``, the one whose weights were kept; ``history``, a
  row per epoch; ``pseudo_labels``; and ``files``.
- ``verification`` (of ``verify``): ``store``, ``root``, ``ok``; ``checks``, each with ``name``, ``checked`` and
  ``differences``; all ``differences``; ``unchecked``; and ``recomputed``, null if no unit was.
- ``doctor`` (of ``doctor``): ``works``, whether everything essential does; ``checks``, each with ``about``, ``name``,
  ``state`` (ok, missing or broken), ``essential``, ``says`` and ``do``, null if there is nothing to do.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, TypeAlias

from art_classwise import __version__

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from art_classwise.audit import AuditResult, Comparison, Verdicts
    from art_classwise.certification import CertifiedResult
    from art_classwise.metrics.accuracy import Groups

__all__ = [
    "SCHEMA",
    "Writer",
    "audit_content",
    "certificate_content",
    "comparison_content",
    "leaderboard_content",
    "printing",
    "ranking_content",
    "requirements_content",
    "rows",
]

Writer: TypeAlias = "Callable[[str, Mapping[str, Any]], None]"
"""Prints a document of a kind with its content."""

SCHEMA = 2
"""Version of the documents' shapes."""


@contextmanager
def printing(as_json: bool) -> Iterator[Writer]:
    """Keep stdout for one document, if there shall be one: what else is printed goes to stderr.

    Yields:
        Prints a document of a kind with its content.
    """
    stdout = sys.stdout

    def write(kind: str, content: Mapping[str, Any]) -> None:
        whole = {"schema": SCHEMA, "kind": kind, "art_classwise": __version__, **content}
        # In ASCII: names arrive as they are, whatever the encoding of the terminal or pipe.
        print(json.dumps(_plain(whole), indent=1, allow_nan=False), file=stdout, flush=True)

    with redirect_stdout(sys.stderr if as_json else stdout):
        yield write


def audit_content(
    result: AuditResult, files: Mapping[str, str | os.PathLike[str]], groups: Groups | None = None
) -> dict[str, Any]:
    """Return what an audit's document holds.

    Args:
        result: The audit.
        files: What lies where.
        groups: Groups of classes to tell of, too.
    """
    import pandas as pd

    from art_classwise.report.distances import distances_in

    manifest, models = result.manifest, []
    attacks = (*result.attacks, *result.together)
    by_group = None if groups is None else result.by_group(groups)
    for name, row in result.summary().to_dict("index").items():
        model = str(name)
        record: dict[str, Any] = {"name": model, **{str(key): value for key, value in row.items()}}
        source = manifest.sources.get(model)
        trained_at = None if source is None else source.trained_at
        record["trained_at"] = None if trained_at is None else str(trained_at)
        record["attacks"] = [{"name": a, "classes": rows(result.class_table(model, a), "class")} for a in attacks]
        if (distances := distances_in(result, model)) is not None:
            record["distances"] = distances.document()
        if by_group is not None:
            record["groups"] = rows(pd.DataFrame(by_group.xs((model, result.overall))), "group")
        models.append(record)
    return {
        "dataset": manifest.examples.dataset,
        "split": manifest.examples.split,
        "examples": result.outcomes["example"].nunique(),
        "norm": result.threat.norm,
        "eps": result.threat.eps,
        "seed": manifest.seed,
        "worst_case": manifest.worst_case,
        "finished": result.finished,
        "root": result.roots[0] if len(result.roots) == 1 else None,
        "missing": result.missing,
        "costs": result.attack_costs().reset_index().to_dict("records"),
        "command": manifest.command,
        "classes": result.classes,
        "attacks": result.attacks,
        "models": models,
        "findings": [{k: getattr(f, k) for k in ("model", "check", "saw", "advice")} for f in result.findings],
        "checks": result.checks.to_dict("records"),
        "strongly_attacked": result.strongly_attacked,
        "unchecked": result.unchecked,
        "files": files,
    }


def comparison_content(comparisons: Sequence[Comparison], standings: pd.DataFrame | None = None) -> dict[str, Any]:
    """Return what a comparison's document holds.

    Args:
        comparisons: The pairs.
        standings: Of three or more models of one audit, each beside the best of the others, by measure.
    """
    import pandas as pd

    from art_classwise.audit.comparison import comparison_table

    adjusted = comparison_table(comparisons)["p_adjusted"].tolist()
    made = [
        {
            "first": one.first,
            "second": one.second,
            "about": one.about,
            "accuracy": one.kind,
            "model": one.model,
            "attack": one.attack,
            "threat": None if one.threat is None else str(one.threat),
            "worst_case": one.worst_case,
            "examples": one.n,
            "confidence": one.confidence,
            "classes": rows(one.by_class, "class"),
            "overall": {**one.overall.to_dict(), "p_adjusted": p},
            "mean": one.mean.to_dict(),
            "worst_class": one.worst_class.to_dict(),
        }
        for one, p in zip(comparisons, adjusted, strict=True)
    ]
    if standings is None:
        return {"comparisons": made}
    best = {measure: rows(pd.DataFrame(standings.xs(measure)), "name") for measure in ("mean", "worst")}
    return {"comparisons": made, "compared_with_best": best}


def certificate_content(
    found: CertifiedResult, model: str, files: Mapping[str, str], radii: Sequence[float] | None = None
) -> dict[str, Any]:
    """Return what a certificate's document holds.

    Args:
        found: The certificate.
        model: Name of the model.
        files: What lies where.
        radii: Which radii; those of the certificate, if absent.
    """
    import pandas as pd

    of, table = found.certificate, found.certified_at(radii)
    told = rows(found.summary(radii), "radius")
    for row in told:
        at = pd.DataFrame(table.xs(row["radius"], level="radius"))
        row |= {"unknown": at["unknown"].iloc[0], "classes": rows(at.drop(columns="unknown"), "class")}
    settings = ("norm", "method", "noise", "n", "n_selection", "alpha", "seed", "reach")
    return {
        "model": model,
        "dataset": of.dataset,
        "split": of.split,
        "examples": of.n_examples,
        **{name: getattr(of, name) for name in settings},
        "classes": of.classes,
        "radii": told,
        "files": files,
    }


def leaderboard_content(table: pd.DataFrame, dataset: str, threat_model: str, model_dir: Path) -> dict[str, Any]:
    """Return what a leaderboard's document holds."""
    where = {"dataset": dataset, "threat_model": threat_model, "model_dir": model_dir.absolute()}
    return {**where, "models": rows(table, "name")}


def ranking_content(places: pd.DataFrame, board: pd.DataFrame, dataset: str, threat_model: str) -> dict[str, Any]:
    """Return what the document of places on a leaderboard holds."""
    where = {"dataset": dataset, "threat_model": threat_model}
    return {**where, "models": rows(places, "model"), "board": rows(board, "name")}


def requirements_content(verdicts: Verdicts | None) -> dict[str, Any]:
    """Return what came of requirements, as part of a document; nothing where none were made."""
    return {} if verdicts is None else {"requirements": [one.to_dict() for one in verdicts], "met": verdicts.met}


def rows(table: pd.DataFrame, label: str) -> list[dict[str, Any]]:
    """Return a table's rows, each with its label first."""
    records: list[dict[Any, Any]] = table.to_dict("records")
    return [{label: name, **row} for name, row in zip(table.index, records, strict=True)]


def _plain(value: Any) -> Any:
    """Return a value as JSON has them; NaN and infinity as null."""
    value = value.item() if hasattr(value, "item") else value  # of NumPy
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value
