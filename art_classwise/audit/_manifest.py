"""Checks of what a manifest holds, which may come from anyone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from art_classwise._core.plain_values import differences
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit._probes import Probe
from art_classwise.errors import InputError, check_name, check_number, check_positive, check_seed, check_whole
from art_classwise.threat import ThreatModel

__all__ = [
    "FINGERPRINT",
    "Attack",
    "Examples",
    "Manifest",
    "as_dict",
    "as_kind",
    "check_environment",
    "check_fingerprint",
    "check_keys",
    "check_published",
]

FINGERPRINT = re.compile(r"[0-9a-f]{32}")
"""What tells models, attacks and examples apart, and names folders."""


def check_keys(where: str, content: object, keys: Iterable[str]) -> None:
    """Check that a part of a manifest, named as in ``"threat."``, has these keys and no other."""
    known = [*keys]
    given = as_dict(where.rstrip("."), content)
    lacking, foreign = [k for k in known if k not in given], [k for k in given if k not in known]
    if lacking:
        raise InputError(f"is damaged: it lacks {where}{lacking[0]}")
    if foreign:
        raise InputError(f"holds {where}{foreign[0]!r}, which is not part of an audit")


def as_dict(what: str, value: object) -> dict[str, Any]:
    """Return a value, if it is a dict."""
    given: dict[str, Any] = as_kind(what or "it", value, dict)
    return given


def as_kind(what: str, value: object, kind: type) -> Any:
    """Return a value, if it is of a type."""
    if not isinstance(value, kind):
        raise InputError(f"is damaged: {what} must be a {kind.__name__}, but is {value!r}"[:200])
    return value


def check_fingerprint(value: object) -> str:
    """Check what becomes the name of a folder."""
    if not isinstance(value, str) or not FINGERPRINT.fullmatch(value):
        raise InputError(f"a fingerprint must be 32 hexadecimal digits, but one is {value!r}"[:200])
    return value


def check_published(name: str, value: object) -> dict[str, Any]:
    """Return what is published of a model, if it is what a manifest holds of it.

    Raises:
        InputError: It isn't.
    """
    where = f"published.{name}."
    check_keys(where, value, ("source", "norm", "eps", "clean", "robust"))
    told = as_dict(where, value)
    for key in ("source", "norm"):
        as_kind(where + key, told[key], str)
    for key in ("clean", "robust"):
        if told[key] is not None:
            check_number(where + key, told[key], 0, 1)
    if told["eps"] is not None or told["robust"] is not None:
        check_positive(where + "eps", told["eps"])
    return told


_ENVIRONMENT: dict[str, Callable[[Any], bool]] = {
    "python": lambda v: isinstance(v, str),
    "versions": lambda v: isinstance(v, Mapping) and all(isinstance(i, str) for i in v.values()),
    "system": lambda v: isinstance(v, str),
    "cpu": lambda v: isinstance(v, str),
    "cpu_cores": lambda v: v is None or isinstance(v, int),
    "torch_threads": lambda v: isinstance(v, int),
    "gpus": lambda v: isinstance(v, list) and all(isinstance(g, str) for g in v),
}


def check_environment(value: object) -> dict[str, Any]:
    """Return versions and hardware, if they are what :func:`art_classwise.audit.provenance.environment` returns."""
    check_keys("environments.", value, _ENVIRONMENT)
    environment = as_dict("environments", value)
    for key, fits in _ENVIRONMENT.items():
        if not fits(environment[key]):
            raise InputError(f"is damaged: environments.{key} is {environment[key]!r}"[:200])
    return environment


_FORMAT, _SCHEMA = "art-classwise audit", 2
_MOST_SHARDS = 1_000_000  # more than any audit has: a reader would count them for hours


@dataclass(frozen=True)
class Examples:
    """Which examples were attacked.

    Attributes:
        dataset: Name of the data set.
        split: E.g. ``"test"``.
        n: How many; for models with examples of their own, how many in all.
        fingerprint: See :func:`art_classwise.audit.provenance.data_fingerprint`; None where it isn't known.
        saved: Whether a result was saved there, on which no audit goes on.
    """

    dataset: str
    split: str
    n: int
    fingerprint: str | None
    saved: bool = False


@dataclass(frozen=True)
class Attack:
    """An attack of an audit.

    Attributes:
        fingerprint: Of its name and parameters; where broken examples leave, of those before it, too.
        parameters: Its class and parameters, plain values.
    """

    fingerprint: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """What an audit's folder says of itself: all that decides the outcomes, and where they were computed.

    Attributes:
        threat: The threat model.
        seed: Of the attacks.
        worst_case: Whether an example leaves once broken.
        shard_size: Examples per shard.
        examples: Which examples were attacked.
        classes: The class names.
        models: The models' fingerprints by name.
        attacks: The attacks by name, in order.
        created: When the audit was begun.
        environments: Versions and hardware of all processes that took part, without repetition.
        commands: The command lines that asked for it.
        probes: What was tried on the networks themselves, by the models' names.
        published: What is published of models, by their names: ``source``, and where known ``clean`` and ``robust``
            accuracy (fractions), the latter within ``eps`` of ``norm`` under AutoAttack.
    """

    threat: ThreatModel
    seed: int
    worst_case: bool
    shard_size: int
    examples: Examples
    classes: tuple[str, ...]
    models: dict[str, str]
    attacks: dict[str, Attack]
    created: str
    environments: list[dict[str, Any]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    probes: dict[str, dict[str, Any]] = field(default_factory=dict)
    published: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def n_shards(self) -> int:
        """Shards per model and attack."""
        return -(-self.examples.n // self.shard_size)

    def extended(self, asked: Manifest) -> Manifest:
        """Return what a folder of this audit says once it is asked for another, too.

        Raises:
            InputError: The two can't lie in one folder; the difference is named.
        """
        if self.examples.saved:
            raise InputError("it holds a saved result, which no audit can continue")
        other = differences(self._identity(), asked._identity())
        known = set(self.models) & set(asked.models)
        other += [f"the network of the model {m!r} was another" for m in known if self.models[m] != asked.models[m]]
        for name in set(self.attacks) & set(asked.attacks):
            then, now = self.attacks[name], asked.attacks[name]
            if then.parameters != now.parameters:
                other += differences(then.parameters, now.parameters, f"the attack {name!r}'s") or [f"attack {name!r}"]
        if self.worst_case and not other:
            mine, theirs = list(self.attacks), list(asked.attacks)
            shorter = min(len(mine), len(theirs))
            if mine[:shorter] != theirs[:shorter]:
                other.append(f"the attacks were {', '.join(mine)}, in this order, but are {', '.join(theirs)}")
        if other:
            raise InputError(
                f"it is another audit: {'; '.join(other[:3])}{f'; and {len(other) - 3} more' if other[3:] else ''}"
            )
        return replace(
            self,
            models=self.models | asked.models,
            attacks=self.attacks | asked.attacks,
            environments=_union(self.environments, asked.environments),
            commands=_union(self.commands, asked.commands),
            probes=self.probes | asked.probes,
            published=self.published | asked.published,
        )

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

    def info(self, command: str | None = None) -> dict[str, Any]:
        """Return it as :class:`AuditResult` shows it."""
        return {
            "dataset": self.examples.dataset,
            "split": self.examples.split,
            "n_examples": self.examples.n,
            "data": self.examples.fingerprint,
            "seed": self.seed,
            "worst_case": self.worst_case,
            "models": dict(self.models),
            "attacks": {name: attack.parameters for name, attack in self.attacks.items()},
            "created": self.created,
            "environments": self.environments,
            "probes": {name: probe for name, probe in self.probes.items() if name in self.models},
            "published": {name: told for name, told in self.published.items() if name in self.models},
            "command": command or (self.commands[-1] if self.commands else None),
        }

    def to_json(self) -> str:
        """Return it as text."""
        content = asdict(self) | {"threat": {"norm": self.threat.norm, "eps": self.threat.eps}}
        text = json.dumps({"format": _FORMAT, "schema": _SCHEMA, **content}, indent=2, ensure_ascii=False)
        return text + "\n"

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
        schema = content.pop("schema")
        if schema != _SCHEMA:
            raise InputError(
                f"is of schema {schema!r}, but this release reads {_SCHEMA}: move it away and run the audit again"
            )
        if content.pop("format", None) != _FORMAT:
            raise InputError(f"is not from an audit: its format isn't {_FORMAT!r}")
        content = {"probes": {}, "published": {}} | content  # older folders have none
        check_keys("", content, cls.__dataclass_fields__)
        examples = as_dict("examples", content["examples"])
        examples.setdefault("saved", examples.get("fingerprint") is None)  # earlier releases didn't say it
        check_keys("examples.", examples, Examples.__dataclass_fields__)
        check_keys("threat.", content["threat"], ("norm", "eps"))
        for name, attack in as_dict("attacks", content["attacks"]).items():
            check_keys(f"attacks.{name}.", attack, Attack.__dataclass_fields__)
        try:
            return cls._from(content)
        except (TypeError, ValueError) as error:
            raise InputError(f"is damaged: {str(error).removeprefix('is damaged: ')}") from error

    @classmethod
    def _from(cls, content: dict[str, Any]) -> Manifest:
        examples = Examples(**content["examples"])
        check_whole("examples.n", examples.n, 1)
        as_kind("examples.saved", examples.saved, bool)
        check_whole("shard_size", content["shard_size"], 1)
        if examples.n / content["shard_size"] > _MOST_SHARDS:
            raise InputError(f"says that there are {examples.n} examples in shards of {content['shard_size']}")
        check_seed(content["seed"])
        for name in (examples.dataset, examples.split, content["created"]):
            as_kind("a name or date", name, str)
        if examples.fingerprint is not None:
            check_fingerprint(examples.fingerprint)
        attacks = {
            name: Attack(check_fingerprint(a["fingerprint"]), as_dict(f"attacks.{name}.parameters", a["parameters"]))
            for name, a in content["attacks"].items()
        }
        models = {name: check_fingerprint(value) for name, value in as_dict("models", content["models"]).items()}
        classes = tuple(as_kind("classes", content["classes"], list))
        for kind, names in (("attack", attacks), ("model", models), ("class", classes)):
            for name in names:
                check_name(kind, name)
        if not (models and attacks and classes):
            raise InputError("there is no model, no attack or no class")
        if len(set(classes)) < len(classes):
            raise InputError("a class name appears twice")
        if WORST_CASE in attacks:
            raise InputError(f"an attack is named {WORST_CASE!r}, which is reserved for all of them together")
        return cls(
            threat=ThreatModel(content["threat"]["norm"], content["threat"]["eps"]),
            seed=content["seed"],
            worst_case=as_kind("worst_case", content["worst_case"], bool),
            shard_size=content["shard_size"],
            examples=examples,
            classes=classes,
            models=models,
            attacks=attacks,
            created=content["created"],
            environments=[check_environment(e) for e in as_kind("environments", content["environments"], list)],
            commands=[as_kind("commands", c, str) for c in as_kind("commands", content["commands"], list)],
            probes={
                name: probe.plain()
                for name, plain in as_dict("probes", content["probes"]).items()
                if (probe := Probe.from_plain(as_dict(f"probes.{name}", plain))) is not None  # else it is tried anew
            },
            published={
                name: check_published(name, p) for name, p in as_dict("published", content["published"]).items()
            },
        )


def _union(first: list[Any], second: list[Any]) -> list[Any]:
    return first + [item for item in second if item not in first]
