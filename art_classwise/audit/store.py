"""Outcomes on disk: a folder with a Parquet table and a manifest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from art_classwise._files import written_aside
from art_classwise.errors import InputError
from art_classwise.threat import ThreatModel

if TYPE_CHECKING:
    from art_classwise.audit.result import AuditResult

__all__ = ["read_audit", "write_audit"]

_OUTCOMES, _MANIFEST, _SCHEMA_VERSION = "outcomes.parquet", "manifest.json", 1
_INFO = {"dataset", "split", "n_examples", "seed", "attacks", "created", "environment", "command"}
_NAME = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("model", _NAME),
        ("attack", _NAME),
        ("example", pa.int64()),
        ("label", pa.int32()),
        ("clean_prediction", pa.int32()),
        ("prediction", pa.int32()),
        ("withstood", pa.bool_()),
        ("clean_margin", pa.float32()),
        ("margin", pa.float32()),
        ("perturbation", pa.float32()),
        ("zero_gradient", pa.bool_()),
    ]
)


def write_audit(result: AuditResult, folder: Path) -> None:
    """Write outcomes and manifest, each aside and then renamed; the manifest last.

    Raises:
        InputError: A file can't be written.
    """
    table = pa.Table.from_pandas(result.outcomes, preserve_index=False)
    table = table.select(SCHEMA.names).cast(SCHEMA).replace_schema_metadata(None)
    manifest = {
        "schema": _SCHEMA_VERSION,
        "classes": list(result.classes),
        "threat": {"norm": result.threat.norm, "eps": result.threat.eps},
        "models": list(result.models),
        "attacks": list(result.attacks),
        "info": result.info,
    }
    try:
        with written_aside(folder / _OUTCOMES) as aside, aside.open("wb") as file:
            pq.write_table(table, file, compression="zstd")  # by a path, Arrow takes UTF-8 names only
        with written_aside(folder / _MANIFEST) as aside:
            aside.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"The outcomes can't be written to {folder.absolute()}: {error}") from error


def read_audit(folder: str | os.PathLike[str]) -> AuditResult:
    """Read the outcomes that :meth:`AuditResult.save` or an audit with a ``store`` wrote.

    Raises:
        InputError: There are none, or they are damaged or of another schema.
    """
    from art_classwise.audit.result import AuditResult

    path = Path(folder)
    for name in (_MANIFEST, _OUTCOMES):
        if not (path / name).is_file():
            raise InputError(f"{path.absolute()} holds no audit: there is no {name}.")
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        if manifest["schema"] != _SCHEMA_VERSION:
            raise InputError(
                f"{path.absolute()} is an audit of schema {manifest['schema']}; this release reads {_SCHEMA_VERSION}."
            )
        threat = ThreatModel(manifest["threat"]["norm"], manifest["threat"]["eps"])
        classes, info = tuple(str(c) for c in manifest["classes"]), dict(manifest["info"])
        lacking = _INFO - info.keys()
        if lacking:
            raise KeyError(*sorted(lacking))
        orders = {"model": list(manifest["models"]), "attack": list(manifest["attacks"])}
    except InputError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path / _MANIFEST} is damaged: {error!r}.") from error
    try:
        with (path / _OUTCOMES).open("rb") as file:
            table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path / _OUTCOMES} is damaged: {error}.") from error
    if not table.schema.equals(SCHEMA):
        raise InputError(f"{path / _OUTCOMES} has other columns than an audit's outcomes: {table.schema.names}.")
    outcomes = table.to_pandas()
    for column, order in orders.items():
        if set(outcomes[column].cat.categories) != set(order):
            raise InputError(f"{path}: manifest and outcomes name different {column}s.")
        outcomes[column] = pd.Categorical(outcomes[column].astype(str), categories=order)
    if len(outcomes) == 0 or not outcomes["label"].between(0, len(classes) - 1).all():
        raise InputError(f"{path / _OUTCOMES} has no rows, or labels outside the {len(classes)} classes.")
    return AuditResult(outcomes=outcomes, classes=classes, threat=threat, info=info)
