"""JSON Schemas of what the package writes: the files of ``art_classwise/schemas``, which ``make schemas`` writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from art_classwise.audit.manifest import Manifest
from art_classwise.cli._documents import DOCUMENTS
from art_classwise.cli._json import SCHEMA
from art_classwise.evidence.attest import Statement

__all__ = ["FOLDER", "schemas", "write_schemas"]

FOLDER: Final = Path(__file__).parents[1] / "schemas"

_MANIFEST = 2
_SCHEMAS: Final[dict[str, tuple[type[BaseModel], int]]] = {
    "manifest": (Manifest, _MANIFEST),
    "attestation": (Statement, 1),
    **{kind: (model, SCHEMA) for kind, model in DOCUMENTS.items()},
}
"""What is described: name, model and version. Another kind of file is another row."""

# What manifests of 0.1.0 lack, and readers add: by the name of the part, "" of the whole.
_NEWER = {"": {"probes", "published"}, "Examples": {"saved"}}


def schemas() -> dict[str, str]:
    """Return the schemas as the contents of files, by their names: ``KIND-VERSION.schema.json``."""
    return {
        f"{name}-{version}.schema.json": _schema(name, version, model) for name, (model, version) in _SCHEMAS.items()
    }


def _schema(name: str, version: int, model: type[BaseModel]) -> str:
    content: dict[str, Any] = model.model_json_schema(by_alias=True)
    if name == "manifest":
        for part, newer in _NEWER.items():
            of = content if not part else content["$defs"][part]
            of["required"] = [key for key in of["required"] if key not in newer]
        probe = content["$defs"]["Probe"]  # which releases give other fields: Probe.completed
        probe["required"], probe["additionalProperties"] = [], True
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:art-classwise:{name}:{version}",
        "title": f"art-classwise {name}, version {version}",
    }
    return json.dumps({**head, **{k: v for k, v in _plain(content).items() if k != "title"}}, indent=1) + "\n"


def _plain(value: Any) -> Any:
    """Return a schema without titles, and with the first paragraph of each description: docstrings are for Python."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    told = {}
    for key, one in value.items():
        if key == "title" and isinstance(one, str):
            continue
        if key == "description" and isinstance(one, str):
            one = re.sub(r":\w+:`([^`]+)`|``([^`]+)``", r"\1\2", " ".join(one.split("\n\n")[0].split()))
        told[key] = _plain(one)
    return told


def write_schemas(folder: Path = FOLDER) -> None:
    """Write the schemas into a folder, and remove those that there are no more."""
    made = schemas()
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")
    for old in folder.glob("*.schema.json"):
        if old.name not in made:
            old.unlink()


if __name__ == "__main__":
    write_schemas()
