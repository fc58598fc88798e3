"""JSON Schemas in the package: what the models say, and what documents of today and of before satisfy."""

from __future__ import annotations

import copy
import json
from importlib.resources import files

import pydantic
import pytest
from places import ROOT

from art_classwise.cli._documents import DOCUMENTS, Document
from art_classwise.cli._json import SCHEMA
from art_classwise.cli._schemas import schemas, write_schemas

jsonschema = pytest.importorskip("jsonschema")

KEPT = ROOT / "tests" / "kept"
GOLDEN = sorted((KEPT / "documents").glob("*.json"))


def shipped():
    return {file.name: json.loads(file.read_text()) for file in (files("art_classwise") / "schemas").iterdir()}


def problems(content, name):
    validator = jsonschema.Draft202012Validator(shipped()[name])
    return [f"{list(error.absolute_path)}: {error.message}" for error in validator.iter_errors(content)]


@pytest.mark.skipif(
    tuple(map(int, pydantic.VERSION.split(".")[:2])) < (2, 11), reason="earlier ones write schemas in other words"
)
def test_schemas_are_those_of_the_models():
    made = schemas()
    assert {name: json.loads(text) for name, text in made.items()} == shipped(), "run make schemas"
    for name, schema in shipped().items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["$id"] == f"urn:art-classwise:{name.removesuffix('.schema.json').replace('-', ':')}"


def test_each_kind_has_a_schema_of_the_version_that_is_written():
    assert {f"{kind}-{SCHEMA}.schema.json" for kind in DOCUMENTS} <= set(shipped())
    assert Document.model_fields["schema_version"].annotation.__args__ == (SCHEMA,)
    assert {file.name for file in GOLDEN} >= {f"{kind}.json" for kind in DOCUMENTS}


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_kept_documents_still_fit(file):
    content = json.loads(file.read_text())
    assert problems(content, f"{content['kind']}-{content['schema']}.schema.json") == []
    DOCUMENTS[content["kind"]].model_validate_json(file.read_text())
    assert (
        problems({**content, "new": 1}, f"{content['kind']}-{content['schema']}.schema.json") == []
    )  # one may be added


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_a_document_without_a_field_does_not_fit(file):
    content = json.loads(file.read_text())
    name = f"{content['kind']}-{content['schema']}.schema.json"
    required = shipped()[name]["required"]
    assert {"schema", "kind", "art_classwise"} < set(required)
    for key in required:
        assert problems({k: v for k, v in content.items() if k != key}, name), key
    for key, wrong in (("schema", 3), ("kind", "other"), ("art_classwise", 1)):
        assert problems({**content, key: wrong}, name), key


def test_manifests_fit_from_the_first_release_on(tmp_path, result):
    first = json.loads((KEPT / "audit" / "manifest.json").read_text())
    assert problems(first, "manifest-2.schema.json") == []
    result.save(tmp_path / "a")
    now = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert problems(now, "manifest-2.schema.json") == []
    for change in ({"schema": 1}, {"seed": -1}, {"threat": "Linf"}, {"models": {"net": "../etc"}}, {"shard_size": 0}):
        assert problems({**copy.deepcopy(now), **change}, "manifest-2.schema.json"), change


def test_write_schemas_leaves_nothing_else(tmp_path):
    (tmp_path / "audit-1.schema.json").touch()
    (tmp_path / "notes.txt").touch()
    write_schemas(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {*schemas(), "notes.txt"}
