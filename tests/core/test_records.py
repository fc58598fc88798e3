"""What pydantic finds wrong, in our words."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError, field_validator

from art_classwise import InputError
from art_classwise._core.records import Record, validation_message


class Inner(Record):
    share: Annotated[float, Field(ge=0, le=1)]

    @field_validator("share")
    @classmethod
    def _not_a_half(cls, value):
        if value == 0.5:
            raise InputError("Halves aren't allowed.")
        return value


class Outer(Record):
    kind: Literal["a", "b"]
    names: tuple[str, ...] = ()
    parts: dict[str, Inner] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "is damaged: it lacks kind"),
        ("[]", "is damaged: it must be an object with named values, but is []"),
        ('{"kind": "c"}', "is damaged: kind must be 'a' or 'b', but is 'c'"),
        ('{"kind": "a", "names": "x"}', "is damaged: names must be a list, but is 'x'"),
        ('{"kind": "a", "names": [1]}', "is damaged: names.0 must be a text, but is 1"),
        ('{"kind": "a", "names": [1, 2]}', "is damaged: names.0 must be a text, but is 1 (and 1 more)"),
        ('{"kind": "a", "parts": {"p": {"share": 2}}}', "is damaged: parts.p.share must be at most 1, but is 2"),
        ('{"kind": "a", "parts": {"p": {"share": 0.5}}}', "is damaged: parts.p.share: Halves aren't allowed"),
        (
            '{"kind": "a", "parts": {"p q": {"share": "1"}}}',
            "is damaged: parts.'p q'.share must be a number, but is '1'",
        ),
        (
            '{"kind": "a", "parts": {"p": {"share": NaN}}}',
            "is damaged: parts.p.share must be a finite number, but is nan",
        ),
        ('{"kind": "a", "more": 1}', "holds more, which this release doesn't know"),
        ('{"kind": "a", "names": "%s"}' % ("x" * 500), f"is damaged: names must be a list, but is {'x' * 76!r:.77}..."),
    ],
)
def test_what_is_wrong_and_what_is_allowed(text, says):
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate_json(text)
    assert validation_message(caught.value) == says


def test_what_is_no_json_is_said():
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate_json("{")
    assert validation_message(caught.value).startswith("is damaged: ")


def test_an_updated_record_is_checked_and_the_first_stays():
    first = Outer(kind="a", names=("x",))
    assert first.updated(kind="b") == Outer(kind="b", names=("x",))
    assert first.kind == "a"
    with pytest.raises(InputError, match="kind must be 'a' or 'b', but is 'c'"):
        first.updated(kind="c")
