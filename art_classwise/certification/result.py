"""What was certified: a row per example, and the questions to ask of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field, ValidationError

from art_classwise import metrics
from art_classwise._core.files import output_file
from art_classwise._core.folders import open_folder
from art_classwise._core.records import Record, validation_message
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.comparison import check_audit
from art_classwise.audit.corrupted import ALL_CORRUPTIONS, MEAN_CORRUPTION
from art_classwise.audit.provenance import Environment
from art_classwise.audit.result import AuditResult
from art_classwise.certification.smoothing import MOST_SAMPLES, Smoothing, certified_radius, votes_of
from art_classwise.errors import InputError, check_number
from art_classwise.metrics.distances import check_radii, check_radius
from art_classwise.threat import ThreatModel

__all__ = ["FILE", "PICTURE", "TABLE", "Certificate", "CertifiedResult", "parsed", "read_certificate", "read_stored"]

FILE, TABLE, PICTURE = "certificate.json", "certified.csv", "certified.png"

Integers = tuple[Annotated[int, Field(ge=-(2**63), lt=2**63)], ...]


class Certificate(Record):
    """What decides a certificate: the model, the examples and the method.

    Attributes:
        method: ``"smoothing"``, ``"interval"`` or ``"zonotope"``.
        norm: Of the radii.
        alpha: Probability at most that an example's radius is wrong; 0 of bounds.
        noise: Standard deviation of the Gaussian noise; None of bounds.
        n: Noisy samples per example for its radius.
        n_selection: Those that choose its class before.
        seed: Of the noise.
        reach: The largest radius that could be certified: with so many samples, or that was tried.
        classes: The class names.
        dataset: Name of the data set.
        split: E.g. ``"test"``.
        n_examples: How many examples there are.
        examples: Their fingerprint, as :class:`art_classwise.audit.Manifest` has it.
        model: The classifier's fingerprint, likewise.
        weights: That of its weights alone.
    """

    method: Literal["smoothing", "interval", "zonotope"]
    norm: Literal["L2", "Linf"]
    alpha: Annotated[float, Field(ge=0, lt=0.5)]
    noise: Annotated[float, Field(gt=0)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] | None = None
    n_selection: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] | None = None
    seed: int | None = None
    reach: Annotated[float, Field(ge=0)]
    classes: tuple[str, ...]
    dataset: str
    split: str
    n_examples: Annotated[int, Field(ge=1)]
    examples: str
    model: str
    weights: str


class _Stored(Certificate):
    kind: Literal["certificate"] = "certificate"
    schema_version: Literal[1] = Field(1, alias="schema")
    example: Integers
    label: Integers
    prediction: Integers
    radius: tuple[Annotated[float, Field(ge=0)], ...]
    environments: tuple[Environment, ...] = ()


_COLUMNS = ("example", "label", "prediction", "radius")


@dataclass(frozen=True, eq=False, repr=False)
class CertifiedResult:
    """Predictions and certified radii: no perturbation within the radius, whatever made it, changes the prediction.

    Attributes:
        examples: A row per example: ``example`` (its number in the data set), ``label``, ``prediction`` (-1 where the
            smoothed classifier abstained) and ``radius``, in the units of images.
        certificate: What decided them.
        environments: Versions and hardware of the processes that certified; none where an earlier release did.
    """

    examples: pd.DataFrame = field(repr=False)
    certificate: Certificate
    environments: tuple[Environment, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names."""
        return self.certificate.classes

    @property
    def radii(self) -> list[float]:
        """Radii from 0 to the reach that tables and figures have, unless others are asked for."""
        of = self.certificate
        step = of.reach / 4 if of.noise is None else of.noise / 2
        return [i * step for i in range(int(of.reach / step + 1e-9) + 1)] if step > 0 else [0.0]

    def certified_at(self, radii: float | Sequence[float] | None = None, *, confidence: float = 0.95) -> pd.DataFrame:
        """Return the certified accuracy of each class at each radius.

        It is the share of examples whose prediction is right and certified at this radius or a larger one: a lower
        bound of robust accuracy under any attack. Intervals are exact (Clopper and Pearson 1934). Of smoothing, each
        certificate is wrong with probability ``alpha`` at most, which ``low`` allows for: it is below the share of
        examples that are truly robust as often as ``confidence`` says.

        Args:
            radii: At least 0, rising, in the units of images; :attr:`radii` if absent.
            confidence: Coverage of the intervals.

        Returns:
            Indexed by ``radius`` and ``class``: ``n``, ``certified``, ``low``, ``high``, and ``unknown``: why they are
            NaN, beyond what could be certified; empty where they aren't.

        Raises:
            InputError: The radii aren't numbers of at least 0 that rise, or the confidence is out of range.
        """
        asked = self.radii if radii is None else check_radii(radii, "radii")
        y, n_classes = self._labels, len(self.classes)
        n = np.bincount(y, minlength=n_classes)
        tables = []
        for radius in asked:
            k = np.bincount(y[self._holds(radius)], minlength=n_classes)
            low, high = metrics.clopper_pearson(k, n, confidence)
            columns = {
                "certified": k / np.where(n > 0, n, np.nan),
                "low": np.maximum(low - self.certificate.alpha, 0),
                "high": high,
            }
            beyond = self._beyond(radius)
            shown = pd.DataFrame(columns, index=pd.Index(self.classes, name="class"))
            table = shown if not beyond else shown * np.nan
            table.insert(0, "n", n)
            tables.append(table.assign(unknown=beyond))
        return pd.concat(tables, keys=asked, names=["radius"])

    def worst_class(self, radius: float = 0.0, *, confidence: float = 0.95) -> pd.Series[Any]:
        """Return the certified accuracy of the worst class, measured on examples that didn't choose it.

        Args:
            radius: At least 0, up to the reach.
            confidence: Coverage of the interval.

        Returns:
            As :func:`art_classwise.metrics.worst_class`; ``low`` allows for ``alpha``, as :meth:`certified_at`.

        Raises:
            InputError: The radius is out of range or beyond the reach, or no class has two examples.
        """
        asked = check_radius(radius)
        if beyond := self._beyond(asked):
            raise InputError(f"The radius {asked:g} is {beyond}.")
        worst = metrics.worst_class(
            self._labels, self._holds(asked), len(self.classes), classes=self.classes, confidence=confidence
        )
        worst["low"] = max(0.0, worst["low"] - self.certificate.alpha)
        return worst

    def summary(self, radii: float | Sequence[float] | None = None, *, confidence: float = 0.95) -> pd.DataFrame:
        """Return a row per radius: mean over classes and worst class of the certified accuracy.

        Args:
            radii: As for :meth:`certified_at`; those beyond the reach are NaN.
            confidence: Coverage of the intervals.

        Returns:
            Indexed by ``radius``: ``mean`` with ``mean_low`` and ``mean_high``
            (:func:`art_classwise.metrics.mean_accuracy`); ``worst_class``, the class of the lowest certified accuracy,
            and ``worst``, that; ``held_out``, its accuracy on examples it wasn't chosen on, ``worst_low`` and
            ``worst_high`` (:meth:`worst_class`; NaN where no class has two examples); ``abstained``, the share of
            examples without a prediction. Low ends allow for ``alpha``.

        Raises:
            InputError: As :meth:`certified_at`.
        """
        check_number("confidence", confidence, 0, 1, above=True, below=True, words="between 0 and 1, e.g. 0.95")
        asked, y = self.radii if radii is None else check_radii(radii, "radii"), self._labels
        n = np.bincount(y, minlength=len(self.classes))
        rows: list[dict[str, Any]] = []
        for radius in asked:
            row: dict[str, Any] = {"abstained": float((self.examples["prediction"] < 0).mean())}
            if not self._beyond(radius):
                right = self._holds(radius)
                share = np.bincount(y[right], minlength=len(n)) / np.where(n > 0, n, np.nan)
                mean = metrics.mean_accuracy(y, right, len(n), confidence=confidence)
                lowest = int(np.nanargmin(share))
                row |= {
                    **{"mean": mean["mean"], "mean_high": mean["high"]},
                    "mean_low": max(0.0, mean["low"] - self.certificate.alpha),
                    **{"worst_class": self.classes[lowest], "worst": share[lowest]},
                }
                if n.max() >= 2:
                    worst = self.worst_class(radius, confidence=confidence)
                    row |= {"held_out": worst["accuracy"], "worst_low": worst["low"], "worst_high": worst["high"]}
            rows.append(row)
        columns = ["mean", "mean_low", "mean_high", "worst_class", "worst", "held_out", "worst_low", "worst_high"]
        return pd.DataFrame(rows, index=pd.Index(asked, name="radius")).reindex(columns=[*columns, "abstained"])

    def beside(self, audit: AuditResult, model: str | None = None, attack: str = WORST_CASE) -> pd.DataFrame:
        """Return certified and robust accuracy of each class side by side.

        Of bounds, they lie below and above the true robust accuracy, and an example that is certified at the audit's
        radius but was broken within it is a contradiction: there is none unless something is wrong. A certificate of
        smoothing is of the classifier *under noise*, the audit of the network itself: neither bounds the other, so
        what would follow is left open.

        Args:
            audit: An audit of the same network on the same examples. Its norm may be another one, whose ball of the
                same radius lies within that of the certificate: L1 within L2, both within Linf.
            model: Its name there; the one that there is, if absent.
            attack: An attack, or ``"all attacks"``.

        Returns:
            A row per class: ``n``; ``certified``, with ``certified_low`` and ``certified_high``, at the audit's radius,
            NaN beyond the reach; ``robust``, what withstood the attack, with its interval; ``undecided``, the share
            that is neither certified nor broken; ``contradictions``, how many are certified and broken. The last two
            are NaN of smoothing.

        Raises:
            InputError: It is no audit, or one of another model or other examples, of a norm whose ball reaches further,
                or has no such model or attack; or the attack is a corruption, which keeps to no radius.
        """
        check_audit("`audit`", audit)
        rows = audit.rows(model, attack)
        name, of = str(rows["model"].iloc[0]), self.certificate
        if attack in (*audit.corruptions, MEAN_CORRUPTION, ALL_CORRUPTIONS):
            raise InputError(
                f"A certificate says nothing of corruptions such as {attack!r}, which keep to no radius: name an "
                "attack."
            )
        if not np.array_equal(rows[["example", "label"]], self.examples[["example", "label"]]):
            raise InputError("The audit and the certificate are of different examples.")
        source = audit.manifest.sources.get(name)
        if of.noise is None:  # ART converts the network, so its weights needn't be the same; its predictions must be
            same = np.array_equal(rows["clean_prediction"], self.examples["prediction"])
        else:
            same = source is None or source.weights == of.weights
        if not same:
            raise InputError(f"{name!r} in the audit isn't the network that was certified.")
        needed = _ball(of.norm, audit.threat)
        certified, withstood = self._holds(needed), rows["withstood"].to_numpy().astype(bool)
        table = self.certified_at(needed).droplevel("radius")
        table = table.rename(columns={"low": "certified_low", "high": "certified_high"}).drop(columns="unknown")
        table = table.join(audit.class_table(name, attack)[["robust", "robust_low", "robust_high"]])
        counts = {
            "undecided": np.bincount(self._labels[withstood & ~certified], minlength=len(self.classes)) / table["n"],
            "contradictions": np.bincount(self._labels[certified & ~withstood], minlength=len(self.classes)),
        }
        known = table["certified"].notna() & (of.noise is None)
        return table.assign(**{key: pd.Series(one, table.index).where(known) for key, one in counts.items()})

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`certified_at`, of :attr:`radii`, to a CSV file.

        Raises:
            InputError: It can't be written.
        """
        with output_file(path, TABLE) as aside:
            self.certified_at().to_csv(aside)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``certificate.json`` into a folder, for :func:`art_classwise.read_certificate`.

        Args:
            folder: A path, or an address such as ``"s3://bucket/certificate"``.

        Raises:
            InputError: It can't be written.
        """
        open_folder(folder).write(FILE, self.to_json().encode())

    def to_json(self) -> str:
        """Return what ``certificate.json`` holds."""
        columns: dict[str, Any] = {name: self.examples[name].tolist() for name in _COLUMNS}
        if self.environments:
            columns["environments"] = [one.model_dump(mode="json") for one in self.environments]
        head = {"kind": "certificate", "schema": 1, **self.certificate.model_dump(mode="json")}
        return json.dumps(head | columns, ensure_ascii=False)

    def __repr__(self) -> str:
        of = self.certificate
        by = of.method if of.noise is None else f"smoothing, noise {of.noise:g}, n {of.n:,}, alpha {of.alpha:g}"
        return f"Certified accuracy of {len(self.examples):,} examples ({of.norm}; {by})\n{self.summary().to_string()}"

    def _repr_html_(self) -> str:
        return self.summary().to_html()

    @property
    def _labels(self) -> npt.NDArray[np.int64]:
        return self.examples["label"].to_numpy().astype(np.int64)

    def _holds(self, radius: float) -> npt.NDArray[np.bool_]:
        """Return which examples are right and certified at a radius, (n,)."""
        right = self.examples["prediction"].to_numpy() == self._labels
        holds: npt.NDArray[np.bool_] = right & (self.examples["radius"].to_numpy() >= radius)
        return holds

    def _beyond(self, radius: float) -> str:
        """Return why nothing is known at a radius, or "" ."""
        of = self.certificate
        if radius <= of.reach:
            return ""
        how = "that was tried" if of.n is None else f"that {of.n:,} samples at noise {of.noise:g} can certify"
        return f"beyond {of.reach:.4g}, the largest radius {how}"


