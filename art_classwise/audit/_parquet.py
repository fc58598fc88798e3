"""Shards of outcomes as Parquet, in memory."""

from __future__ import annotations

import io

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from art_classwise.errors import first_line

__all__ = ["from_parquet", "to_parquet"]


def to_parquet(frame: pd.DataFrame, schema: pa.Schema) -> bytes:
    """Return a shard as the content of a file.

    Args:
        frame: With the schema's columns.
        schema: :data:`art_classwise.audit._outcomes.CLEAN` or :data:`~art_classwise.audit._outcomes.ATTACKED`.
    """
    rows = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    buffer = io.BytesIO()
    pq.write_table(
        rows.replace_schema_metadata(None),
        buffer,
        compression="zstd",
        use_dictionary=[c for c in ("label", "prediction", "perturbation") if c in schema.names],
        column_encoding={"example": "DELTA_BINARY_PACKED", "margin": "BYTE_STREAM_SPLIT"},
        write_statistics=False,
        store_schema=False,
    )
    return buffer.getvalue()


def from_parquet(content: bytes, schema: pa.Schema) -> pa.Table:
    """Return a shard from the content of its file.

    Raises:
        ValueError: It is no Parquet, or has other columns than the schema; the text says it.
    """
    try:
        read = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)  # others' tables are larger
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(first_line(error)) from error
    read = read.replace_schema_metadata(None)
    if not read.schema.equals(schema):
        raise ValueError(f"it has other columns than an audit's shard: {', '.join(read.schema.names)}")
    return read
