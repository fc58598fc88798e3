"""Outcomes in a folder, on a disk or in a bucket: what was asked for, and a Parquet file for each shard.

    manifest.json                             what was attacked, how, with what: all of the following in one, and the
                                              SHA-256 of each file of outcomes once the audit is finished
    plans/<digest>.json                       what was asked for, each time that it was something new
    environments/<digest>.json                versions and hardware of who computed
    probes/<model>-<digest>.json              what was tried on a network itself
    outcomes/model=<name>/attack=<name>/      of a model under an attack; "clean" for none
        <model>-<attack>-<number>-<outcomes>-<file>.parquet
    attacked_images-<digest>.parquet          a few images to look at
    certificates/<model>/                     what was certified of a network: certificate.json, table and figure

Whoever works here needs to know of no one else, and nothing is locked: files are named by their content, and none is
ever changed. Of a shard the first file counts; whoever comes later finds that his own says the same, or is told.
Version 0.1.0 wrote ``shards/<model>/<attack>/<number>-<checksum>.parquet``, named by fingerprints; these are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pydantic import ValidationError

from art_classwise._core.fingerprints import digest
from art_classwise._core.folders import DiskFolder, Folder, open_folder
from art_classwise._core.records import Record, validation_message
from art_classwise.audit.manifest import Manifest
from art_classwise.audit.outcomes import DISTANCE, MEASURED, OUTCOMES, VERDICTS, from_parquet, read_older, to_parquet
from art_classwise.audit.plan import CLEAN_NAME
from art_classwise.audit.probes import Probe
from art_classwise.audit.provenance import Environment
from art_classwise.errors import InputError, first_line

__all__ = ["DamagedShardError", "MissingShardError", "Shard", "Store", "StoreError", "Unit", "certificates_folder"]

_RecordT = TypeVar("_RecordT", bound=Record)

_FILE = re.compile(r"(?:saved-)?([0-9a-f]{12})-([0-9a-f]{12}|clean)-(\d{5,})-([0-9a-f]{16})-([0-9a-f]{16})\.parquet")
_OLDER_FILE = re.compile(r"(\d{5,})-([0-9a-f]{16})\.parquet")
_RECORD = re.compile(r"[0-9a-f-]+\.json")
_MANIFEST = "manifest.json"
_IMAGES = re.compile(r"attacked_images(-[0-9a-f]{16})?\.parquet")
_CERTIFICATES, _CERTIFIED = "certificates", ("certificate.json", "certified.csv", "certified.png")
_TRIES = 8  # to list what another process writes meanwhile
_LONGEST_NAME, _LONGEST_OF_ALL = 120, 255  # of a folder: bytes that leave room for more, and that file systems allow


@dataclass(frozen=True)
class Unit:
    """A shard of a model's outcomes under one attack.

    Attributes:
        model: The model's fingerprint.
        attack: The attack's, or None for outcomes without attack.
        shard: Its number.
    """

    model: str
    attack: str | None
    shard: int


@dataclass(frozen=True)
class Shard:
    """The file of a unit.

    Attributes:
        unit: The unit.
        name: Of the file, within the store.
        older: Whether version 0.1.0 wrote it.
    """

    unit: Unit
    name: str
    older: bool = False


class DamagedShardError(InputError):
    """A shard isn't what was written.

    Attributes:
        shard: Its file.
        where: The file's address.
        why: What is wrong with it.
        whole: Whether it is as it was written, but doesn't fit the others.
    """

    def __init__(self, shard: Shard, where: str, why: str, *, whole: bool = False) -> None:
        super().__init__(f"The shard {where} is damaged: {why}. Run the same audit again to compute it again.")
        self.shard, self.where, self.why, self.whole = shard, where, why, whole


class MissingShardError(InputError):
    """A shard isn't there, or no longer: another process may have found it damaged."""


class StoreError(InputError):
    """The folder can't be written, or holds another audit: whatever the model, nothing goes on there."""


