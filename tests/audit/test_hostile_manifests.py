"""Manifests that anyone may have written: a million of anything is refused, not counted."""

from __future__ import annotations

import json

import pytest

import art_classwise as acw
from art_classwise import InputError
from tests.support.results import make_result


def many(name, n, value):
    return {name: {f"{name} {i}": value(i) for i in range(n)}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            lambda c: many("models", 10_001, lambda i: f"{i:032x}"),
            "models must have at most 10,000 entries, but has more",
        ),
        (lambda c: many("attacks", 10_001, lambda i: c["attacks"]["fgsm"]), "attacks must have at most 10,000"),
        (lambda c: {"classes": [f"class {i}" for i in range(100_001)]}, "classes must have at most 100,000"),
        (
            lambda c: {"environments": c["environments"] * 4_097 or [environment(i) for i in range(4_097)]},
            "environments",
        ),
        (lambda c: {"commands": ["a"] * 10_001}, "commands must have at most 10,000"),
        (lambda c: {"examples": c["examples"] | {"n": 2_000_000}, "shard_size": 1}, "examples in shards of 1"),
        (
            lambda c: {**many("models", 9_999, lambda i: f"{i:032x}"), "examples": c["examples"] | {"n": 80_000}},
            "9999 models under 1 attacks in 1000 shards are more than 10,000,000 units",
        ),
        (lambda c: {"examples": c["examples"] | {"n": 10**400}}, "examples"),
        (lambda c: {"threat": {"norm": "Linf", "eps": 10**400}}, "threat.eps"),
        (lambda c: {"seed": 10**400}, "seed"),
        (lambda c: {"shard_size": 0}, "shard_size must be at least 1"),
        (lambda c: {"classes": "abc"}, "classes must be a list"),
        (lambda c: {"models": ["one"]}, "models must be an object"),
    ],
)
def test_what_no_audit_has_is_refused(changes, says, tmp_path):
    make_result(["a", "b", "c"]).save(tmp_path)
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes(content)))
    for partial in (False, True):
        with pytest.raises(InputError, match=says) as caught:
            acw.read_audit(tmp_path, partial=partial)
        assert len(str(caught.value)) < 600


def environment(i):
    return {
        "python": f"3.{i}",
        "versions": {},
        "system": "Linux",
        "cpu": "",
        "cpu_cores": 1,
        "torch_threads": 1,
        "gpus": [],
    }
