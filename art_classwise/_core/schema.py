"""What comes from files, parsed by pydantic models; what doesn't fit is said in one sentence."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from art_classwise.errors import InputError

__all__ = ["Record", "parse"]

Model = TypeVar("Model", bound=BaseModel)


class Record(BaseModel):
    """A record of a file: values aren't converted, a whole number for a float excepted, and extra ones are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", arbitrary_types_allowed=True)


def parse(model: type[Model], content: Any, where: str) -> Model:
    """Return what a file holds as a model.

    Args:
        model: The pydantic model.
        content: A dict; or the text, or bytes, of a JSON document.
        where: What holds it, to begin the message: ``"/runs/mart.pt is damaged"``, say.

    Raises:
        InputError: It doesn't fit. The message has the dotted path of the first value that doesn't, what is allowed
            there and what it is; and says how many more there are.
    """
    try:
        if isinstance(content, (str, bytes)):
            return model.model_validate_json(content)
        return model.model_validate(content)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        more = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InputError(f"{where}: {_sentence(faults[0])}{more}.") from error


def _sentence(fault: Mapping[str, Any]) -> str:
    """Return what is wrong with one value, without a full stop."""
    path = ".".join(_shown(key) for key in fault["loc"])
    name, kind, message = (f"`{path}`" if path else "the content"), str(fault["type"]), str(fault["msg"])
    if kind == "json_invalid":
        return "it is not valid JSON"
    if kind == "missing":
        return f"{name} is missing"
    if kind == "extra_forbidden":
        return f"{name} is unknown"
    if kind in ("value_error", "assertion_error"):  # a validator of ours, whose message says what is allowed
        return f"{name}: {message.partition(', ')[2].rstrip('.')}"
    allowed = _ALLOWED.get(kind) or message.removeprefix("Input should be ").removeprefix("Input should have ")
    if kind == "literal_error":
        allowed = str(fault["ctx"]["expected"]).replace("'", '"')
    return f"{name} must be {allowed}, but is {_VALUES.repr(fault['input'])}"


_ALLOWED = {  # where pydantic's words aren't ours
    "bool_type": "True or False",
    "dict_type": "a dict",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a dict",
    "none_required": "None",
    "string_type": "text",
    "tuple_type": "a list",
}

_VALUES = reprlib.Repr()  # of what a file holds, which may be endless
_VALUES.maxstring = _VALUES.maxother = 80


def _shown(key: int | str) -> str:
    """Return a part of a path; names that aren't plain words are quoted, whatever characters they hold."""
    return key if isinstance(key, str) and key.isidentifier() else str(key) if isinstance(key, int) else ascii(key)
