"""Stores as a forger leaves them: files changed, and the digests that anyone can compute computed anew."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pyarrow.parquet as pq

from art_classwise.audit.outcomes import OUTCOMES, to_parquet
from art_classwise.audit.store import Store, _digest, verdict_digest


def manifest_of(folder):
    return json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))


def write_manifest(folder, content):
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (Path(folder) / "manifest.json").write_text(text, encoding="utf-8")


def relisted(folder):
    """List the files that are there, as they are."""
    folder, content = Path(folder), manifest_of(folder)
    found = [*folder.glob("outcomes/*/*/*.parquet"), *folder.glob("attacked_images*.parquet")]
    found += folder.glob("certificates/*/certifi*")
    content["files"] = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(found)
    }
    write_manifest(folder, content)


def units(folder):
    """The unit of each shard's file."""
    store = Store(folder)
    manifest = store.manifest()
    return {
        Path(folder) / shard.name: shard.unit
        for model in dict.fromkeys(manifest.models.values())
        for attack in (None, *(one.fingerprint for one in manifest.attacks.values()))
        for shard in store.shards(model, attack).values()
    }


def rewritten(folder, path, change):
    """Change a shard's table and give it the name that it then must have; list it."""
    unit, frame = units(folder)[path], pq.read_table(path).to_pandas()
    frame = change(frame)
    path.unlink()
    content = to_parquet(frame, OUTCOMES)
    begin = re.sub(r"-[0-9a-f]{16}-[0-9a-f]{16}\.parquet$", "", path.name)
    new = path.with_name(f"{begin}-{verdict_digest(unit, frame)}-{_digest(unit, content)}.parquet")
    new.write_bytes(content)
    relisted(folder)
    return new
