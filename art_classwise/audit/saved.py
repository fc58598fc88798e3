"""Audits read from their folders, and results written to one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from art_classwise._core.files import check_output_folder
from art_classwise.audit.manifest import Manifest, described, name_fingerprint
from art_classwise.audit.outcomes import AuditTable, MisfitError, assembled, disassembled, parts, table
from art_classwise.audit.store import DamagedShardError, MissingShardError, Store, Unit
from art_classwise.errors import InputError

__all__ = ["is_finished", "is_whole", "read_outcomes", "read_parts", "write_audit"]


def read_parts(folder: str | os.PathLike[str], *, partial: bool = False) -> tuple[pd.DataFrame, Manifest, bool]:
    """Read what a result is made of from a folder: see :func:`art_classwise.read_audit`.

    Returns:
        The outcomes, the manifest, in which ``examples.n`` counts those that are there, and whether all are.

    Raises:
        InputError: There is none, it is damaged or of another schema, or the audit is unfinished.
    """
    store = Store(Path(folder))
    manifest = store.manifest()
    try:
        outcomes = read_outcomes(store, manifest, list(manifest.models), list(manifest.attacks), partial=partial)
    except InputError as error:
        if not manifest.examples.saved:
            raise
        damage, _, _ = str(error).partition(" Run the same audit again")
        raise InputError(
            f"{damage} The folder was written by save(), so no audit can continue there: save it again."
        ) from error
    finished = not partial or is_finished(folder)
    if not finished:
        n = int(outcomes["example"].nunique())
        manifest = manifest.updated(examples=manifest.examples.updated(n=n))
    return outcomes, manifest, finished


def is_finished(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds an audit with all of its shards.

    Raises:
        InputError: Its manifest is damaged, or of another schema.
    """
    store = Store(Path(folder))
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


def write_audit(result: AuditTable, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write the outcomes of an audit to a folder, each model's under an attack as one shard; the manifest last.

    Raises:
        InputError: The folder holds an audit, and ``overwrite`` isn't asked for; or it can't be written.
    """
    path = check_output_folder(folder)
    store = Store(path)
    if store.is_begun and not overwrite:
        raise InputError(f"{path.absolute()} holds an audit: choose another folder, or save(..., overwrite=True).")
    of = parts(result.outcomes)
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
    )
    with store.lock("manifest"):
        old, new = {*(path / "shards").rglob("*.parquet")}, set()
        for model, key in manifest.models.items():
            clean, *attacked = disassembled([of[model, a] for a in result.attacks], worst_case=manifest.worst_case)
            new.add(store.write(Unit(key, None, 0), clean))
            for attack, rows in zip(manifest.attacks.values(), attacked, strict=True):
                new.add(store.write(Unit(key, attack.fingerprint, 0), rows))
        store.write_manifest(manifest)
        for shard in old - new:
            shard.unlink(missing_ok=True)


def read_outcomes(
    store: Store, manifest: Manifest, models: Sequence[str], attacks: Sequence[str], *, partial: bool = False
) -> pd.DataFrame:
    """Return the one table of outcomes.

    Args:
        store: Where they lie.
        manifest: What the folder says of itself.
        models: Names of the models to read.
        attacks: Names of the attacks to read.
        partial: Read the shards that are finished under all of the attacks, and no other.

    Raises:
        DamagedShardError: A shard is damaged, or doesn't fit the others.
        MissingShardError: A shard isn't there.
        InputError: With ``partial``, none is finished; or labels are beyond the classes.
    """
    keys: dict[str | None, str | None] = {None: None} | {a: manifest.attacks[a].fingerprint for a in attacks}
    rows: dict[tuple[str, str], pd.DataFrame] = {}
    for model in models:
        held = {attack: store.shards(manifest.models[model], key) for attack, key in keys.items()}
        numbers = range(manifest.n_shards)
        missing = [(attack, i) for i in numbers for attack in keys if i not in held[attack]]
        if missing and not partial:
            n_finished = sum(len(paths) for paths in held.values())
            raise MissingShardError(
                f"{store.folder.absolute()} holds an unfinished audit: of {model!r} {n_finished} of "
                f"{len(keys) * manifest.n_shards} shards are there. Run the same audit again, which goes on from "
                "there, or read the finished ones, read_audit(folder, partial=True)."
            )
        unfinished = {number for _, number in missing}
        whole = [i for i in numbers if i not in unfinished]
        if not whole:
            continue
        clean, *attacked = (
            _frame(*(store.table(Unit(manifest.models[model], key, i), held[attack][i]) for i in whole))
            for attack, key in keys.items()
        )
        try:
            tables = assembled(clean, attacked, worst_case=manifest.worst_case)
        except ValueError as error:
            _find_misfit(store, manifest, model, keys, held, whole)
            raise InputError(f"{store.folder.absolute()} holds shards that don't fit: {error}.") from error
        rows |= {(model, attack): one for attack, one in zip(attacks, tables, strict=True)}
    if not rows:
        raise InputError(f"{store.folder.absolute()} holds an audit without a finished shard.")
    whole_table = table(rows, [m for m in models if (m, attacks[0]) in rows], attacks)
    last = len(manifest.classes) - 1
    inside = all(whole_table[c].between(0, last).all() for c in ("label", "clean_prediction", "prediction"))
    if not inside:
        raise InputError(f"{store.folder.absolute()} holds labels or predictions outside of its {last + 1} classes.")
    return whole_table


def _find_misfit(
    store: Store,
    manifest: Manifest,
    model: str,
    keys: Mapping[str | None, str | None],
    held: Mapping[str | None, Mapping[int, Path]],
    numbers: Sequence[int],
) -> None:
    """Say which shard was computed after others than those that are there now.

    A shard that was computed anew, on another device say, may leave other examples to the attacks after it.

    Raises:
        DamagedShardError: One was.
    """
    for i in numbers:
        clean, *attacked = (
            _frame(store.table(Unit(manifest.models[model], key, i), held[attack][i])) for attack, key in keys.items()
        )
        try:
            assembled(clean, attacked, worst_case=manifest.worst_case)
        except MisfitError as error:
            attack, key = [*keys.items()][1 + error.place]
            unit = Unit(manifest.models[model], key, i)
            raise DamagedShardError(unit, held[attack][i], str(error), whole=True) from error


def _frame(*shards: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = pa.concat_tables(shards).to_pandas()
    return frame
