"""The manifest of an audit: all that decides its outcomes, and where they were computed."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import pandas as pd
from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema, model_validator

from art_classwise._core.plain_values import differences
from art_classwise._core.records import Record, validation_message
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.corrupted import ALL_CORRUPTIONS, MEAN_CORRUPTION
from art_classwise.audit.plan import Plan
from art_classwise.audit.probes import Probe
from art_classwise.audit.provenance import Environment, fingerprint, is_fingerprint, weights_fingerprint
from art_classwise.errors import InputError, check_name
from art_classwise.threat import ThreatModel

__all__ = ["Attack", "Examples", "Manifest", "ModelSource", "Published"]

_FORMAT: Final = "art-classwise audit"
_SCHEMA: Final = 2
_DIGEST = re.compile("[0-9a-f]{64}")
# More than any audit has: a reader would count them for hours.
_MOST_SHARDS, _MOST_UNITS = 1_000_000, 10_000_000
_MOST_NAMES, _MOST_CLASSES, _MOST_ENVIRONMENTS = 10_000, 100_000, 4_096


def _checked_fingerprint(value: str) -> str:
    if not is_fingerprint(value):  # it becomes the name of a folder
        raise InputError(f"a fingerprint must be 32 hexadecimal digits, but is {value!r}"[:200])
    return value


def _checked_name(value: str) -> str:
    check_name("model, attack or class", value)
    return value


Fingerprint = Annotated[
    str, AfterValidator(_checked_fingerprint), WithJsonSchema({"type": "string", "pattern": "^[0-9a-f]{32}$"})
]
Name = Annotated[str, AfterValidator(_checked_name), WithJsonSchema({"type": "string", "minLength": 1})]
Share = Annotated[float, Field(ge=0, le=1)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""SHA-256, as ``sha256sum`` prints it."""


class Examples(Record):
    """Which examples were attacked.

    Attributes:
        dataset: Name of the data set.
        split: E.g. ``"test"``.
        n: How many; for models with examples of their own, how many in all.
        fingerprint: See :func:`art_classwise.audit.provenance.data_fingerprint`; None where it isn't known.
        saved: Whether :meth:`art_classwise.AuditResult.save` wrote the folder, so that no audit continues there.
        files: SHA-256 of the files that they were read from, by name; of a folder of images one for all, see
            :func:`art_classwise.audit.provenance.file_digests`. Nothing where they aren't known.
    """

    dataset: str
    split: str
    n: Annotated[int, Field(ge=1, lt=2**63)]
    fingerprint: Fingerprint | None = None
    saved: bool = False
    files: dict[str, Digest] = Field(default_factory=dict)


class Attack(Record):
    """An attack of an audit.

    Attributes:
        fingerprint: Of its name and parameters; where broken examples leave, of those before it, too.
        parameters: Its class and parameters, plain values.
    """

    fingerprint: Fingerprint
    parameters: dict[str, Any]


class Published(Record):
    """What is published of a model.

    Attributes:
        source: Where, e.g. ``"robustbench:cifar10/Linf/Wong2020Fast"``.
        norm: Norm of its threat model, or what stands in its place there.
        eps: The radius.
        clean: Clean accuracy, a fraction.
        robust: Robust accuracy under AutoAttack within ``eps``, a fraction.
    """

    source: str
    norm: str
    eps: Annotated[float, Field(gt=0)] | None
    clean: Share | None
    robust: Share | None

    @model_validator(mode="after")
    def _has_radius(self) -> Published:
        if self.robust is not None and self.eps is None:
            raise InputError("a robust accuracy is published, but its radius, eps, is missing")
        return self

    @classmethod
    def of(cls, classifier: Any) -> Published | None:
        """Return what is published of a model, if :func:`art_classwise.load_robustbench` wrote it there."""
        try:
            return cls.model_validate(getattr(classifier, "published", None))
        except ValidationError:  # an attribute of the user's
            return None


