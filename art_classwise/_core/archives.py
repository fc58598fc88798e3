"""Zip archives of others, such as ``.pt`` and ``.npz`` files: what they hold is looked at before it is read."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from art_classwise.errors import first_line

__all__ = ["checked_directory", "damaged_entry"]

_AT_ONCE = 1 << 20  # bytes
_END = struct.Struct("<4s4H2LH")  # PKZIP's appnote, 4.3.16
_ENTRY_HEADER, _ENTRY_HEADER_SIZE = b"PK\x03\x04", 30


def checked_directory(file: BinaryIO, *, packed: bool = False) -> list[zipfile.ZipInfo]:
    """Return the entries of an archive, once its directory says one thing to whoever reads it, and nothing absurd.

    Readers differ in where they look for the directory, and in what they do with a name that stands twice: what one
    has checked, another would not load.

    Args:
        file: The archive, open and seekable.
        packed: Whether entries may be compressed, as ``numpy.savez_compressed`` does. If not, an archive unpacks to no
            more bytes than it has.

    Raises:
        ValueError: There is no whole directory; or entries are compressed, overlap, stand twice, or lie elsewhere. The
            message is the end of a sentence.
    """
    size = file.seek(0, 2)
    try:
        with zipfile.ZipFile(file) as archive:
            entries, comment = archive.infolist(), archive.comment
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OverflowError) as error:
        raise ValueError("is cut short (a download that broke off)") from error
    file.seek(size - _END.size)
    end = _END.unpack(file.read(_END.size))
    if comment or end[0] != b"PK\x05\x06":
        raise ValueError("is damaged: something stands behind its directory")
    if end[4] not in (len(entries), 0xFFFF) or end[3] != end[4]:
        raise ValueError(f"is damaged: its directory has {len(entries)} entries, but says {end[4]}")
    if entries and min(entry.header_offset for entry in entries) > 0:
        raise ValueError("is damaged: something stands before its first entry")  # which some readers allow for
    names: set[str] = set()
    begin = 0
    for entry in sorted(entries, key=lambda one: one.header_offset):
        if entry.filename in names:
            raise ValueError(f"is damaged: its entry {entry.filename!r} stands there twice")
        names.add(entry.filename)
        if entry.flag_bits & 1:
            raise ValueError(f"can't be read: its entry {entry.filename!r} is encrypted")
        if not packed and (entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size):
            raise ValueError(
                f"is not as torch.save writes it: its entry {entry.filename!r} is compressed, {entry.compress_size:,} "
                f"bytes that unpack to {entry.file_size:,}"
            )
        file.seek(max(0, entry.header_offset))
        if entry.header_offset < begin or file.read(4) != _ENTRY_HEADER:
            raise ValueError(f"is damaged: its entry {entry.filename!r} isn't where its directory says")
        begin = entry.header_offset + _ENTRY_HEADER_SIZE + entry.compress_size
        if begin > size:
            raise ValueError(f"is cut short: its entry {entry.filename!r} isn't whole")
    return entries


def damaged_entry(path: Path, entries: Iterable[zipfile.ZipInfo]) -> str | None:
    """Return what is wrong with the first entry that isn't as it was written, as the end of a sentence, if one isn't.

    Each entry has a CRC-32, which torch.load and memory maps don't look at. Archives without checksums, as torch writes
    them after ``torch.serialization.set_crc32_options(False)``, can't be checked.

    Args:
        path: The archive.
        entries: What :func:`checked_directory` returned.

    Raises:
        OSError: The file can't be read.
    """
    entries = list(entries)
    if not any(entry.CRC for entry in entries):
        return None
    with zipfile.ZipFile(path) as archive:
        for entry in entries:
            try:
                with archive.open(entry) as content:
                    while content.read(_AT_ONCE):
                        pass
            except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, struct.error) as error:
                why = "its bytes don't have the checksum that was written with them"
                if not str(error).startswith("Bad CRC"):
                    why = first_line(error)
                return f"is damaged in its entry {entry.filename!r}: {why}"
    return None
