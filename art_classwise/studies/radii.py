"""Audits of the same models and examples at several radii."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from art_classwise._core import display
from art_classwise._core.folders import open_folder
from art_classwise.attacks.ladder import WORST_CASE, Attacks
from art_classwise.audit import AuditResult, ClassWiseAudit, is_finished, read_audit
from art_classwise.audit.comparison import check_audit
from art_classwise.audit.plan import NamedData, PickledData
from art_classwise.audit.store import Store
from art_classwise.datasets import Dataset, as_dataset
from art_classwise.errors import InputError, shown
from art_classwise.threat import ThreatModel

__all__ = [
    "RadiusSweep",
    "audit_each",
    "audit_over_radii",
    "parse_threats",
    "radius_folder",
    "radius_folders",
    "read_sweep",
    "table_of",
    "threat_parts",
]

TABLE = "radii.csv"
_COLUMNS = [f"{of}{end}" for of in ("clean", "mean") for end in ("", "_low", "_high")]
_COLUMNS += ["worst", "worst_class", "held_out", "worst_low", "worst_high"]


@dataclass(frozen=True)
class RadiusSweep:
    """Audits that differ in their radius only.

    Attributes:
        results: By rising radius.

    Raises:
        InputError: One isn't an audit's result, or there is none.
    """

    results: tuple[AuditResult, ...]

    def __post_init__(self) -> None:
        if not self.results:
            raise InputError("`results` must be audits, but there is none.")
        for i, result in enumerate(self.results):
            check_audit(f"Number {i + 1} of `results`", result)

    def table(self, attack: str = WORST_CASE) -> pd.DataFrame:
        """Return a row per model and radius: robust accuracy and the worst class.

        Args:
            attack: An attack that all audits have, or ``"all attacks"``.

        Returns:
            Indexed by ``model`` and ``threat``, the radius as a text; columns ``norm``, ``eps`` in the units of images
            in [0, 1], ``n`` examples, and of :meth:`AuditResult.summary` ``clean``, ``mean``, the mean of the class
            robust accuracies, with their intervals; ``worst``, ``worst_class``, ``held_out``, ``worst_low`` and
            ``worst_high``.

        Raises:
            InputError: An audit has no such attack.
        """
        rows = []
        for result in self.results:
            rows_of: dict[Any, dict[str, Any]] = result.summary(attack).to_dict("index")  # type: ignore[assignment]
            rows += [table_of(result, model, rows_of[model]) for model in result.models]
        table = pd.DataFrame(rows)
        order = {model: i for i, model in enumerate(self.results[0].models)}
        table = table.sort_values(["model", "eps"], key=lambda c: c.map(order) if c.name == "model" else c)
        return table.set_index(["model", "threat"])

    def to_latex(self) -> str:
        r"""Return the tables for LaTeX, with booktabs: a row per model and radius.

        All rows and columns are there, names are in full and escaped, and the weakest class is bold. A document needs
        ``\usepackage{booktabs,longtable}``; tables of more than 40 rows are long ones.
        """
        return display.latex(self)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`table` to a CSV file.

        Raises:
            InputError: It can't be written.
        """
        from art_classwise._core.files import output_file

        with output_file(path, TABLE) as aside:
            self.table().to_csv(aside)