class ModelSource(Record):
    """What a model is: told by the one who loaded it, and by its network.

    Attributes:
        file: Name of its file of weights, or where they are from; None of a network that was given as it is.
        architecture: A name that :func:`art_classwise.build` knows, or the network's class.
        n_weights: Number of its weights, buffers not among them.
        weights: See :func:`art_classwise.audit.provenance.weights_fingerprint`: of the weights alone, whatever the
            network around them, where ``Manifest.models`` has the fingerprint of both.
        trained_at: The threat model it was trained against, where its file says so.
        sha256: Of the file of weights, as ``sha256sum`` prints it; None where there was none, or several.
    """

    file: str | None
    architecture: str
    n_weights: Annotated[int, Field(ge=0)]
    weights: Fingerprint
    trained_at: ThreatModel | None = None
    sha256: Digest | None = None

    @classmethod
    def of(cls, classifier: Any) -> ModelSource:
        """Describe an ART ``PyTorchClassifier``; what loaded it may have left word in its attribute ``origin``."""
        network = classifier.model
        origin = getattr(classifier, "origin", None)
        told = origin if isinstance(origin, Mapping) else {}
        file, architecture, sha256 = (told.get(name) for name in ("file", "architecture", "sha256"))
        return cls(
            file=file if isinstance(file, str) else None,
            architecture=architecture if isinstance(architecture, str) else type(network).__qualname__,
            n_weights=sum(p.numel() for p in network.parameters()),
            weights=weights_fingerprint(network),
            trained_at=cls.told_threat(classifier),
            sha256=sha256 if isinstance(sha256, str) and _DIGEST.fullmatch(sha256) else None,
        )

    @staticmethod
    def told_threat(classifier: Any) -> ThreatModel | None:
        """Return the threat model that a classifier was trained against, as what loaded it says in ``origin``."""
        origin = getattr(classifier, "origin", None)
        told = origin.get("threat") if isinstance(origin, Mapping) else None
        try:
            return ThreatModel.parse(told) if isinstance(told, str) else None
        except InputError:  # an attribute of the user's
            return None


