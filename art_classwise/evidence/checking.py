"""Check that an audit is what was written: its files, what they say, its page, and, at random, its outcomes."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from art_classwise._core.fingerprints import digest
from art_classwise._core.folders import is_remote
from art_classwise.audit.corrupted import is_described_corruption
from art_classwise.audit.manifest import Manifest, described
from art_classwise.audit.plan import CLEAN_NAME
from art_classwise.audit.provenance import fingerprint
from art_classwise.audit.saved import finished_shards
from art_classwise.audit.store import DamagedShardError, MissingShardError, Shard, Store
from art_classwise.errors import InputError, printable
from art_classwise.evidence.certificates import certificate_differences
from art_classwise.evidence.page import file_differences
from art_classwise.evidence.recompute import Recomputed, recomputed
from art_classwise.evidence.rows import Columns, attacked_differences, clean_differences, columns

__all__ = ["Verification", "checked_root", "verify"]

_MOST_NAMED = 200  # differences: of a store of another audit, each row differs


@dataclass(frozen=True)
class Verification:
    """What came of checking an audit.

    Attributes:
        place: The folder, or its address.
        root: The SHA-256 of its ``manifest.json``; None where it lists no files.
        checks: What was checked, a sentence by the check's name.
        differences: What isn't as it must be, a sentence each, by the check's name.
        unchecked: What couldn't be checked, and why, a sentence each.
        recomputed: Which units were computed anew, and what that can have missed; None if none was asked for.
    """

    place: str
    root: str | None
    checks: Mapping[str, str]
    differences: Mapping[str, tuple[str, ...]]
    unchecked: tuple[str, ...]
    recomputed: Recomputed | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not any(self.differences.values())

    def __str__(self) -> str:
        lines = [
            f"{'ok' if not self.differences.get(name) else 'DIFFERS'}: {said}" for name, said in self.checks.items()
        ]
        lines += [f"  {said}" for of in self.differences.values() for said in of]
        lines += [f"not checked: {said}" for said in self.unchecked]
        lines.append(f"root {self.root or 'none'}")
        return "\n".join(map(printable, lines))  # names of files may be anyone's


@dataclass
class _Found:
    """What is found as checks go on."""

    checks: dict[str, str] = field(default_factory=dict)
    differences: dict[str, list[str]] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)

    def check(self, name: str, said: str, found: Iterator[str] | list[str] | tuple[str, ...]) -> None:
        kept: list[str] = []
        more = 0
        for one in found:
            if len(kept) < _MOST_NAMED:
                kept.append(one)
            else:
                more += 1
        self.checks[name] = said
        self.differences[name] = [*kept, *([f"... and {more} more."] if more else [])]


def verify(
    place: str | os.PathLike[str],
    *,
    root: str | None = None,
    recompute: float = 0.0,
    models: Mapping[str, Any] | None = None,
    data: Any = None,
    seed: int | None = None,
    run_code: bool = False,
    verbose: bool = False,
) -> Verification:
    """Check an audit that someone else made, or kept.

    Without the root digest, from whoever made the audit, this finds damage and carelessness: a forger computes digests
    anew. With it nothing that the audit wrote can have been changed, but for what its maker computed wrongly or
    invented; that is what computing units anew finds, as likely as :attr:`Verification.recomputed` says.

    Args:
        place: The folder of an audit, its address, or the page in it.
        root: The root digest that it must have, 64 hexadecimal digits.
        recompute: Share of the units, drawn at random, to compute anew: 0.01 is one in a hundred, and at least one.
        models: To compute anew, where no plan says how models are loaded: classifiers, or functions that load them.
        data: To compute anew, likewise: what :func:`art_classwise.datasets.as_dataset` takes.
        seed: Of the draw; of the system's own random numbers, if absent, so that nobody knows it in advance.
        run_code: Allow what a plan holds of code: see :func:`art_classwise.audit.work_on`.
        verbose: Show a progress bar.

    Raises:
        InputError: There is no audit, the root digest isn't one, or nothing can be computed anew.
    """
    wanted = None if root is None else checked_root(root)
    if not 0 <= recompute <= 1:
        raise InputError(f"The share of units to compute anew must be 0 to 1 (0 % to 100 %), but is {recompute:g}.")
    page = None
    if not is_remote(place) and Path(place).is_file():
        page = Path(place)
        place = page.parent
    store, found = Store(place), _Found()
    text = _text(store)
    own = None if text is None else Manifest.from_json(text)
    _check_root(found, text, wanted)
    try:
        manifest = store.manifest()
    except InputError as error:
        if own is None:
            raise
        found.check("records", "Plans, versions and parameters agree with each other.", [str(error)])
        found.unchecked.append("All else, since what the audit says of itself is contradictory.")
        return _verification(store, own, text, found, None)
    rows = [*_row_differences(store, manifest)]  # whose files' digests are kept as they are read
    _check_files(found, store, manifest)
    _check_records(found, store, manifest, own, text)
    found.check("rows", "Rows agree with each other and with the threat model.", rows)
    said = list[str]()
    of_certificates = [*certificate_differences(store, manifest, said)]
    if of_certificates or store.certificate_files():
        found.check("certificates", "Certificates fit the audit, their settings and their tables.", of_certificates)
    found.unchecked += said
    if manifest.files and not any(found.differences.values()):
        found.check(
            "page",
            "Page, tables and figures beside the outcomes say what they say.",
            file_differences(store, page, found.unchecked),
        )
    else:
        found.unchecked.append("The page, since the outcomes it is made of aren't those of a finished, sealed audit.")
    again = None
    if recompute:
        again = recomputed(
            store, manifest, recompute, models=models, data=data, seed=seed, run_code=run_code, verbose=verbose
        )
        found.check("recomputed", str(again), again.differences)
        found.unchecked += again.unchecked
    return _verification(store, manifest, text, found, again)


def _verification(
    store: Store, manifest: Manifest, text: str | None, found: _Found, again: Recomputed | None
) -> Verification:
    return Verification(
        store.address,
        None if text is None or not manifest.files else digest(text.encode()),
        found.checks,
        {name: tuple(of) for name, of in found.differences.items()},
        tuple(found.unchecked),
        again,
    )


def checked_root(root: str) -> str:
    """Return a root digest as 64 lower-case hexadecimal digits.

    Raises:
        InputError: It is none.
    """
    digits = root.strip().lower().removeprefix("sha256:")
    if len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise InputError(
            f"A root digest has 64 hexadecimal digits, as `sha256sum manifest.json` prints it, but {root!r:.90} has "
            f"{len(digits)} characters."
        )
    return digits


def _text(store: Store) -> str | None:
    try:
        return store.folder.read("manifest.json").decode("utf-8")
    except (OSError, ValueError):
        return None  # a plan that nobody has worked on


def _check_root(found: _Found, text: str | None, wanted: str | None) -> None:
    if wanted is None:
        found.unchecked.append(
            "Whether it is the audit that its maker published: without the root digest, --root on the command line, "
            "all digests may have been computed anew."
        )
        return
    own = None if text is None else digest(text.encode())
    wrong = [] if own == wanted else [f"The manifest's SHA-256 is {own}, but the root digest is {wanted}."]
    found.check("root", "The manifest has the root digest that was given.", wrong)


def _check_files(found: _Found, store: Store, manifest: Manifest) -> None:
    if not manifest.files:
        found.unchecked.append(
            "Digests of files, since the manifest lists none: the audit is unfinished, or of an earlier release. "
            "`art-classwise collect STORE` lists them as they are now."
        )
        return
    found.check(
        "files",
        f"{len(manifest.files)} files have the SHA-256 that the manifest lists.",
        _file_digests(store, manifest),
    )


def _file_digests(store: Store, manifest: Manifest) -> Iterator[str]:
    for name, expected in manifest.files.items():
        try:
            differs = store.digest_of(name) != expected
        except InputError as error:
            yield f"{error}."
            continue
        if differs:
            yield f"{name} isn't the file that the manifest lists."
    there = {name for name in store.everything() if name.endswith(".parquet")}
    if manifest.lists_certificates:
        there |= {*store.certificate_files()}
    for name in sorted(there - manifest.files.keys()):
        yield f"{name} isn't listed in the manifest."
    needed = store.counted(manifest)
    if needed is None:
        yield from _missing(store, manifest)
    elif not {*needed} <= manifest.files.keys():
        yield "Outcomes are read from files that the manifest doesn't list."


def _missing(store: Store, manifest: Manifest) -> Iterator[str]:
    for (model, attack), shards in finished_shards(store, manifest).items():
        lacking = manifest.n_shards - len(shards)
        if lacking:
            yield f"{model}, {attack or 'without attack'}: {lacking} of {manifest.n_shards} shards aren't there."


def _check_records(found: _Found, store: Store, manifest: Manifest, own: Manifest | None, text: str | None) -> None:
    def differences() -> Iterator[str]:
        if own is not None and manifest.files:  # of an unfinished one the records aren't brought together yet
            for name in type(own).model_fields:
                if getattr(own, name) != getattr(manifest, name):
                    yield f"Of {name} the manifest says other things than plans/, environments/ and probes/ do."
            if own.to_json() != text:
                yield "The manifest isn't written as this package writes it."
        for name in sorted(store.everything()):
            if name.endswith(".json") and digest(store.folder.read(name))[:16] != name[-21:-5]:
                yield f"{name} isn't what its name says."
        for name, attack in manifest.attacks.items():
            named = fingerprint(_chain(manifest, name))
            if attack.fingerprint not in (described(name, attack.parameters).fingerprint, named):
                yield f"The parameters of the attack {name!r} aren't those that its outcomes were computed with."

    found.check("records", "Plans, versions and parameters agree with each other.", differences())


def _chain(manifest: Manifest, name: str) -> list[tuple[str, Any]]:
    names = list(manifest.attacks)
    return [(one, manifest.attacks[one].parameters) for one in names[: names.index(name) + 1]]


def _row_differences(store: Store, manifest: Manifest) -> Iterator[str]:
    labels: dict[int, tuple[str, Columns]] = {}
    attacks = {name: one.fingerprint for name, one in manifest.attacks.items()}
    first = {key: model for model, key in reversed(manifest.models.items())}  # of one network under two names
    for model, key in manifest.models.items():
        if first[key] != model:
            continue
        files = {name: store.shards(key, under) for name, under in ({CLEAN_NAME: None} | attacks).items()}
        ids = []
        for number in range(manifest.n_shards):
            shards = {name: there[number] for name, there in files.items() if number in there}
            clean = yield from _shard_differences(store, manifest, shards, labels.get(number))
            if clean is not None:
                labels.setdefault(number, (model, {name: clean[name] for name in ("example", "label")}))
                ids.append(clean["example"])
        if ids and len(np.unique(every := np.concatenate(ids))) < len(every):
            yield f"{model}: an example stands in two shards."


def _shard_differences(
    store: Store, manifest: Manifest, shards: dict[str, Shard], known: tuple[str, Columns] | None
) -> Generator[str, None, Columns | None]:
    """Yield what is wrong with a shard of a model, without attack and under each; return its rows without attack.

    Args:
        store: Where it lies.
        manifest: The audit's.
        shards: Its files by the attack, as far as they are there; without attack first.
        known: Another model's name, and its rows without attack.
    """
    clean: Columns | None = None
    left = np.empty(0, bool)
    for name, shard in shards.items():
        if clean is None and name != CLEAN_NAME:
            return None
        try:
            rows = columns(store.table(shard))
        except (DamagedShardError, MissingShardError) as error:
            yield f"{shard.name}: {error}"
            continue
        if clean is None:
            clean = rows
            found = [*clean_differences(rows, manifest, shard.unit.shard)]
            left = rows["prediction"] == rows["label"] if manifest.worst_case else np.ones(len(rows["example"]), bool)
            if known is not None and not manifest.examples.saved and _differ(known[1], rows):
                found.append(f"has other examples or labels than those of {known[0]}")
        else:
            eps = 1.0 if is_described_corruption(manifest.parameters(name)) else None
            found = [*attacked_differences(rows, clean, manifest, left, eps)]
            if manifest.worst_case and len(rows["example"]) == left.sum():
                still = rows["prediction"] == clean["label"][left]
                left = left.copy()
                left[left] = still
        yield from (f"{shard.name} {said}." for said in found)
    return clean


def _differ(first: Columns, second: Columns) -> bool:
    return any((first[n] != second[n]).any() for n in first if len(first[n]) == len(second[n]))
