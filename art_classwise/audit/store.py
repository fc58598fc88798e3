"""Outcomes on disk: a folder with a manifest, and a Parquet file for each shard of each model and attack.

    manifest.json                                        what was attacked, how, with what
    shards/<model>/<attack>/<number>-<checksum>.parquet  named by fingerprints; an attack "clean" for none
    locks/                                               of shards being computed

A shard is written aside and renamed, so that it is whole or not there; a checksum is part of its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
from filelock import FileLock, Timeout

from art_classwise._core.files import remove_left_aside, written_aside
from art_classwise.audit.manifest import Manifest
from art_classwise.audit.outcomes import ATTACKED, CLEAN, from_parquet, to_parquet
from art_classwise.errors import InputError, first_line

__all__ = ["DamagedShardError", "MissingShardError", "Store", "StoreError", "Unit"]

_SHARD = re.compile(r"(\d{5,})-([0-9a-f]{16})\.parquet")
_WITHOUT = "clean"
_MANIFEST = "manifest.json"
_LOCK_SECONDS = 60


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

    @property
    def folder(self) -> Path:
        """Where it lies, in the store."""
        return Path("shards", self.model, self.attack or _WITHOUT)

    @property
    def lock(self) -> str:
        """Name of its lock."""
        return f"{self.model[:12]}-{(self.attack or _WITHOUT)[:12]}-{self.shard:05d}"


class DamagedShardError(InputError):
    """A shard isn't what was written.

    Attributes:
        unit: The shard.
        path: Its file.
        why: What is wrong with it.
        whole: Whether it is as it was written, but doesn't fit the others.
    """

    def __init__(self, unit: Unit, path: Path, why: str, *, whole: bool = False) -> None:
        super().__init__(
            f"The shard {path.absolute()} is damaged: {why}. Run the same audit again to compute it again."
        )
        self.unit, self.path, self.why, self.whole = unit, path, why, whole


class MissingShardError(InputError):
    """A shard isn't there, or no longer: another process may have found it damaged."""


class StoreError(InputError):
    """The folder can't be written or locked, or holds another audit: whatever the model, nothing goes on there."""


