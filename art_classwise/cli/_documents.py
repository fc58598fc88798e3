"""The shapes of the documents that ``--json`` prints, by kind: what their JSON Schemas are made from.

A document may have more fields than these: they may be added without another version of the schema.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from art_classwise._core.records import Record
from art_classwise.audit.manifest import Digest

__all__ = ["DOCUMENTS", "Document"]

Share = Annotated[float, Field(ge=0, le=1)] | None
Number = float | None
Count = Annotated[int, Field(ge=0)]


class _Part(Record):
    """A part of a document; later releases may add fields."""

    model_config = ConfigDict(extra="allow")


class Document(_Part):
    """What all documents begin with.

    Attributes:
        schema_version: Version of the documents' shapes, ``schema`` in JSON.
        kind: Of the document.
        art_classwise: The package's version.
    """

    schema_version: Literal[2] = Field(alias="schema")
    kind: str
    art_classwise: str


class VerdictPart(_Part):
    """What came of a requirement: see :class:`art_classwise.audit.Verdict`."""

    requirement: str
    measure: str
    operator: Literal[">=", ">", "<=", "<", "=="]
    bound: float
    model: str | None
    other: str | None
    about: str
    value: Number
    low: Number
    high: Number
    confidence: Share
    n: Count
    met: bool
    state: Literal["met", "not met", "not judged"]
    reason: str | None


class _Judged(Document):
    """A document that may hold requirements: both fields are there, or neither."""

    requirements: tuple[VerdictPart, ...] = ()
    met: bool = True


class ClassRow(_Part):
    """A row of :meth:`art_classwise.AuditResult.class_table`."""

    n: Count
    clean: Share
    clean_low: Share
    clean_high: Share
    robust: Share
    robust_low: Share
    robust_high: Share


class NamedClassRow(ClassRow):
    """The row of a class."""

    class_name: str = Field(alias="class")


class GroupRow(ClassRow):
    """The row of a group of classes."""

    group: str


class AttackPart(_Part):
    """A model's class accuracies under an attack, or under ``"all attacks"``."""

    name: str
    classes: tuple[NamedClassRow, ...]


class ClassDistanceRow(_Part):
    """A row of :meth:`art_classwise.AuditResult.distances`."""

    class_name: str = Field(alias="class")
    n: Count
    right: Count
    median: Number
    low: Number
    high: Number
    half: Number
    half_low: Number
    half_high: Number


class ClassAtRadius(_Part):
    """A class at a radius: see :meth:`art_classwise.AuditResult.robust_at`."""

    class_name: str = Field(alias="class")
    n: Count
    robust: Share
    low: Share
    high: Share
    unknown: str


class RadiusPart(_Part):
    """All classes at a radius."""

    eps: Annotated[float, Field(ge=0)]
    classes: tuple[ClassAtRadius, ...]


class DistancesPart(_Part):
    """The smallest perturbations of a model's examples."""

    searched: Number
    classes: tuple[ClassDistanceRow, ...]
    radii: tuple[RadiusPart, ...]


class ModelPart(_Part):
    """A model of an audit: a row of :meth:`art_classwise.AuditResult.summary`, and its classes."""

    name: str
    clean: Share
    clean_low: Share
    clean_high: Share
    mean: Share
    mean_low: Share
    mean_high: Share
    worst: Share
    worst_class: str
    held_out: Share
    worst_low: Share
    worst_high: Share
    left_out: Count
    p: Share
    tail20: Share
    cv: Share
    mcd: Share
    sd: Share
    nsd: Number
    gini: Share
    trained_at: str | None = None
    attacks: tuple[AttackPart, ...]
    groups: tuple[GroupRow, ...] = ()
    distances: DistancesPart | None = None


class CostPart(_Part):
    """A row of :meth:`art_classwise.AuditResult.attack_costs`."""

    model: str
    attack: str
    n: Count
    broken: int
    forwards: Number
    backwards: Number
    seconds: Number
    total_seconds: Number
    broken_per_second: Number


class FindingPart(_Part):
    """Something that looks wrong: see :class:`art_classwise.audit.Finding`."""

    model: str | None
    check: str
    saw: str
    advice: str


class CheckPart(_Part):
    """A row of :attr:`art_classwise.AuditResult.checks`."""

    model: str | None
    check: str
    looks_for: str
    result: Literal["found", "nothing found", "not run"]
    tried: Count
    detectable: Share
    explanation: str