class Store:
    """The folder of an audit. Any number of processes may work in it at once.

    Args:
        place: A folder's path, or its address, such as ``"s3://bucket/folder"``.

    Raises:
        InputError: The address is of an unknown scheme, or the folder is a symbolic link.
    """

    def __init__(self, place: str | os.PathLike[str] | Folder) -> None:
        self.folder: Folder = open_folder(place) if isinstance(place, (str, os.PathLike)) else place
        self._parsed: tuple[object, Manifest] | None = None  # of which state of the folder
        self._digests: dict[str, str] = {}  # of the files that were read, or written, here

    @property
    def address(self) -> str:
        """Where it is."""
        return self.folder.address

    @property
    def is_begun(self) -> bool:
        """Whether an audit lies there, finished or not."""
        return self.folder.exists(_MANIFEST) or bool(self._records("plans"))

    # What was asked for.

    def manifest(self) -> Manifest:
        """Read what the audit says of itself, put together from all files that say it.

        Raises:
            InputError: There is none, or it is damaged, of another schema, or not one of an audit.
        """
        records = {kind: self._records(kind) for kind in ("plans", "environments", "probes")}
        try:
            state = (self.folder.state(_MANIFEST), records)
        except FileNotFoundError:
            if not records["plans"]:
                lacks = _MANIFEST if self.folder.files("") or self.folder.folders("") else "such folder"
                raise InputError(
                    f"{self.address} holds no audit: there is no {lacks}. An audit that is kept writes one: "
                    "`art-classwise audit --out FOLDER`, ClassWiseAudit(store=...)."
                ) from None
            state = (None, records)
        except OSError as error:
            raise self._unreadable(_MANIFEST, error) from error
        if self._parsed is not None and state[0] is not None and self._parsed[0] == state:
            return self._parsed[1]
        parts = [] if state[0] is None and not self.folder.exists(_MANIFEST) else [self._read_manifest(_MANIFEST)]
        if parts and parts[0].examples.saved:  # whole by itself: what lies beside it is of what was there before
            self._parsed = state, parts[0]
            return parts[0]
        parts += sorted((self._read_manifest(name) for name in records["plans"]), key=lambda plan: plan.created)
        manifest = parts[0]
        for part in parts[1:]:
            try:
                manifest = manifest.extended(part)
            except InputError as error:
                raise InputError(
                    f"{self.address} holds two audits that don't go together, since {error}: remove the file of one "
                    "from plans/."
                ) from error
        environments = tuple(self._read_record(name, Environment) for name in records["environments"])
        probes = {name.rpartition("/")[2].partition("-")[0]: name for name in records["probes"]}
        manifest = manifest.completed(
            environments, {model: probe for model, name in probes.items() if (probe := self._read_probe(name))}
        )
        self._parsed = state, manifest
        return manifest

    def write_manifest(self, manifest: Manifest) -> None:
        """Write the manifest, of all that is known, as one file.

        Raises:
            StoreError: It can't be written.
        """
        self._write(_MANIFEST, manifest.to_json().encode())

    def seal(self, anew: Collection[str] = ()) -> str | None:
        """Write the manifest with the SHA-256 of every file of outcomes, if all of them are there.

        What was listed keeps the digest that it was listed with: a file that was changed since isn't taken for one
        that an audit wrote. Certificates that aren't finished aren't listed.

        Args:
            anew: Names of certificates' files that this process wrote, whose digests now count.

        Returns:
            The manifest's text, whose SHA-256 is the root digest; None of an unfinished audit.

        Raises:
            InputError: There is no audit, or it is damaged.
            StoreError: It can't be written.
        """
        for _ in range(_TRIES):
            manifest = self.manifest()
            names = self.counted(manifest)
            if names is None:
                self.write_manifest(manifest)
                return None
            images, certificates = self.image_files(), self.certificate_files()
            names += [name for name in images if name in manifest.files][:1] or images[:1]
            names += certificates
            files = {
                name: (None if name in anew else manifest.files.get(name)) or self.digest_of(name)
                for name in sorted(names)
            }
            # Whoever asks again for what an earlier release sealed finds the root digest that was published.
            as_it_was = manifest.files == files and not manifest.lists_certificates
            sealed = manifest if as_it_was else manifest.updated(files=files, lists_certificates=True)
            self.write_manifest(sealed)
            # Of two that certify at once, the one who writes last may have read the manifest before the other wrote
            # it; the other's files were there before its manifest was, so they are seen now.
            if self.certificate_files() == certificates:
                break
        return sealed.to_json()

    def sealed(self) -> str | None:
        """Return the manifest's text, if it lists the files that count and that were read here as they were read.

        None where it doesn't: the audit is unfinished, of an earlier release, or was changed since.
        """
        manifest = self.manifest()
        try:
            text = self._text(_MANIFEST)
        except InputError:  # only planned so far
            return None
        names = self.counted(manifest)
        if names is None or manifest.to_json() != text or not {*names} <= manifest.files.keys():
            return None
        changed = any(manifest.files.get(name, of) != of for name, of in self._digests.items())
        return None if changed else text

    def counted(self, manifest: Manifest) -> list[str] | None:
        """Return the names of the files of outcomes that count, one of each unit; None if one isn't there."""
        names, wanted = [], range(manifest.n_shards)
        for model in dict.fromkeys(manifest.models.values()):
            for attack in (None, *dict.fromkeys(one.fingerprint for one in manifest.attacks.values())):
                there = self.shards(model, attack)
                if not all(number in there for number in wanted):
                    return None
                names += [there[number].name for number in wanted]
        return names

    def images_file(self, manifest: Manifest) -> str | None:
        """Return the name of the file of attacked images, if there is one: the one that is listed, else the only."""
        listed = [name for name in manifest.files if _IMAGES.fullmatch(name)]
        found = [] if manifest.examples.saved and manifest.files else self.image_files()
        return next(iter(listed or found), None)

    def image_files(self) -> list[str]:
        """Return the names of all files of attacked images."""
        return [name for name in self.folder.files("") if _IMAGES.fullmatch(name)]

    def certificate_files(self, *, finished: bool = True) -> list[str]:
        """Return the names of all files of certificates.

        Args:
            finished: Only those of certificates of all their examples.
        """
        names = []
        for model in self.folder.folders(_CERTIFICATES):
            within = f"{_CERTIFICATES}/{model}"
            there = [name for name in self.folder.files(within) if name in _CERTIFIED]
            if not finished or self._is_certified(f"{within}/{_CERTIFIED[0]}", there):
                names += [f"{within}/{name}" for name in there]
        return names

    def _is_certified(self, name: str, there: Collection[str]) -> bool:
        if _CERTIFIED[0] not in there:
            return False
        try:
            content = json.loads(self.folder.read(name))
            return bool(len(content["example"]) == content["n_examples"])
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            return False

    def digest_of(self, name: str) -> str:
        """Return the SHA-256 of a file: as it was read or written here, if it was.

        Raises:
            InputError: It can't be read.
        """
        if name not in self._digests:
            try:
                self._digests[name] = digest(self.folder.read(name))
            except OSError as error:
                raise self._unreadable(name, error) from error
        return self._digests[name]

    def put(self, name: str, content: bytes) -> None:
        """Write a file other than of outcomes, such as attacked images or a certificate.

        Raises:
            StoreError: It can't be written.
        """
        self._digests[name] = digest(content)
        self._write(name, content)

    def begin(self, manifest: Manifest) -> None:
        """Take a manifest for the folder's, which is written once what belongs to it is there."""
        self._parsed = None, manifest

    def check(self, requested: Manifest) -> None:
        """Check that an audit could go on in the folder: what is asked for may name no model and no attack yet.

        Raises:
            StoreError: The folder holds another audit.
            InputError: Its manifest is damaged.
        """
        if self.is_begun:
            held = self.manifest()
            try:
                held.extended(requested)
            except InputError as error:
                raise StoreError(self._refused(error)) from error

    def join(self, requested: Manifest) -> Manifest:
        """Begin an audit in the folder, or take part in the one that is there.

        Returns:
            The manifest, as it is now.

        Raises:
            InputError: The folder holds another audit, or another process begins one; it can't be written; or its
                manifest is damaged.
        """
        held = self.manifest() if self.is_begun else None
        try:
            now = requested if held is None else held.extended(requested)
        except InputError as error:
            raise InputError(self._refused(error)) from error
        if now == held:
            return now
        text = requested.to_json().encode()
        name = f"plans/{digest(text)[:16]}.json"
        self._write(name, text)
        try:
            now = self.manifest()
        except InputError:  # another process has begun one meanwhile: neither can know who was first
            self.folder.remove(name)
            raise
        self.write_manifest(now)
        return now

    def add_environment(self, environment: Environment) -> None:
        """Write down versions and hardware of a process that computes outcomes here.

        Raises:
            StoreError: It can't be written.
        """
        self._add_record("environments/", environment.model_dump_json())

    def add_probe(self, model: str, probe: Probe) -> None:
        """Write down what was tried on a network itself.

        Args:
            model: Its fingerprint.
            probe: What was found.

        Raises:
            StoreError: It can't be written.
        """
        for name in self._records("probes"):
            if name.startswith(f"probes/{model}-"):
                held = self._read_probe(name)
                if held is None or not held.is_complete:
                    self.folder.remove(name)  # of an earlier release, which tried less
        self._add_record(f"probes/{model}-", probe.model_dump_json())

    # Outcomes.

    def shards(self, model: str, attack: str | None) -> dict[int, Shard]:
        """Return the files of a model's shards under an attack, both by fingerprint; of several of one, the first."""
        return {number: files[0] for number, files in self._written(model, attack).items()}

    def _written(self, model: str, attack: str | None, only: int | None = None) -> dict[int, list[Shard]]:
        """Return all files of a model's shards under an attack, or of one of them: of each the one that counts first.

        Where the manifest lists one of a shard's files, that one counts; of what :meth:`AuditResult.save` wrote, no
        other does.
        """
        manifest = self._parsed[1] if self._parsed else self.manifest()
        there = self._found(model, attack, only, saved=manifest.examples.saved)
        for files in there.values():
            files.sort(key=lambda shard: shard.name not in manifest.files)
        if manifest.examples.saved and manifest.files:
            there = {number: [one for one in files if one.name in manifest.files] for number, files in there.items()}
        return {number: files for number, files in there.items() if files}

    def _found(self, model: str, attack: str | None, only: int | None, *, saved: bool) -> dict[int, list[Shard]]:
        there: dict[int, list[Shard]] = {}
        older = f"shards/{model}/{attack or CLEAN_NAME}"
        for name in self.folder.files(older) if self._has_older else ():
            match = _OLDER_FILE.fullmatch(name)
            if match and only in (None, int(match[1])):
                number = int(match[1])
                there.setdefault(number, []).append(Shard(Unit(model, attack, number), f"{older}/{name}", older=True))
        begin = f"{'saved-' if saved else ''}{_begin(model, attack)}-" + ("" if only is None else f"{only:05d}-")
        found = [(name, folder) for folder in self._folders(model, attack) for name in self.folder.files(folder)]
        for name, folder in sorted(found, key=lambda one: one[0]):  # the same for all, whatever names they know
            if name.startswith(begin) and (match := _FILE.fullmatch(name)):
                number = int(match[3])
                there.setdefault(number, []).append(Shard(Unit(model, attack, number), f"{folder}/{name}"))
        return there

    def has(self, unit: Unit) -> bool:
        """Return whether a shard is there."""
        return bool(self._written(unit.model, unit.attack, unit.shard))

    def read(self, unit: Unit) -> pd.DataFrame:
        """Return a shard, as :data:`OUTCOMES`, or :data:`MEASURED` under an attack that measures distances.

        Raises:
            DamagedShardError: Its file isn't what was written, or not of this shard.
            MissingShardError: It isn't there.
        """
        files = self._written(unit.model, unit.attack, unit.shard).get(unit.shard)
        if not files:
            folder = self.folder.where(self._folders(unit.model, unit.attack)[0])
            raise MissingShardError(f"There is no shard {unit.shard} in {folder}.")
        frame: pd.DataFrame = self.table(files[0]).to_pandas()
        return frame

    def table(self, shard: Shard) -> pa.Table:
        """Return a shard from its file, checked.

        Raises:
            DamagedShardError: It isn't what was written, or not of this shard.
            MissingShardError: It isn't there, or no longer.
        """
        unit = shard.unit
        try:
            content = self.folder.read(shard.name)
        except FileNotFoundError:  # another process, which found it damaged, was faster
            raise MissingShardError(f"There is no {self.folder.where(shard.name)}.") from None
        except OSError as error:
            raise self._damaged(shard, first_line(error)) from error
        self._digests[shard.name] = digest(content)
        told = f"its {len(content)} bytes, as this shard, don't have the checksum in its name"
        file = shard.name.rpartition("/")[2]
        if shard.older:
            match = _OLDER_FILE.fullmatch(file)
            assert match is not None
            if _digest(unit, content) != match[2]:
                raise self._damaged(shard, told)
        else:
            match = _FILE.fullmatch(file)
            assert match is not None
            if _digest(unit, content) != match[5]:
                raise self._damaged(shard, told)
        try:
            if shard.older:
                return read_older(content, attacked=unit.attack is not None)
            schemas = (OUTCOMES,) if unit.attack is None else (OUTCOMES, MEASURED)
            return from_parquet(content, *schemas)
        except ValueError as error:
            raise self._damaged(shard, str(error)) from error

    def _damaged(self, shard: Shard, why: str) -> DamagedShardError:
        return DamagedShardError(shard, self.folder.where(shard.name), why)

    def write(self, unit: Unit, frame: pd.DataFrame, *, replace: bool = False) -> Shard:
        """Write a shard, unless it is there; of what two processes wrote at once, both keep the same one.

        Where another file of the shard says something else, as another kind of processor may have found, that one
        stays, and a warning names it.

        Args:
            unit: The unit.
            frame: As :data:`art_classwise.audit.outcomes.OUTCOMES` or ``MEASURED``.
            replace: Write it, whatever is there.

        Returns:
            The file that counts.

        Raises:
            StoreError: It can't be written, on a full disk, say; the others are as they were.
        """
        columns = {str(name): column.to_numpy() for name, column in frame.items()}
        content = to_parquet(columns, MEASURED if DISTANCE in frame else OUTCOMES)
        outcomes = verdict_digest(unit, columns)
        begin, folder = _begin(unit.model, unit.attack), self._folders(unit.model, unit.attack)[0]
        begin = f"saved-{begin}" if replace else begin  # an audit that lies there takes it for none of its files
        mine = f"{folder}/{begin}-{unit.shard:05d}-{outcomes}-{_digest(unit, content)}.parquet"
        self._digests[mine] = digest(content)
        if replace:
            self._write(mine, content)
            return Shard(unit, mine)
        there = self._written(unit.model, unit.attack, unit.shard).get(unit.shard, [])
        if not there:
            self._write(mine, content)
            there = self._written(unit.model, unit.attack, unit.shard).get(unit.shard, [])
            if not there:  # removed by someone who took it for damaged
                raise StoreError(f"{self.folder.where(mine)} was removed as soon as it was written.")
        first, *others = there
        for one in others:  # written at the same time: whoever sees both keeps the same one
            if not one.older:
                self.folder.remove(one.name)
        told = {outcomes, *(self._outcomes_of(one) for one in there)}
        if len(told) > 1:
            warnings.warn(
                f"The shard {self.folder.where(first.name)} was computed once more, with other outcomes, as on another "
                "kind of processor: this one stays.",
                stacklevel=2,
            )
        return first

    def _outcomes_of(self, shard: Shard) -> str:
        """Return the digest of what a file says, which its name holds."""
        if not shard.older:
            return shard.name.split("-")[-2]
        frame: pd.DataFrame = self.table(shard).to_pandas()
        return verdict_digest(shard.unit, frame)

    def drop(self, damaged: DamagedShardError) -> bool:
        """Remove a damaged shard, unless it has been removed, or written anew, since it was read.

        Returns:
            Whether this process removed it.
        """
        try:
            self.table(damaged.shard)
        except MissingShardError:
            return False
        except DamagedShardError:
            pass
        else:
            if not damaged.whole:
                return False
        self.folder.remove(damaged.shard.name)
        return True

    def everything(self) -> set[str]:
        """Return names of all files of outcomes, of attacked images, and of records beside the manifest."""
        return self.files() | {*self.image_files()}

    def files(self) -> set[str]:
        """Return names of all files of outcomes, and of records beside the manifest."""
        names = {name for kind in ("plans", "environments", "probes") for name in self._records(kind)}
        for top in ("outcomes", "shards"):
            for model in self.folder.folders(top):
                for attack in self.folder.folders(f"{top}/{model}"):
                    within = f"{top}/{model}/{attack}"
                    names |= {f"{within}/{name}" for name in self.folder.files(within) if name.endswith(".parquet")}
        return names

    def tidy(self) -> None:
        """Remove what processes that were killed left: files half written on a disk, and second ones of a shard."""
        manifest = self.manifest()
        for model in manifest.models.values():
            for attack in (None, *(one.fingerprint for one in manifest.attacks.values())):
                for files in self._written(model, attack).values():
                    for one in files[1:]:
                        if not one.older:
                            self.folder.remove(one.name)
        if isinstance(self.folder, DiskFolder):
            names = self.files() | {*self.certificate_files(finished=False)}
            within = {"", *(name.rpartition("/")[0] for name in names)}
            for folder in within:
                self.folder.remove_left_aside(folder)

    @cached_property
    def _has_older(self) -> bool:
        return "shards" in self.folder.folders("")  # asked once: nobody writes any more

    def _folders(self, model: str, attack: str | None) -> list[str]:
        """Return the folders of a model's outcomes under an attack, the one to write to first.

        Two, where a network has two names: each is read, wherever a process that knew one name wrote.
        """
        manifest = self._parsed[1] if self._parsed else self.manifest()
        models = [name for name, fingerprint in manifest.models.items() if fingerprint == model] or [model]
        attacks = [name for name, one in manifest.attacks.items() if one.fingerprint == attack] or [str(attack)]
        under = _quoted(CLEAN_NAME if attack is None else attacks[0])
        return [f"outcomes/model={_quoted(name)}/attack={under}" for name in models]

    def _records(self, kind: str) -> list[str]:
        return [f"{kind}/{name}" for name in self.folder.files(kind) if _RECORD.fullmatch(name)]

    def _add_record(self, begin: str, text: str) -> None:
        name = f"{begin}{digest(text.encode())[:16]}.json"
        if not self.folder.exists(name):
            self._write(name, text.encode())

    def _read_manifest(self, name: str) -> Manifest:
        text = self._text(name)
        try:
            return Manifest.from_json(text)
        except InputError as error:
            raise InputError(f"{self.folder.where(name)} {error}.") from error

    def _read_record(self, name: str, kind: type[_RecordT], content: str | None = None) -> _RecordT:
        try:
            return kind.model_validate_json(self._text(name) if content is None else content)
        except ValidationError as error:
            raise InputError(f"{self.folder.where(name)} {validation_message(error)}. Remove it.") from error

    def _read_probe(self, name: str) -> Probe | None:
        try:
            content = json.loads(self._text(name))
        except ValueError as error:
            raise InputError(f"{self.folder.where(name)} is damaged: {error}. Remove it.") from error
        known = Probe.completed(content) if isinstance(content, dict) else None
        return None if known is None else self._read_record(name, Probe, json.dumps(known))

    def _text(self, name: str) -> str:
        try:
            return self.folder.read(name).decode("utf-8")
        except (OSError, ValueError) as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: Exception) -> InputError:
        return InputError(f"{self.folder.where(name)} can't be read: {first_line(error)}")

    def _write(self, name: str, content: bytes) -> None:
        try:
            self.folder.write(name, content)
        except OSError as error:
            intact = "Finished shards can't be listed now"
            with suppress(OSError, InputError):
                done = sum(name.endswith(".parquet") for name in self.files())
                intact = f"The {done} shards that are finished are intact"
            why = getattr(error, "strerror", None) or first_line(error)
            raise StoreError(
                f"{self.folder.where(name)} can't be written: {why}. {intact}: "
                "make room, or see to the folder, and run the same audit again, which goes on from there."
            ) from error

    def _refused(self, error: InputError) -> str:
        return (
            f"{self.address} can't be used, since {error}. Choose another folder for this one "
            "(`store`), or delete that one."
        )