def table_of(result: AuditResult, model: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of :meth:`RadiusSweep.table`, of a row of :meth:`AuditResult.summary`."""
    about = {"norm": result.threat.norm, "eps": result.threat.eps, "n": result.manifest.examples.n}
    return {"model": model, "threat": str(result.threat), **about, **{column: summary[column] for column in _COLUMNS}}


def audit_over_radii(
    models: Mapping[str, Any],
    data: Any,
    threats: str | Sequence[ThreatModel | str],
    attacks: Attacks = "quick",
    *,
    store: str | os.PathLike[str] | None = None,
    optional: Collection[str] = (),
    finished: Callable[[AuditResult, str | None], object] | None = None,
    **options: Any,
) -> RadiusSweep:
    """Audit models at several radii, smallest first.

    Args:
        models: As for :meth:`ClassWiseAudit.evaluate`.
        data: Likewise.
        threats: ``"Linf:4/255,8/255,12/255"``, or threat models of one norm.
        attacks: As for :class:`ClassWiseAudit`.
        store: A folder, or an address: each radius has a folder in it, ``Linf-8_255``, that an interrupted audit goes
            on from, and that :func:`art_classwise.read_audit` reads.
        optional: As for :meth:`ClassWiseAudit.evaluate`.
        finished: Told of each result once it is there, and of its folder.
        **options: Of :class:`ClassWiseAudit`.

    Returns:
        The audits, and a table of robust accuracy and worst class over the radii.

    Raises:
        InputError: There are fewer than two radii, one stands twice, or they are of several norms; the largest covers
            the whole range [0, 1], which is told before any is audited; and as :class:`ClassWiseAudit`.

    Example:
        >>> import art_classwise as acw
        >>> data = acw.load_dataset("digits", "test").first(60)
        >>> network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
        >>> models = {"untrained": acw.as_classifier(network, (1, 8, 8), 10, device="cpu")}
        >>> sweep = audit_over_radii(models, data, "Linf:0.01,0.05", "fgsm", checks=False, verbose=False)
        >>> [str(result.threat) for result in sweep.results]
        ['Linf:0.01', 'Linf:0.05']
    """
    radii = parse_threats(threats)
    if len(radii) < 2:
        raise InputError("A sweep needs two radii or more, such as Linf:4/255,8/255.")
    each: dict[str, Any] = {"store": store, "optional": optional, "finished": finished, **options}
    return RadiusSweep(audit_each(models, data, radii, attacks, **each))


def audit_each(
    models: Mapping[str, Any],
    data: Any,
    threats: Sequence[ThreatModel],
    attacks: Attacks,
    *,
    store: str | os.PathLike[str] | None,
    optional: Collection[str],
    finished: Callable[[AuditResult, str | None], object] | None,
    **options: Any,
) -> tuple[AuditResult, ...]:
    """Audit models within each of several threat models, in their order: see :func:`audit_over_radii`."""
    # What is wrong with a radius, or with a folder, is better known before the first is audited.
    if not isinstance(data, (NamedData, PickledData)):
        loaded = models.values() if isinstance(models, Mapping) else ()
        data = as_dataset(data, n_classes=next((int(m.nb_classes) for m in loaded if hasattr(m, "nb_classes")), None))
    examples = data if isinstance(data, Dataset) else data.load()
    for threat in threats:
        threat.check_radius(0.0, 1.0, int(np.prod(examples.input_shape)))
    folders = [None if store is None else _within(store, radius_folder(threat)) for threat in threats]
    audits = [
        ClassWiseAudit(threat, attacks, store=folder, **options)
        for threat, folder in zip(threats, folders, strict=True)
    ]
    results = []
    for audit, folder in zip(audits, folders, strict=True):
        result = audit.evaluate(models, data, optional=optional)
        if finished is not None:
            finished(result, folder)
        results.append(result)
    return tuple(results)


def parse_threats(threats: str | Sequence[ThreatModel | str]) -> tuple[ThreatModel, ...]:
    """Return threat models of one norm, the smallest radius first.

    Args:
        threats: Threat models, or one text, ``"Linf:8/255"`` or ``"Linf:4/255,8/255"``.

    Raises:
        InputError: One can't be read, a radius stands twice, or they are of several norms.
    """
    parts = threat_parts(threats)
    norm = str(parts[0]).partition(":")[0] if parts else ""
    read = [
        ThreatModel.parse(f"{norm}:{part}" if isinstance(part, str) and i and ":" not in part else part)
        for i, part in enumerate(parts)
    ]
    read.sort(key=lambda threat: threat.eps)
    for one, other in pairwise(read):
        if one.norm != other.norm:
            raise InputError(f"The radii must be of one norm, but are {one} and {other}: audit each norm by itself.")
        if one.eps == other.eps:
            raise InputError(f"The radius {other} stands twice.")
    return tuple(read)


def threat_parts(threats: str | Sequence[ThreatModel | str]) -> list[ThreatModel | str]:
    """Return threat models, or texts of them, one by one.

    Raises:
        InputError: They are neither a text nor several.
    """
    if isinstance(threats, str):
        return [part.strip() for part in threats.split(",")]
    if isinstance(threats, ThreatModel) or not isinstance(threats, Iterable):
        raise InputError(
            f'`threats` must be several, "Linf:4/255,8/255" or a list of threat models, but got {shown(threats)}.'
        )
    return list(threats)


def read_sweep(store: str | os.PathLike[str]) -> RadiusSweep:
    """Read what :func:`audit_over_radii` kept; radii whose audits aren't finished are left out, with a warning.

    Args:
        store: The folder, or its address.

    Raises:
        InputError: It holds no audits at several radii, or fewer than two are finished; or as
            :func:`art_classwise.read_audit`.
    """
    folders = radius_folders(store)
    if not folders:
        raise InputError(f"{open_folder(store).where()} holds no audits at several radii.")
    if len({threat.norm for threat in folders}) > 1:
        raise InputError(f"{open_folder(store).where()} holds audits in several norms: read_union() reads them.")
    finished = {threat: folder for threat, folder in folders.items() if is_finished(folder)}
    unfinished = ", ".join(str(threat) for threat in folders if threat not in finished)
    if len(finished) < 2:
        one = next(iter(finished.values()), next(iter(folders.values())))
        raise InputError(
            f"Of the audits at several radii in {open_folder(store).where()}, those at {unfinished or 'others'} aren't "
            f"finished: repeat the audit, which goes on, or read one by itself, {one}."
        )
    if unfinished:
        warnings.warn(f"The audits at {unfinished} aren't finished, and are left out.", stacklevel=2)
    return RadiusSweep(tuple(read_audit(folder) for folder in finished.values()))


def radius_folders(store: str | os.PathLike[str]) -> dict[ThreatModel, str]:
    """Return where the audits of a sweep are, by rising radius; none, if a folder holds something else."""
    folder = open_folder(store)
    found = {}
    for name in folder.folders(""):
        norm, _, eps = name.partition("-")
        try:
            threat = ThreatModel.parse(f"{norm}:{eps.replace('_', '/')}")
        except InputError:
            continue
        if radius_folder(threat) == name and Store(folder.where(name)).is_begun:
            found[threat] = folder.where(name)
    return dict(sorted(found.items(), key=lambda item: item[0].eps))


def radius_folder(threat: ThreatModel) -> str:
    """Return the name of a radius's folder: ``Linf-8_255``."""
    return str(threat).replace(":", "-").replace("/", "_")


def _within(store: str | os.PathLike[str], name: str) -> str:
    return open_folder(store).where(name)