class AuditDocument(_Judged):
    """Of ``audit``, ``report``, ``collect`` and ``quickstart``."""

    kind: Literal["audit"]
    dataset: str
    split: str
    examples: Count
    norm: str
    eps: Annotated[float, Field(gt=0)]
    seed: Count
    worst_case: bool
    finished: bool
    root: Digest | None = None
    missing: tuple[str, ...] = ()
    costs: tuple[CostPart, ...] = ()
    command: str | None
    classes: tuple[str, ...]
    attacks: tuple[str, ...]
    models: tuple[ModelPart, ...]
    findings: tuple[FindingPart, ...]
    checks: tuple[CheckPart, ...]
    strongly_attacked: tuple[str, ...]
    unchecked: tuple[str, ...]
    files: dict[str, str]


class RadiusRow(_Part):
    """A row of :meth:`art_classwise.studies.RadiusSweep.table`."""

    model: str
    threat: str
    norm: str
    eps: Annotated[float, Field(gt=0)]
    n: Count
    clean: Share
    mean: Share
    worst: Share
    worst_class: str


class EmbeddedAudit(_Part):
    """An audit within another document: without what documents begin with."""

    norm: str
    eps: Annotated[float, Field(gt=0)]
    models: tuple[ModelPart, ...]
    findings: tuple[FindingPart, ...]


class RadiiDocument(_Judged):
    """Of ``audit`` with several radii."""

    kind: Literal["radii"]
    audits: tuple[EmbeddedAudit, ...]
    radii: tuple[RadiusRow, ...]
    files: dict[str, str]


class NormRow(RadiusRow):
    """A row of :meth:`art_classwise.studies.NormUnion.table`; of all norms without a radius."""

    eps: Annotated[float, Field(gt=0)] | None  # type: ignore[assignment]


class NormsDocument(_Judged):
    """Of ``audit`` in several norms."""

    kind: Literal["norms"]
    audits: tuple[EmbeddedAudit, ...]
    norms: tuple[NormRow, ...]
    files: dict[str, str]


class CertifiedClassRow(_Part):
    """A class at a radius: see :meth:`art_classwise.certification.CertifiedResult.certified_at`."""

    class_name: str = Field(alias="class")
    n: Count
    certified: Share
    low: Share
    high: Share


class CertifiedRow(_Part):
    """A row of :meth:`art_classwise.certification.CertifiedResult.summary`, and its classes."""

    radius: Annotated[float, Field(ge=0)]
    mean: Share
    mean_low: Share
    mean_high: Share
    worst_class: str | None
    worst: Share
    held_out: Share
    worst_low: Share
    worst_high: Share
    abstained: Share
    unknown: str
    classes: tuple[CertifiedClassRow, ...]


class CertificateDocument(Document):
    """Of ``certify``."""

    kind: Literal["certificate"]
    model: str
    dataset: str
    split: str
    examples: Count
    norm: Literal["L2", "Linf"]
    method: Literal["smoothing", "interval", "zonotope"]
    noise: Annotated[float, Field(gt=0)] | None
    n: Count | None
    n_selection: Count | None
    alpha: Annotated[float, Field(ge=0, lt=0.5)]
    seed: Count | None
    reach: Annotated[float, Field(ge=0)]
    classes: tuple[str, ...]
    radii: tuple[CertifiedRow, ...]
    files: dict[str, str]
    root: Digest | None = None


class DifferenceRow(_Part):
    """Two accuracies and their difference, the first minus the second, with an interval."""

    first: Share
    second: Share
    difference: Number
    low: Number
    high: Number


class TestedRow(DifferenceRow):
    """The same with the p of McNemar's test, alone and adjusted."""

    p: Share
    p_adjusted: Share


class ClassDifferenceRow(TestedRow):
    """The same of a class."""

    class_name: str = Field(alias="class")
    n: Count


class WorstDifference(DifferenceRow):
    """The same of the worst class of each."""

    first_class: str
    second_class: str
    p: Share
    left_out: Count


class ComparisonPart(_Part):
    """Two models, or two attacks: see :class:`art_classwise.audit.Comparison`."""

    first: str
    second: str
    about: str
    accuracy: Literal["robust", "clean"]
    model: str | None
    attack: str | None
    threat: str | None
    worst_case: bool
    examples: Count
    confidence: Share
    classes: tuple[ClassDifferenceRow, ...]
    overall: TestedRow
    mean: DifferenceRow
    worst_class: WorstDifference