def read_certificate(folder: str | os.PathLike[str]) -> CertifiedResult:
    """Read what :meth:`CertifiedResult.save` or :func:`art_classwise.certify` wrote.

    Args:
        folder: The folder: a path, or an address.

    Raises:
        InputError: It holds no certificate, the file is damaged, or certifying isn't finished.
    """
    found = read_stored(folder)
    if found is None:
        raise InputError(f"{open_folder(folder).where(FILE)} doesn't exist: name the folder of a certificate.")
    if len(found.examples) < found.certificate.n_examples:
        raise InputError(
            f"{open_folder(folder).where(FILE)} isn't finished: {len(found.examples):,} of "
            f"{found.certificate.n_examples:,} examples are there. Repeat the call that made it, which goes on."
        )
    return found


def read_stored(folder: str | os.PathLike[str]) -> CertifiedResult | None:
    """Return a certificate that may be unfinished; None where there is none.

    Raises:
        InputError: The file is damaged.
    """
    place = open_folder(folder)
    if not place.exists(FILE):
        return None
    return parsed(place.read(FILE), place.where(FILE))


def parsed(content: bytes, where: str) -> CertifiedResult:
    """Return a certificate, which may be unfinished, from what its file holds, which may come from anyone.

    Args:
        content: What ``certificate.json`` holds.
        where: The file's address.

    Raises:
        InputError: The file is damaged, or its numbers contradict each other.
    """
    try:
        stored = _Stored.model_validate_json(content)
    except ValidationError as error:
        raise InputError(f"{where} {validation_message(error)}. Remove it, and certify again.") from error
    columns: Mapping[str, tuple[Any, ...]] = {name: getattr(stored, name) for name in _COLUMNS}
    lengths, n_classes = {len(column) for column in columns.values()}, len(stored.classes)
    most = max([*stored.label, *stored.prediction], default=0)
    least = min([*stored.label, *(k + 1 for k in stored.prediction)], default=0)
    if len(lengths) != 1 or max(lengths) > stored.n_examples or least < 0 or most >= n_classes:
        raise InputError(
            f"{where} is damaged: its examples don't fit its {n_classes} classes. Remove it, and certify again."
        )
    types = {name: np.float64 if name == "radius" else np.int64 for name in _COLUMNS}
    examples = pd.DataFrame({name: np.asarray(column, dtype=types[name]) for name, column in columns.items()})
    wrong = _contradiction(stored, examples)
    if wrong:
        raise InputError(f"{where} is damaged: {wrong}. Remove it, and certify again.")
    settings = {name: getattr(stored, name) for name in Certificate.model_fields}
    return CertifiedResult(examples, Certificate(**settings), stored.environments)


