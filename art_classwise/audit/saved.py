"""Audits read from their folders, and results written to one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from art_classwise.audit.corrupted import is_described_corruption
from art_classwise.audit.manifest import Manifest, described, name_fingerprint
from art_classwise.audit.outcomes import COSTS, AuditTable, MisfitError, assembled, disassembled, kept, parts, table
from art_classwise.audit.plan import CLEAN_NAME
from art_classwise.audit.store import DamagedShardError, MissingShardError, Shard, Store, Unit, certificates_folder
from art_classwise.errors import InputError, unknown

__all__ = [
    "Collected",
    "collect",
    "finished_shards",
    "is_finished",
    "is_whole",
    "read_outcomes",
    "read_stored",
    "write_audit",
]


class Collected(NamedTuple):
    """What lies in the folder of an audit.

    Attributes:
        outcomes: The one table.
        manifest: What the audit says of itself, of what is in the table: ``examples.n`` counts those that are there.
        costs: See :attr:`art_classwise.AuditResult.costs`.
        missing: Sentences that say what isn't there yet; none if all is.
        sealed: The manifest's text, if it lists the files that were read as they were read; else None.
    """

    outcomes: pd.DataFrame
    manifest: Manifest
    costs: pd.DataFrame
    missing: tuple[str, ...]
    sealed: str | None


def read_stored(
    place: str | os.PathLike[str],
    *,
    partial: bool = False,
    models: Sequence[str] | None = None,
    attacks: Sequence[str] | None = None,
) -> Collected:
    """Read what lies in the folder of an audit: see :func:`art_classwise.read_audit`.

    Args:
        place: The folder.
        partial: Of an unfinished audit read what is finished.
        models: Names of the models to read; all if absent.
        attacks: Names of the attacks to read; all if absent.

    Raises:
        InputError: There is none, it is damaged or of another schema, or the audit is unfinished.
    """
    store = Store(place)
    before = store.manifest()
    try:
        return _read(store, before, partial, models, attacks)
    except InputError:
        if store.manifest() == before:
            raise
    # A result was saved over this one meanwhile, and what this one was is gone: the new one is whole.
    return _read(store, store.manifest(), partial, models, attacks)


def _read(
    store: Store, manifest: Manifest, partial: bool, some: Sequence[str] | None, under: Sequence[str] | None
) -> Collected:
    for what, asked, known in (("model", some, manifest.models), ("attack", under, manifest.attacks)):
        for name in asked or ():
            if name not in known:
                raise unknown(what, name, known)
    if manifest.worst_case and under and list(under) != list(manifest.attacks)[: len(under)]:
        raise InputError(
            f"Where broken examples leave, each attack counts with those before it: {', '.join(manifest.attacks)}, and "
            f"{', '.join(under)} aren't the first of these."
        )
    models, attacks, missing = list(some or manifest.models), list(under or manifest.attacks), tuple[str, ...]()
    shards = None
    if partial:
        there = finished_shards(store, manifest)
        shards = _shown(there, attacks, worst_case=manifest.worst_case)
        missing = _missing(there, manifest, shards)
        models = [model for model in models if any(m == model for m, _ in shards)]
        attacks = [attack for attack in attacks if any(a == attack for _, a in shards)]
        if not shards:
            raise InputError(f"{store.address} holds an audit without a finished shard.")
    try:
        outcomes, costs = read_outcomes(store, manifest, models, attacks, shards)
    except InputError as error:
        if not manifest.examples.saved:
            raise
        damage, _, _ = str(error).partition(" Run the same audit again")
        raise InputError(
            f"{damage} The folder was written by save(), so no audit can continue there: save it again."
        ) from error
    if missing:
        n = int(outcomes["example"].nunique())
        manifest = manifest.part(models, attacks).updated(examples=manifest.examples.updated(n=n))
    elif some or under:
        manifest = manifest.part(models, attacks)
    return Collected(outcomes, manifest, costs, missing, None if missing else store.sealed())


def collect(place: str | os.PathLike[str]) -> tuple[str, ...]:
    """Bring together what processes wrote into an audit's folder, and say what is missing.

    The manifest is written anew, with the versions and hardware of all who computed; of a finished audit with the
    SHA-256 of each of its files.

    Returns:
        Sentences that say what isn't there yet; none if the audit is finished.

    Raises:
        InputError: There is no audit, or it is damaged.
    """
    store = Store(place)
    store.tidy()
    store.seal()
    manifest = store.manifest()
    there = finished_shards(store, manifest)
    lacking = _missing(there, manifest)
    unprobed = [] if manifest.plan is None or not manifest.plan.checks or lacking else _unprobed(manifest)
    return lacking + tuple(
        f"{name}: the checks of the network itself: `art-classwise work` once more." for name in unprobed
    )


def _unprobed(manifest: Manifest) -> list[str]:
    return [name for name in manifest.models if name not in manifest.probes or not manifest.probes[name].is_complete]


def finished_shards(store: Store, manifest: Manifest) -> dict[tuple[str, str | None], set[int]]:
    """Return which shards are there, of each model under each attack, by names; None for those without attack."""
    wanted = set(range(manifest.n_shards))
    keys: dict[str | None, str | None] = {None: None} | {a: one.fingerprint for a, one in manifest.attacks.items()}
    return {
        (model, attack): wanted & store.shards(fingerprint, key).keys()
        for model, fingerprint in manifest.models.items()
        for attack, key in keys.items()
    }


def _shown(
    there: Mapping[tuple[str, str | None], set[int]], attacks: Sequence[str], *, worst_case: bool
) -> dict[tuple[str, str], list[int]]:
    """Choose what of an unfinished audit makes a table: attacks, and of each model the shards that all of them have.

    The choice has the most outcomes: rather all attacks on some of the examples, or some attacks on all of them.
    """
    models = [*dict.fromkeys(model for model, _ in there)]

    def shards(model: str, some: Sequence[str]) -> list[int]:
        return sorted(set.intersection(there[model, None], *(there[model, attack] for attack in some)))

    order = list(attacks)
    if not worst_case:  # there, an attack's outcomes are of it and those before it
        order.sort(key=lambda attack: -sum(len(there[model, attack]) for model in models))
    choices = [order[:k] for k in range(len(order), 0, -1)]
    best = max(choices, key=lambda some: len(some) * sum(len(shards(model, some)) for model in models))
    return {(m, a): found for m in models if (found := shards(m, best)) for a in attacks if a in best}


def _missing(
    there: Mapping[tuple[str, str | None], set[int]],
    manifest: Manifest,
    shown: Mapping[tuple[str, str], list[int]] | None = None,
) -> tuple[str, ...]:
    """Say what isn't there yet, a sentence per model; and what tables show of it, if they show something."""
    n, sentences = manifest.n_shards, []
    for model in manifest.models:
        done = {attack: len(there[model, attack]) for attack in manifest.attacks}
        without = [attack for attack, k in done.items() if k < n]
        if len(there[model, None]) == n and not without:
            continue
        if not any(done.values()):
            sentences.append(f"{model}: no attack has begun.")
            continue
        told = [f"{attack} ({done[attack]} of {n} shards)" if done[attack] else attack for attack in without]
        examples = min((len(found) for (m, _), found in (shown or {}).items() if m == model), default=0)
        part = "" if shown is None or examples == n else f"; the tables have {examples} of {n} shards of examples"
        sentences.append(f"{model}: unfinished are {', '.join(told) or 'outcomes without attack'}{part}.")
    return tuple(sentences)