class StandingRow(_Part):
    """A row of :meth:`art_classwise.AuditResult.compare_with_best`."""

    name: str
    accuracy: Share
    difference: Number
    p_adjusted: Share
    rank: int


class Standings(_Part):
    """Three or more models, each with the best of the others."""

    mean: tuple[StandingRow, ...]
    worst: tuple[StandingRow, ...]


class ComparisonDocument(_Judged):
    """Of ``compare``."""

    kind: Literal["comparison"]
    comparisons: tuple[ComparisonPart, ...]
    compared_with_best: Standings | None = None


class LeaderboardRow(_Part):
    """A row of :func:`art_classwise.zoo.robustbench_table`."""

    name: str
    architecture: str | None
    clean: Share
    robust: Share
    external: Share
    eps: Number
    here: bool


class LeaderboardDocument(Document):
    """Of ``zoo``."""

    kind: Literal["leaderboard"]
    dataset: str
    threat_model: str
    model_dir: str
    models: tuple[LeaderboardRow, ...]


class PlaceRow(_Part):
    """A row of :func:`art_classwise.studies.place_on_board`."""

    model: str
    rank: Annotated[int, Field(ge=1)]
    rank_low: Annotated[int, Field(ge=1)]
    rank_high: Annotated[int, Field(ge=1)]
    entries: Annotated[int, Field(ge=1)]
    clean: Share
    robust: Share
    robust_low: Share
    robust_high: Share
    published: str | None


class BoardRow(_Part):
    """A row of :func:`art_classwise.zoo.robustbench_board`."""

    name: str
    rank: Annotated[int, Field(ge=1)]
    architecture: str
    clean: Share
    robust: Share
    external: Share
    eps: Number
    ranked: Share


class RankingDocument(Document):
    """Of ``zoo --rank``."""

    kind: Literal["ranking"]
    dataset: str
    threat_model: str
    models: tuple[PlaceRow, ...]
    board: tuple[BoardRow, ...]


class EpochRow(_Part):
    """An epoch of a training; the validation's columns, and those by class, are there if they were measured."""

    epoch: Annotated[int, Field(ge=1)]
    loss: Number
    clean: Share
    robust: Share
    learning_rate: Number


class TrainingDocument(Document):
    """Of ``train``."""

    kind: Literal["training"]
    recipe: dict[str, Any]
    epoch: Annotated[int, Field(ge=1)]
    history: tuple[EpochRow, ...]
    pseudo_labels: dict[str, Any] | None
    files: dict[str, str]


class InstallationCheck(_Part):
    """Something that ``doctor`` looked at."""

    about: str
    name: str
    state: Literal["ok", "missing", "broken"]
    essential: bool
    says: str
    do: str | None


class DoctorDocument(Document):
    """Of ``doctor``."""

    kind: Literal["doctor"]
    works: bool
    checks: tuple[InstallationCheck, ...]


class CheckedPart(_Part):
    """What ``verify`` checked, and what differed."""

    name: str
    checked: str
    differences: tuple[str, ...]


class RecertifiedPart(_Part):
    """Examples of a certificate that were certified anew, and how many passes through the network that took."""

    model: str
    examples: tuple[int, ...]
    of: Annotated[int, Field(ge=1)]
    passes: Annotated[int, Field(ge=1)]
    exact: bool


class RecomputedPart(_Part):
    """Units computed anew; ``missed`` is the probability to miss a changed share of the units, by the share."""

    units: tuple[str, ...]
    of: Annotated[int, Field(ge=1)]
    seed: int
    exact: bool
    missed: dict[str, Share]
    certificates: tuple[RecertifiedPart, ...] = ()


class VerificationDocument(Document):
    """Of ``verify``."""

    kind: Literal["verification"]
    store: str
    root: Digest | None
    ok: bool
    checks: tuple[CheckedPart, ...]
    differences: tuple[str, ...]
    unchecked: tuple[str, ...]
    recomputed: RecomputedPart | None


DOCUMENTS: Final[dict[str, type[Document]]] = {
    "audit": AuditDocument,
    "radii": RadiiDocument,
    "norms": NormsDocument,
    "certificate": CertificateDocument,
    "comparison": ComparisonDocument,
    "leaderboard": LeaderboardDocument,
    "ranking": RankingDocument,
    "training": TrainingDocument,
    "verification": VerificationDocument,
    "doctor": DoctorDocument,
}
"""The documents' models, by kind."""