class Store:
    """The folder of an audit. Any number of processes may work in it at once.

    Args:
        folder: It must exist.

    Raises:
        InputError: The folder, or what an audit keeps in it, is a symbolic link.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parsed: tuple[tuple[int, int, int], Manifest] | None = None  # of which state of the file
        for path in (folder, folder / _MANIFEST, folder / "shards", folder / "locks"):
            _refuse_link(path)

    @property
    def is_begun(self) -> bool:
        """Whether an audit lies there, finished or not."""
        return (self.folder / _MANIFEST).exists()

    def manifest(self) -> Manifest:
        """Read the manifest.

        Raises:
            InputError: There is none, or it is damaged, of another schema, or not one of an audit.
        """
        path = self.folder / _MANIFEST
        _refuse_link(path)
        try:
            state = _file_state(path)
            if self._parsed is not None and self._parsed[0] == state:
                return self._parsed[1]
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            reason = "there is no manifest.json" if self.folder.is_dir() else "there is no such folder"
            how = "An audit that is kept writes one: `art-classwise audit --out FOLDER`, ClassWiseAudit(store=...)."
            raise InputError(f"{self.folder.absolute()} holds no audit: {reason}. {how}") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{path.absolute()} can't be read: {first_line(error)}") from error
        try:
            manifest = Manifest.from_json(text)
        except InputError as error:
            raise InputError(f"{path.absolute()} {error}.") from error
        self._parsed = state, manifest
        return manifest

    def write_manifest(self, manifest: Manifest) -> None:
        """Write the manifest; the caller holds the lock ``"manifest"``.

        Raises:
            InputError: It can't be written.
        """
        with self.writing(self.folder / _MANIFEST) as aside:
            aside.write_text(manifest.to_json(), encoding="utf-8")
        self._parsed = _file_state(self.folder / _MANIFEST), manifest

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
            InputError: The folder holds another audit; it can't be written; or its manifest is damaged.
        """
        with self.lock("manifest"):
            remove_left_aside(self.folder, _MANIFEST)
            held = self.manifest() if self.is_begun else None
            try:
                now = requested if held is None else held.extended(requested)
            except InputError as error:
                raise InputError(self._refused(error)) from error
            if now != held:
                self.write_manifest(now)
            return now

    def shards(self, model: str, attack: str | None) -> dict[int, Path]:
        """Return which shards of a model and an attack are there, and where."""
        folder = self.folder / Unit(model, attack, 0).folder
        _refuse_link(folder.parent)
        _refuse_link(folder)
        try:
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return {}
        matches = [(_SHARD.fullmatch(name), name) for name in names]
        return {int(match[1]): folder / name for match, name in matches if match}

    def has(self, unit: Unit) -> bool:
        """Return whether a shard is there."""
        return unit.shard in self.shards(unit.model, unit.attack)

    def read(self, unit: Unit) -> pd.DataFrame:
        """Return a shard, as :data:`CLEAN` or :data:`ATTACKED`.

        Raises:
            DamagedShardError: Its file isn't what was written, or not of this shard.
            MissingShardError: It isn't there.
        """
        path = self.shards(unit.model, unit.attack).get(unit.shard)
        if path is None:
            raise MissingShardError(f"There is no shard {unit.shard} in {(self.folder / unit.folder).absolute()}.")
        frame: pd.DataFrame = self.table(unit, path).to_pandas()
        return frame

    def table(self, unit: Unit, path: Path) -> pa.Table:
        """Return a shard from its file, checked.

        Raises:
            DamagedShardError: It isn't what was written, or not of this shard.
            MissingShardError: It isn't there, or no longer.
        """
        _refuse_link(path)
        match = _SHARD.fullmatch(path.name)
        assert match is not None
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # another process, which found it damaged, was faster
            raise MissingShardError(f"There is no {path.absolute()}.") from None
        except OSError as error:
            raise DamagedShardError(unit, path, first_line(error)) from error
        if _checksum(unit, content) != match[2]:
            raise DamagedShardError(
                unit, path, f"its {len(content)} bytes, as this shard, don't have the checksum in its name"
            )
        try:
            return from_parquet(content, _schema(unit))
        except ValueError as error:
            raise DamagedShardError(unit, path, str(error)) from error

    def write(self, unit: Unit, frame: pd.DataFrame) -> Path:
        """Write a shard, aside and then renamed; return where.

        Raises:
            InputError: It can't be written, on a full disk, say; the others are as they were.
        """
        content = to_parquet(frame, _schema(unit))
        path = self.folder / unit.folder / f"{unit.shard:05d}-{_checksum(unit, content)}.parquet"
        with self.writing(path) as aside:
            aside.write_bytes(content)
        return path

    def drop(self, damaged: DamagedShardError) -> bool:
        """Remove a damaged shard, if no other process has removed it, or computed it anew, since it was read.

        Returns:
            Whether this process removed it.
        """
        with self.claim(damaged.unit) as mine:
            if not mine:
                return False
            try:
                self.table(damaged.unit, damaged.path)
            except MissingShardError:
                return False
            except DamagedShardError:
                pass
            else:
                if not damaged.whole:
                    return False
            damaged.path.unlink(missing_ok=True)
            return True

    @contextmanager
    def claim(self, unit: Unit) -> Iterator[bool]:
        """Take a shard to compute, if no other process has it.

        Yields:
            Whether it is this process's until the block ends. If the process dies, the system gives it free.

        Raises:
            InputError: The folder can't be written or locked.
        """
        with ExitStack() as held:
            try:
                path = held.enter_context(self.lock(unit.lock, 0))
            except Timeout:
                yield False
                return
            remove_left_aside(self.folder / unit.folder, f"{unit.shard:05d}-*")
            yield True
            if self.has(unit):  # else two processes might hold locks of one name, and compute it both
                path.unlink(missing_ok=True)

    def tidy(self, units: Collection[Unit]) -> None:
        """Remove locks that killed processes left of units that are there."""
        abandoned = {path.stem for path in (self.folder / "locks").glob("*.lock")}
        for name in abandoned & {unit.lock for unit in units}:
            with suppress(Timeout, InputError), self.lock(name, 0) as path:
                path.unlink(missing_ok=True)

    @contextmanager
    def lock(self, name: str, seconds: float | None = None) -> Iterator[Path]:
        """Hold a lock while the block runs; yield its file.

        Args:
            name: Of the lock.
            seconds: How long to wait for it; a minute if absent.

        Raises:
            filelock.Timeout: Another has it, and ``seconds`` is 0.
            InputError: Another has it for too long, or the folder can't be written or locked.
        """
        seconds = _LOCK_SECONDS if seconds is None else seconds
        path = self.folder / "locks" / f"{name}.lock"
        try:
            path.parent.mkdir(exist_ok=True)
            _refuse_link(path)
            lock = FileLock(path)
            lock.acquire(timeout=seconds)
        except Timeout:
            if seconds == 0:
                raise
            raise StoreError(
                f"Another process has held {path.absolute()} for {seconds} s: is it stopped? End it and try again."
            ) from None
        except (OSError, NotImplementedError) as error:
            raise self._failed(path, error) from error
        try:
            yield path
        finally:
            lock.release()

    @contextmanager
    def writing(self, path: Path) -> Iterator[Path]:
        """Yield where to write a file that takes its place once the block ends.

        Raises:
            InputError: It can't be written, on a full disk, say.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_aside(path) as aside:
                yield aside
        except OSError as error:
            raise self._failed(path, error) from error

    def _refused(self, error: InputError) -> str:
        return (
            f"{self.folder.absolute()} can't be used, since {error}. Choose another folder for this one "
            "(`store`, --out on the command line), or delete that one."
        )

    def _failed(self, path: Path, error: Exception) -> StoreError:
        done = sum(1 for _ in (self.folder / "shards").rglob("*.parquet"))
        why = getattr(error, "strerror", None) or first_line(error)
        return StoreError(
            f"{path.absolute()} can't be written: {why}. The {done} shards that are finished are intact: make room, or "
            "see to the folder, and run the same audit again, which goes on from there."
        )


def _file_state(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file is written or replaced."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _schema(unit: Unit) -> pa.Schema:
    return CLEAN if unit.attack is None else ATTACKED


def _checksum(unit: Unit, content: bytes) -> str:
    """Return the checksum of a file as a certain shard: in another's place it is wrong."""
    identity = json.dumps([unit.model, unit.attack, unit.shard]).encode()
    return hashlib.sha256(identity + content).hexdigest()[:16]


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise InputError(
            f"{path.absolute()} is a symbolic link, and an audit writes into no folder or file that another may have "
            f"chosen: name the folder itself, {path.resolve()}, or remove the link."
        )
