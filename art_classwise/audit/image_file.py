"""Attacked images in an audit's folder: one Parquet file, of which nothing is believed that doesn't fit the audit."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from art_classwise._core.fingerprints import digest
from art_classwise._core.folders import Folder
from art_classwise.audit.attacked_images import AttackedImage, is_within
from art_classwise.audit.manifest import Manifest
from art_classwise.audit.outcomes import from_parquet
from art_classwise.audit.store import Store
from art_classwise.errors import InputError, first_line

__all__ = ["image_files", "keep_images", "read_images"]

_MOST_ROWS, _MOST_BYTES, _MOST_SIDE = 200, 64 * 2**20, 4096  # of a file that may come from anyone

_SCHEMA = pa.schema(
    [
        *(pa.field(n, pa.string(), nullable=False) for n in ("model", "model_key", "attack", "attack_key")),
        pa.field("example", pa.int64(), nullable=False),
        *(pa.field(n, pa.int32(), nullable=False) for n in ("label", "prediction", "channels", "height", "width")),
        *(pa.field(n, pa.binary(), nullable=False) for n in ("original", "attacked")),
    ]
)


def image_files(images: Iterable[AttackedImage], manifest: Manifest) -> dict[str, bytes]:
    """Return the file of images, by its name; nothing where there is no image.

    Args:
        images: Of models and attacks of the audit.
        manifest: The audit's.
    """
    rows = [
        {
            "model": one.model,
            "model_key": manifest.models[one.model],
            "attack": one.attack,
            "attack_key": manifest.attacks[one.attack].fingerprint,
            **{name: getattr(one, name) for name in ("example", "label", "prediction")},
            **dict(zip(("channels", "height", "width"), one.original.shape, strict=True)),
            **{name: getattr(one, name).tobytes() for name in ("original", "attacked")},
        }
        for one in images
    ]
    if not rows:
        return {}
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), file, compression="zstd")
    content = file.getvalue()
    return {f"attacked_images-{digest(content)[:16]}.parquet": content}


def keep_images(images: Iterable[AttackedImage], manifest: Manifest, store: Store) -> str | None:
    """Write images to an audit's folder, in the place of those that lie there, and list them in its manifest.

    Returns:
        As :meth:`art_classwise.audit.store.Store.seal`.

    Raises:
        StoreError: They can't be written.
    """
    made = image_files(images, manifest)
    for name, content in made.items():
        store.put(name, content)
    for name in store.image_files():
        if name not in made:
            store.folder.remove(name)
    return store.seal()


def read_images(store: Store, outcomes: pd.DataFrame) -> tuple[AttackedImage, ...]:
    """Read the images in an audit's folder, those of models and attacks that it still has.

    Raises:
        InputError: The file is damaged, or holds something else than images that an attack of the audit may have made.
    """
    manifest, name = store.manifest(), ""
    try:
        name = store.images_file(manifest) or ""
        if not name:
            return ()
        rows = _checked_rows(store.folder, name)
        if store.digest_of(name) != manifest.files.get(name, store.digest_of(name)):
            raise ValueError("it isn't the file that the manifest lists")
        images = [_image(row, manifest) for row in rows if _is_of(row, manifest)]
    except (ValueError, OSError) as error:  # a link, for one
        where = store.folder.where(name)
        raise InputError(f"{where} is damaged, so its images aren't shown: {first_line(error)}.") from error
    known = set(outcomes[["model", "attack", "example", "label"]].itertuples(index=False, name=None))
    return tuple(one for one in images if (one.model, one.attack, one.example, one.label) in known)


def _checked_rows(folder: Folder, name: str) -> list[dict[str, Any]]:
    if folder.size(name) > _MOST_BYTES:
        raise ValueError("it is too large")
    content = folder.read(name)
    try:
        about = pq.ParquetFile(pa.BufferReader(content)).metadata  # before anything is unpacked
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(first_line(error)) from error
    unpacked = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    if about.num_rows > _MOST_ROWS or unpacked > _MOST_BYTES:
        raise ValueError(f"it holds {about.num_rows} images of {unpacked} bytes")
    rows: list[dict[str, Any]] = from_parquet(content, _SCHEMA).to_pylist()
    return rows


def _is_of(row: Mapping[str, Any], manifest: Manifest) -> bool:
    attack = manifest.attacks.get(row["attack"])
    same_model = manifest.models.get(row["model"]) == row["model_key"]
    return same_model and attack is not None and attack.fingerprint == row["attack_key"]


def _image(row: Mapping[str, Any], manifest: Manifest) -> AttackedImage:
    shape = row["channels"], row["height"], row["width"]
    if shape[0] not in (1, 3) or not all(1 <= side <= _MOST_SIDE for side in shape[1:]):
        raise ValueError(f"an image has the shape {shape}")
    if not len(row["original"]) == len(row["attacked"]) == np.prod(shape):
        raise ValueError("an image has more or fewer values than its shape says")
    original, attacked = (np.frombuffer(row[name], np.uint8).reshape(shape) for name in ("original", "attacked"))
    names = {name: row[name] for name in ("model", "attack", "example", "label", "prediction")}
    if not all(0 <= row[name] < len(manifest.classes) for name in ("label", "prediction")):
        raise ValueError("a label or prediction is no class")
    if row["label"] == row["prediction"]:
        raise ValueError("an image isn't broken")
    if not is_within(manifest.threat, attacked[None], original[None])[0]:
        raise ValueError("an image lies outside of the ball")
    return AttackedImage(**names, original=original, attacked=attacked)