_ROUNDING = 1e-6  # relative, of radii that other releases of SciPy computed


def _contradiction(of: Certificate, examples: pd.DataFrame) -> str:
    """Say what contradicts what in a certificate, or nothing: radii follow from whole numbers of votes."""
    radius, prediction = examples["radius"].to_numpy(), examples["prediction"].to_numpy()
    if (radius > of.reach * (1 + _ROUNDING)).any():
        return f"it has radii beyond its reach, {of.reach:g}"
    if of.method != "smoothing":
        given = [name for name in ("noise", "n", "n_selection", "seed") if getattr(of, name) is not None]
        return f"bounds have no {(*given, 'alpha')[0]}" if given or of.alpha else ""
    if of.norm != "L2" or of.noise is None or of.n is None or of.n_selection is None or of.seed is None or not of.alpha:
        return "smoothing certifies in L2, and has noise, n, n_selection, alpha and seed"
    if 1 - 2 * of.alpha == 1:
        return f"alpha, {of.alpha:g}, is below what floats can tell from 0"
    reach = Smoothing(of.noise, of.n, of.n_selection, of.alpha, of.seed).reach
    if not np.isclose(of.reach, reach, rtol=_ROUNDING, atol=0):
        return f"with its noise, n and alpha radii reach to {reach:g}, but it says {of.reach:g}"
    if ((prediction < 0) != (radius == 0)).any():
        return "examples without a prediction have the radius 0, and no others do"
    certified = radius[radius > 0]
    votes = votes_of(certified, of.n, of.noise, of.alpha)
    possible = certified_radius(votes, of.n, of.noise, of.alpha)
    if not np.isclose(certified, possible, rtol=_ROUNDING, atol=0).all():
        return f"no number of {of.n:,} votes has some of its radii"
    return ""


def _ball(norm: str, threat: ThreatModel) -> float:
    """Return the radius in a certificate's norm that holds all of a threat model's ball."""
    if not threat.is_ball:
        raise InputError("The audit is of corruptions, which have no radius to certify.")
    if norm == "L2" and threat.norm == "Linf":
        raise InputError(
            f"The certificate is of L2 and the audit of {threat}: an L2 ball that holds the Linf one is far larger. "
            "Audit in L2."
        )
    return threat.eps  # an L2 ball holds the L1 ball of its radius, and a Linf ball both
