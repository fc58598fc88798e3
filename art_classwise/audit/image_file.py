"""Attacked images in an audit's folder: one Parquet file, of which nothing is believed that doesn't fit the audit."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from art_classwise._core.folders import Folder
from art_classwise.audit.attacked_images import AttackedImage, is_within
from art_classwise.audit.manifest import Manifest
from art_classwise.audit.outcomes import from_parquet
from art_classwise.errors import InputError, first_line

__all__ = ["IMAGES_FILE", "read_images", "write_images"]

IMAGES_FILE = "attacked_images.parquet"
_MOST_ROWS, _MOST_BYTES, _MOST_SIDE = 200, 64 * 2**20, 4096  # of a file that may come from anyone

_SCHEMA = pa.schema(
    [
        *(pa.field(n, pa.string(), nullable=False) for n in ("model", "model_key", "attack", "attack_key")),
        pa.field("example", pa.int64(), nullable=False),
        *(pa.field(n, pa.int32(), nullable=False) for n in ("label", "prediction", "channels", "height", "width")),
        *(pa.field(n, pa.binary(), nullable=False) for n in ("original", "attacked")),
    ]
)


def write_images(images: Iterable[AttackedImage], manifest: Manifest, folder: Folder) -> None:
    """Write images to an audit's folder, in the place of those that lie there; without images none are left there.

    Args:
        images: Of models and attacks of the audit.
        manifest: The audit's.
        folder: Of the audit.
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
        folder.remove(IMAGES_FILE)
        return
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), content, compression="zstd")
    folder.write(IMAGES_FILE, content.getvalue())


def read_images(folder: Folder, manifest: Manifest, outcomes: pd.DataFrame) -> tuple[AttackedImage, ...]:
    """Read the images in an audit's folder, those of models and attacks that it still has.

    Raises:
        InputError: The file is damaged, or holds something else than images that an attack of the audit may have made.
    """
    try:
        if not folder.exists(IMAGES_FILE):
            return ()
        rows = _checked_rows(folder)
        images = [_image(row, manifest) for row in rows if _is_of(row, manifest)]
    except (ValueError, OSError) as error:  # a link, for one
        where = folder.where(IMAGES_FILE)
        raise InputError(f"{where} is damaged, so its images aren't shown: {first_line(error)}.") from error
    known = set(outcomes[["model", "attack", "example", "label"]].itertuples(index=False, name=None))
    return tuple(one for one in images if (one.model, one.attack, one.example, one.label) in known)


def _checked_rows(folder: Folder) -> list[dict[str, Any]]:
    if folder.size(IMAGES_FILE) > _MOST_BYTES:
        raise ValueError("it is too large")
    content = folder.read(IMAGES_FILE)
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