def is_finished(place: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds an audit with all of its shards.

    Raises:
        InputError: Its manifest is damaged, or of another schema.
    """
    store = Store(place)
    if not store.is_begun:
        return False
    manifest = store.manifest()
    return all(is_whole(store, manifest, model, list(manifest.attacks)) for model in manifest.models)


def is_whole(store: Store, manifest: Manifest, model: str, attacks: Sequence[str]) -> bool:
    """Return whether a store holds all shards of a model under attacks, all by their names."""
    if model not in manifest.models or not manifest.attacks.keys() >= {*attacks}:
        return False
    keys = [None, *(manifest.attacks[a].fingerprint for a in attacks)]
    numbers = set(range(manifest.n_shards))
    return all(numbers <= store.shards(manifest.models[model], key).keys() for key in keys)


def write_audit(
    result: AuditTable,
    place: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    extra: Callable[[Manifest], Mapping[str, bytes]] | None = None,
    roots: Sequence[str] = (),
) -> None:
    """Write the outcomes of an audit to a folder, each model's under an attack as one shard.

    The manifest is written last, by one rename: before it the folder holds what it held, and after it the result.

    Args:
        result: The result.
        place: The folder.
        overwrite: Replace the audit that lies there.
        extra: Returns other files to write and list, by name.
        roots: Root digests of the audits that the outcomes are from.

    Raises:
        InputError: The folder holds an audit, and ``overwrite`` isn't asked for; or it can't be written.
    """
    store = Store(place)
    store.folder.check_writable()
    if store.is_begun and not overwrite:
        raise InputError(f"{store.address} holds an audit: choose another folder, or save(..., overwrite=True).")
    of = parts(kept(result))
    for model in result.models:
        ids = [of[model, a]["example"].to_numpy() for a in result.attacks if (model, a) in of]
        if len(ids) < len(result.attacks) or not all(np.array_equal(i, ids[0]) for i in ids):
            raise InputError(f"Attacks on {model!r} were tried on different examples: save them separately.")
    known, examples = result.manifest.models, result.manifest.examples
    if len({*known.values()}) < len(known):
        known = {}  # joined by hand: one network on other images, say
    manifest = result.manifest.updated(
        shard_size=max(examples.n, *(len(rows) for rows in of.values())),
        examples=examples.updated(saved=True),
        models={m: known.get(m) or name_fingerprint(m) for m in result.models},
        attacks={a: described(a, result.manifest.parameters(a)) for a in result.attacks},
        plan=None,
        files={},
        saved_from=tuple(roots),
    )
    old, certificates = store.everything(), _certificates_of(store, manifest)
    store.begin(manifest)
    new = set()
    for model, key in manifest.models.items():
        clean, *attacked = disassembled([of[model, a] for a in result.attacks], worst_case=manifest.worst_case)
        costs = result.costs.loc[[model]].droplevel("model") if model in result.costs.index else None
        new.add(store.write(Unit(key, None, 0), _with_cost(clean, costs, CLEAN_NAME), replace=True).name)
        for (name, attack), rows in zip(manifest.attacks.items(), attacked, strict=True):
            unit = Unit(key, attack.fingerprint, 0)
            new.add(store.write(unit, _with_cost(rows, costs, name), replace=True).name)
    for name, content in ({} if extra is None else extra(manifest)).items():
        store.put(name, content)
        new.add(name)
    listed = {name: store.digest_of(name) for name in new} | certificates
    store.write_manifest(manifest.updated(files=dict(sorted(listed.items())), lists_certificates=True))
    old |= {*store.certificate_files(finished=False)} - certificates.keys()
    for name in old - new:  # a folder of these alone is read as before: the manifest lists the others
        store.folder.remove(name)


def _certificates_of(store: Store, new: Manifest) -> dict[str, str]:
    """Return the certificates in a folder that hold for another manifest, too, by name with the digests they had."""
    if not store.is_begun:
        return {}
    before = store.manifest()
    if before.examples.fingerprint is None or before.examples.fingerprint != new.examples.fingerprint:
        return {}
    same = {certificates_folder(name) for name, key in new.models.items() if before.models.get(name) == key}
    names = [name for name in store.certificate_files() if name.rpartition("/")[0] in same]
    return {name: before.files.get(name) or store.digest_of(name) for name in names}


def _with_cost(rows: pd.DataFrame, costs: pd.DataFrame | None, attack: str) -> pd.DataFrame:
    """Add what an attack cost on average, as far as it is known."""
    if costs is None or attack not in costs.index:
        return rows.assign(**dict.fromkeys(COSTS, np.float32(np.nan)))
    known = costs.loc[attack, list(COSTS)].astype(np.float32)
    return rows.assign(**{str(name): value for name, value in known.items()})


def read_outcomes(
    store: Store,
    manifest: Manifest,
    models: Sequence[str],
    attacks: Sequence[str],
    shards: Mapping[tuple[str, str], Sequence[int]] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the one table of outcomes, and what they cost.

    Args:
        store: Where they lie.
        manifest: What the folder says of itself.
        models: Names of the models to read.
        attacks: Names of the attacks to read.
        shards: Which shards of a model under an attack; all if absent.

    Raises:
        DamagedShardError: A shard is damaged, or doesn't fit the others.
        MissingShardError: A shard isn't there.
        InputError: Labels are beyond the classes.
    """
    adversaries = [not is_described_corruption(manifest.parameters(name)) for name in attacks]
    keys: dict[str | None, str | None] = {None: None} | {a: manifest.attacks[a].fingerprint for a in attacks}
    rows: dict[tuple[str, str], pd.DataFrame] = {}
    costs: dict[tuple[str, str], pd.Series[float]] = {}
    for model in models:
        held = {attack: store.shards(manifest.models[model], key) for attack, key in keys.items()}
        numbers: Sequence[int] = range(manifest.n_shards) if shards is None else shards[model, attacks[0]]
        missing = [(attack, i) for i in numbers for attack in keys if i not in held[attack]]
        if missing:
            n_finished = sum(len(paths) for paths in held.values())
            raise MissingShardError(
                f"{store.address} holds an unfinished audit: of {model!r} {n_finished} of "
                f"{len(keys) * manifest.n_shards} shards are there. Run the same audit again, which goes on from "
                "there, or read the finished ones, read_audit(folder, partial=True)."
            )
        clean, *attacked = (_frame(*(store.table(held[attack][i]) for i in numbers)) for attack in keys)
        try:
            tables = assembled(clean, attacked, worst_case=manifest.worst_case, adversaries=adversaries)
        except ValueError as error:
            _find_misfit(store, manifest, held, numbers)
            raise InputError(f"{store.address} holds shards that don't fit: {error}.") from error
        rows |= {(model, attack): one for attack, one in zip(attacks, tables, strict=True)}
        named = zip((CLEAN_NAME, *attacks), (clean, *attacked), strict=True)
        costs |= {(model, name): _cost(frame, len(clean)) for name, frame in named}
    whole_table = table(rows, models, attacks)
    last = len(manifest.classes) - 1
    columns = (whole_table[name].to_numpy() for name in ("label", "clean_prediction", "prediction"))
    if not all(column.min(initial=0) >= 0 and column.max(initial=0) <= last for column in columns):
        raise InputError(f"{store.address} holds labels or predictions outside of its {last + 1} classes.")
    index = pd.MultiIndex.from_tuples(costs, names=["model", "attack"])
    return whole_table, pd.DataFrame([*costs.values()], index=index).astype({"n": int})


def _cost(rows: pd.DataFrame, n: int) -> pd.Series[float]:
    """Return how many examples were attacked, and what one of them cost on average."""
    known = rows[list(COSTS)].astype(float)
    return pd.Series({"n": len(rows), **{name: known[name].mean() for name in COSTS}})


def _find_misfit(
    store: Store, manifest: Manifest, held: Mapping[str | None, Mapping[int, Shard]], numbers: Sequence[int]
) -> None:
    """Say which shard was computed after others than those that are there now.

    A shard that was computed anew, on another device say, may leave other examples to the attacks after it.

    Raises:
        DamagedShardError: One was.
    """
    for i in numbers:
        clean, *attacked = (_frame(store.table(files[i])) for files in held.values())
        try:
            assembled(clean, attacked, worst_case=manifest.worst_case)
        except MisfitError as error:
            shard = [*held.values()][1 + error.place][i]
            raise DamagedShardError(shard, store.folder.where(shard.name), str(error), whole=True) from error


def _frame(*shards: pa.Table) -> pd.DataFrame:
    # Of shards that an attack measured distances on, and others where no example was left, the rest is NaN.
    frame: pd.DataFrame = pa.concat_tables(shards, promote_options="default").to_pandas()
    return frame