def certificates_folder(model: str) -> str:
    """Return the folder, within an audit's, of the certificate of a model, whose name may be no name of a folder."""
    name = quote(model, safe="").replace(".", "%2E")
    return f"{_CERTIFICATES}/{name if len(name) <= _LONGEST_OF_ALL else _quoted(model)}"


def verdict_digest(unit: Unit, frame: pd.DataFrame | Mapping[str, npt.NDArray[Any]]) -> str:
    """Return 16 hexadecimal digits of what a shard says: its columns as numbers, what they cost left out."""
    digest = hashlib.sha256(_identity(unit))
    for name in (*VERDICTS, *([DISTANCE] if DISTANCE in frame else [])):
        kind = MEASURED.field(name).type.to_pandas_dtype()
        digest.update(np.asarray(frame[name], dtype=kind).tobytes())
    return digest.hexdigest()[:16]


def _digest(unit: Unit, content: bytes) -> str:
    """Return the checksum of a file as a certain shard: in another's place it is wrong."""
    return hashlib.sha256(_identity(unit) + content).hexdigest()[:16]


def _identity(unit: Unit) -> bytes:
    return json.dumps([unit.model, unit.attack, unit.shard]).encode()


def _begin(model: str, attack: str | None) -> str:
    return f"{model[:12]}-{CLEAN_NAME if attack is None else attack[:12]}"


def _quoted(name: str) -> str:
    """Write a name so that it can be a folder's, as Hive does, and that those who read it see the name."""
    text = quote(name, safe="")
    if len(text) <= _LONGEST_NAME:
        return text
    short = ""
    for letter in name:  # whole letters: half of one is no UTF-8
        if len(short) + len(quote(letter, safe="")) > _LONGEST_NAME - 17:
            break
        short += quote(letter, safe="")
    return f"{short}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