class Manifest(Record):
    """What an audit says of itself: all that decides the outcomes, and where they were computed.

    Attributes:
        threat: The threat model.
        seed: Of the attacks.
        worst_case: Whether an example leaves once broken.
        shard_size: Examples per shard.
        examples: Which examples were attacked.
        classes: The class names.
        models: The models' fingerprints by name.
        attacks: The attacks by name, in order.
        created: When the audit was begun, ISO 8601.
        environments: Versions and hardware of all processes that took part, without repetition.
        commands: The command lines that asked for it.
        probes: What was tried on the networks themselves, by the models' names.
        published: What is published of models, by their names.
        plan: How models, data and attacks are loaded by whichever process computes, if the audit was planned.
        sources: Files, architectures and sizes of models, by their names, as far as they are known.
        files: SHA-256 of each file of outcomes, images and certificates, by its name within the folder: what
            :func:`art_classwise.audit.collect` lists once the audit is finished.
        saved_from: Root digests of the audits that saved outcomes are from.
        lists_certificates: Whether ``files`` has certificates, too, so that another one in the folder is a stranger's:
            earlier releases listed none.
    """

    format: Literal["art-classwise audit"] = _FORMAT
    schema_version: Literal[2] = Field(default=_SCHEMA, alias="schema")
    threat: ThreatModel
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    worst_case: bool
    shard_size: Annotated[int, Field(ge=1, lt=2**63)]
    examples: Examples
    classes: Annotated[tuple[Name, ...], Field(max_length=_MOST_CLASSES)]
    models: Annotated[dict[Name, Fingerprint], Field(max_length=_MOST_NAMES)]
    attacks: Annotated[dict[Name, Attack], Field(max_length=_MOST_NAMES)]
    created: str
    environments: Annotated[tuple[Environment, ...], Field(max_length=_MOST_ENVIRONMENTS)]
    commands: Annotated[tuple[str, ...], Field(max_length=_MOST_NAMES)]
    probes: Annotated[dict[Name, Probe], Field(max_length=_MOST_NAMES)]
    published: Annotated[dict[Name, Published], Field(max_length=_MOST_NAMES)]
    plan: Plan | None = None
    sources: Annotated[dict[Name, ModelSource], Field(max_length=_MOST_NAMES)] = Field(default_factory=dict)
    files: Annotated[dict[str, Digest], Field(max_length=_MOST_UNITS)] = Field(default_factory=dict)
    saved_from: Annotated[tuple[Digest, ...], Field(max_length=_MOST_NAMES)] = ()
    lists_certificates: bool = False

    @model_validator(mode="after")
    def _is_plausible(self) -> Manifest:
        if self.n_shards > _MOST_SHARDS:
            raise InputError(f"there are {self.examples.n} examples in shards of {self.shard_size}")
        if len(self.models) * (1 + len(self.attacks)) * self.n_shards > _MOST_UNITS:
            raise InputError(
                f"{len(self.models)} models under {len(self.attacks)} attacks in {self.n_shards} shards are more than "
                f"{_MOST_UNITS:,} units"
            )
        if len(set(self.classes)) < len(self.classes):
            raise InputError("a class name appears twice")
        for name in (WORST_CASE, MEAN_CORRUPTION, ALL_CORRUPTIONS):
            if name in self.attacks:
                raise InputError(f"an attack is named {name!r}, which is reserved for several of them together")
        return self

    @classmethod
    def begun(cls, **fields: Any) -> Manifest:
        """Return the manifest of an audit that begins now, without models, attacks and what is known of them.

        Args:
            fields: Those that differ.

        Raises:
            InputError: A value isn't allowed.
        """
        empty: dict[str, Any] = {"models": {}, "attacks": {}, "probes": {}, "published": {}}
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        try:
            return cls(**{**empty, "environments": (), "commands": (), "created": now, **fields})
        except ValidationError as error:
            raise InputError(f"The audit can't be described: its manifest {validation_message(error)}.") from error

    @classmethod
    def of_table(
        cls,
        outcomes: pd.DataFrame,
        classes: Sequence[str],
        threat: ThreatModel,
        *,
        attacks: Mapping[str, Mapping[str, Any]] | None = None,
        dataset: str = "unknown",
        split: str = "unknown",
        **fields: Any,
    ) -> Manifest:
        """Describe outcomes that no audit of this package made.

        Args:
            outcomes: As in :class:`art_classwise.AuditResult`.
            classes: The class names.
            threat: The threat model.
            attacks: Parameters of the attacks, as far as they are known.
            dataset: Name of the data set.
            split: E.g. ``"test"``.
            fields: Others of :class:`Manifest`, such as ``seed``, 0 if absent.

        Raises:
            InputError: A value isn't allowed.
        """
        known, n = attacks or {}, int(outcomes["example"].nunique())
        names = [str(name) for name in outcomes["attack"].cat.categories]
        made: dict[str, Any] = {
            "threat": threat,
            "seed": 0,
            "worst_case": False,
            "shard_size": n,
            "examples": Examples(dataset=dataset, split=split, n=n),
            "classes": tuple(classes),
            "models": {str(m): name_fingerprint(str(m)) for m in outcomes["model"].cat.categories},
            "attacks": {a: described(a, known.get(a, {})) for a in names},
        }
        return cls.begun(**made | fields)

    @property
    def n_shards(self) -> int:
        """Shards per model and attack."""
        return -(-self.examples.n // self.shard_size)

    @property
    def command(self) -> str | None:
        """The command line that asked for the audit last, if one did."""
        return self.commands[-1] if self.commands else None

    def parameters(self, attack: str) -> dict[str, Any]:
        """Return an attack's class and parameters, plain values; nothing where they aren't known."""
        return self.attacks[attack].parameters if attack in self.attacks else {}

    def part(self, models: Iterable[str], attacks: Iterable[str]) -> Manifest:
        """Return what it says of some of the models and attacks."""
        kept = {name: self.models[name] for name in models}
        return self.updated(
            models=kept,
            attacks={name: self.attacks[name] for name in attacks},
            probes=_only(self.probes, kept),
            published=_only(self.published, kept),
            sources=_only(self.sources, kept),
        )

    def extended(self, requested: Manifest) -> Manifest:
        """Return what a folder of this audit says once another is requested there, too.

        Raises:
            InputError: The two can't lie in one folder; the difference is named.
        """
        if self.examples.saved:
            raise InputError("it holds a saved result, which no audit can continue")
        other = differences(self._identity(), requested._identity())
        known = set(self.models) & set(requested.models)
        other += [f"the network of the model {m!r} was another" for m in known if self.models[m] != requested.models[m]]
        for name in set(self.attacks) & set(requested.attacks):
            then, now = self.attacks[name], requested.attacks[name]
            if then.parameters != now.parameters:
                found = differences(then.parameters, now.parameters) or ["its parameters were others"]
                other += [f"of the attack {name!r}, {difference}" for difference in found]
        if self.worst_case and not other:
            mine, theirs = list(self.attacks), list(requested.attacks)
            shorter = min(len(mine), len(theirs))
            if mine[:shorter] != theirs[:shorter]:
                other.append(f"the attacks were {', '.join(mine)}, in this order, but are {', '.join(theirs)}")
        if other:
            raise InputError(
                f"it is another audit: {'; '.join(other[:3])}{f'; and {len(other) - 3} more' if other[3:] else ''}"
            )
        is_new = not (self.models.keys() >= requested.models.keys() and self.attacks.keys() >= requested.attacks.keys())
        return self.updated(
            models=self.models | requested.models,
            attacks=self.attacks | requested.attacks,
            environments=_union(self.environments, requested.environments),
            # Asked for once more it is the same audit, whatever the options of the terminal.
            commands=_union(self.commands, requested.commands) if is_new or not self.commands else self.commands,
            probes=self.probes | requested.probes,
            published=self.published | requested.published,
            plan=self._planned_with(requested.plan),
            sources=self.sources | requested.sources,
        )

    def _planned_with(self, plan: Plan | None) -> Plan | None:
        """Return the plan of an audit that is planned once more, with more models or attacks."""
        if self.plan is None or plan is None:
            return plan or self.plan
        attacks = plan.attacks
        if isinstance(self.plan.attacks, tuple) and isinstance(attacks, tuple):
            attacks = _union(self.plan.attacks, attacks)
        seconds = {**self.plan.seconds, **plan.seconds}
        return plan.updated(
            models=self.plan.models | plan.models,
            attacks=attacks,
            seconds=seconds,
            corruptions=_union(self.plan.corruptions, plan.corruptions),
        )

    def completed(self, environments: Iterable[Environment], probes: Mapping[str, Probe]) -> Manifest:
        """Return it with what those who computed wrote down beside it.

        Args:
            environments: Their versions and hardware.
            probes: What was tried on networks, by their fingerprints.
        """
        found = {name: probes[model] for name, model in self.models.items() if model in probes}
        return self.updated(environments=_union(self.environments, tuple(environments)), probes=self.probes | found)

    def _identity(self) -> dict[str, Any]:
        of = self.examples
        known = "" if of.fingerprint is None else f", fingerprint {of.fingerprint[:8]}"
        return {
            "the threat model": f"{self.threat.norm}:{self.threat.eps!r}",
            "seed": self.seed,
            "worst_case": self.worst_case,
            "the shard size": self.shard_size,
            "the choice of examples": f"{of.n} of {of.dataset} ({of.split}){known}",
            "classes": self.classes,
        }

    def to_json(self) -> str:
        """Return it as text."""
        content = self.model_dump(mode="json", by_alias=True)
        if not self.lists_certificates:
            del content["lists_certificates"]  # as earlier releases wrote it, byte for byte: it has a root digest
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read it from text that may come from anyone.

        Raises:
            InputError: It is damaged, of another schema, or holds something else than an audit's manifest does.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"is damaged: {error}") from error
        if not isinstance(content, dict) or "schema" not in content:
            raise InputError("is not from an audit: it has no schema version")
        if content["schema"] != _SCHEMA:
            raise InputError(
                f"is of schema {content['schema']!r}, but this release reads {_SCHEMA}: move it away and run the audit "
                "again"
            )
        if content.get("format") != _FORMAT:
            raise InputError(f"is not from an audit: its format isn't {_FORMAT!r}")
        _complete_older(content)
        try:
            manifest = cls.model_validate_json(json.dumps(content))
        except ValidationError as error:
            raise InputError(f"{validation_message(error)}. {_HOW_TO_GO_ON}") from error
        for what in ("models", "attacks", "classes"):
            if not getattr(manifest, what):
                raise InputError(f"is damaged: it has no {what}. {_HOW_TO_GO_ON}")
        return manifest


_HOW_TO_GO_ON = "Restore it from a copy, or run the audit again in another folder"


def _complete_older(content: dict[str, Any]) -> None:
    """Add what earlier releases didn't write, and leave out probes of a later one: the network is tried anew."""
    content.setdefault("published", {})
    probes = content.setdefault("probes", {})
    if isinstance(probes, dict):
        read = {name: Probe.completed(p) if isinstance(p, dict) else p for name, p in probes.items()}
        content["probes"] = {name: probe for name, probe in read.items() if probe is not None}
    examples = content.get("examples")
    if isinstance(examples, dict):
        examples.setdefault("saved", examples.get("fingerprint") is None)


def described(name: str, parameters: Mapping[str, Any]) -> Attack:
    """Return how a manifest describes an attack on its own."""
    return Attack(fingerprint=fingerprint([name, parameters]), parameters=dict(parameters))


def name_fingerprint(model: str) -> str:
    """Return what stands for the fingerprint of a model of which only the name is known."""
    return fingerprint(["a model by name", model])


def _only(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}


def _union(first: tuple[Any, ...], second: tuple[Any, ...]) -> tuple[Any, ...]:
    return first + tuple(item for item in second if item not in first)
