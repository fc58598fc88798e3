"""What files hold, as pydantic models; and what is wrong with a file, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from art_classwise.errors import InputError

__all__ = ["Record", "parse", "validation_message"]

_RecordT = TypeVar("_RecordT", bound="Record")


class Record(BaseModel):
    """A part of a file: immutable, without unknown fields, and strict: a bool is no number, nor is a string one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True)

    def updated(self: _RecordT, **changes: Any) -> _RecordT:
        """Return a copy with other values for some fields, checked as the constructor checks them.

        Raises:
            InputError: A value isn't allowed.
        """
        try:
            return type(self)(**{name: getattr(self, name) for name in self.model_fields_set} | changes)
        except ValidationError as error:
            raise InputError(validation_message(error)) from error


def parse(model: type[_RecordT], content: Any, what: str, advice: str) -> _RecordT:
    """Return what a file holds as a model.

    Args:
        model: The model.
        content: A dict.
        what: The file, to begin the message.
        advice: A sentence to end it.

    Raises:
        InputError: The content isn't allowed.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{what} {validation_message(error)}. {advice}") from error


_KINDS = {
    "string": "a text",
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "an object with named values",
    "model": "an object with named values",
    "dataclass": "an object with named values",
}
"""What pydantic expects, by the beginning of its kind of error."""

_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


def validation_message(error: ValidationError) -> str:
    """Return the first thing that a model found wrong, as the end of a sentence that begins with the file's name."""
    first, *others = error.errors(include_url=False)
    more = f" (and {len(others)} more)" if others else ""
    kind, where, context = first["type"], _dotted(first["loc"]), first.get("ctx", {})
    if kind == "missing":
        return f"is damaged: it lacks {where}{more}"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"holds {where}, which this release doesn't know{more}"
    if kind == "json_invalid":
        return f"is damaged: {context['error']}"
    if kind == "value_error":
        said = str(context["error"]).rstrip(".")
        return f"is damaged: {f'{where}: ' if where else ''}{said}{more}"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        limit = context[key]
        allowed = f"{words} {int(limit) if float(limit).is_integer() else limit}"
    elif kind == "union_tag_invalid":
        where, allowed = f"{where}.{context['discriminator'].strip(chr(39))}", context["expected_tags"]
        first["input"] = context["tag"]
    elif kind == "too_long":
        return f"is damaged: {where} must have at most {context['max_length']:,} entries, but has more{more}"
    elif kind == "literal_error":
        allowed = context["expected"]
    else:
        allowed = _KINDS.get(kind) or _KINDS.get(kind.partition("_")[0]) or first["msg"]
    return f"is damaged: {where or 'it'} must be {allowed}, but is {_shortened(first['input'])}{more}"


def _shortened(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        text = "a huge number"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _dotted(place: Sequence[int | str]) -> str:
    """Write where in the file something is; of names that may come from anyone, odd ones in quotation marks."""
    parts = [str(part) for part in place if part != "[key]"]
    return ".".join(part if part.replace("-", "_").isidentifier() or part.isdecimal() else repr(part) for part in parts)
