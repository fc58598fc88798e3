"""What comes from files is parsed by models, and what doesn't fit is said in one sentence."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import pytest
from pydantic import ConfigDict, Field, field_validator

from art_classwise._core.schema import Record, parse
from art_classwise.errors import InputError


class Unit(Record):
    model_config = ConfigDict(extra="forbid")

    name: str
    size: Annotated[int, Field(ge=1)]


class Content(Record):
    kind: Literal["a", "b"]
    eps: float
    units: list[Unit]
    quick: bool = False

    @field_validator("eps")
    @classmethod
    def _positive(cls, value: float) -> float:
        if value <= 0:
            raise ValueError("a radius lies above 0.")
        return value


GOOD = {"kind": "a", "eps": 0.5, "units": [{"name": "x", "size": 3}]}


def test_a_dict_and_its_json_give_the_same_model():
    model = parse(Content, GOOD, "It")
    assert model == parse(Content, json.dumps(GOOD), "It") == parse(Content, json.dumps(GOOD).encode(), "It")
    assert (model.eps, model.units[0].size, model.quick) == (0.5, 3, False)
    assert parse(Content, {**GOOD, "of a later release": 1}, "It") == model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "c"}, 'run.json: `kind` must be "a" or "b", but is \'c\'.'),
        ({"eps": "1"}, "run.json: `eps` must be a number, but is '1'."),
        ({"eps": -1.0}, "run.json: `eps`: a radius lies above 0."),
        ({"quick": 1}, "run.json: `quick` must be True or False, but is 1."),
        ({"units": {}}, "run.json: `units` must be a list, but is {}."),
        ({"units": [{"name": "x"}]}, "run.json: `units.0.size` is missing."),
        ({"units": [{"name": "x", "size": 1.5}]}, "run.json: `units.0.size` must be a whole number, but is 1.5."),
        ({"units": [{"name": "x", "size": True}]}, "run.json: `units.0.size` must be a whole number, but is True."),
        ({"units": [{"name": 3, "size": 0}]}, "run.json: `units.0.name` must be text, but is 3 (1 more)."),
        ({"units": [{"name": "x", "size": 0}]}, "but is 0."),
        ({"units": [{**GOOD["units"][0], "a\x1b[1m\n": 0}]}, r"run.json: `units.0.'a\x1b[1m\n'` is unknown."),
        ({"units": "x" * 10**6}, "`units` must be a list, but is 'xxx"),
    ],
)
def test_a_message_names_the_place_what_is_allowed_and_what_is_there(change, message):
    with pytest.raises(InputError) as caught:
        parse(Content, GOOD | change, "run.json")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("content", ["{", b"\xff", "[" * 10_000, "[]", 3, None])
def test_what_is_no_record_at_all_is_refused(content):
    with pytest.raises(InputError, match=r"run\.json: "):
        parse(Content, content, "run.json")
