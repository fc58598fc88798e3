"""Checks of what a manifest holds, which may come from anyone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from art_classwise.errors import InputError, check_number, check_positive

__all__ = [
    "FINGERPRINT",
    "as_dict",
    "as_kind",
    "check_environment",
    "check_fingerprint",
    "check_keys",
    "check_published",
]

FINGERPRINT = re.compile(r"[0-9a-f]{32}")
"""What tells models, attacks and examples apart, and names folders."""


def check_keys(where: str, content: object, keys: Iterable[str]) -> None:
    """Check that a part of a manifest, named as in ``"threat."``, has these keys and no other."""
    known = [*keys]
    given = as_dict(where.rstrip("."), content)
    lacking, foreign = [k for k in known if k not in given], [k for k in given if k not in known]
    if lacking:
        raise InputError(f"is damaged: it lacks {where}{lacking[0]}")
    if foreign:
        raise InputError(f"holds {where}{foreign[0]!r}, which no audit writes")


def as_dict(what: str, value: object) -> dict[str, Any]:
    """Return a value, if it is a dict."""
    given: dict[str, Any] = as_kind(what or "it", value, dict)
    return given


def as_kind(what: str, value: object, kind: type) -> Any:
    """Return a value, if it is of a type."""
    if not isinstance(value, kind):
        raise InputError(f"is damaged: {what} must be a {kind.__name__}, but is {value!r}"[:200])
    return value


def check_fingerprint(value: object) -> str:
    """Check what becomes the name of a folder."""
    if not isinstance(value, str) or not FINGERPRINT.fullmatch(value):
        raise InputError(f"a fingerprint must be 32 hexadecimal digits, but one is {value!r}"[:200])
    return value


def check_published(name: str, value: object) -> dict[str, Any]:
    """Return what is published of a model, if it is what a manifest holds of it.

    Raises:
        InputError: It isn't.
    """
    where = f"published.{name}."
    check_keys(where, value, ("source", "norm", "eps", "clean", "robust"))
    told = as_dict(where, value)
    for key in ("source", "norm"):
        as_kind(where + key, told[key], str)
    for key in ("clean", "robust"):
        if told[key] is not None:
            check_number(where + key, told[key], 0, 1)
    if told["eps"] is not None or told["robust"] is not None:
        check_positive(where + "eps", told["eps"])
    return told


_ENVIRONMENT: dict[str, Callable[[Any], bool]] = {
    "python": lambda v: isinstance(v, str),
    "versions": lambda v: isinstance(v, Mapping) and all(isinstance(i, str) for i in v.values()),
    "system": lambda v: isinstance(v, str),
    "cpu": lambda v: isinstance(v, str),
    "cpu_cores": lambda v: v is None or isinstance(v, int),
    "torch_threads": lambda v: isinstance(v, int),
    "gpus": lambda v: isinstance(v, list) and all(isinstance(g, str) for g in v),
}


def check_environment(value: object) -> dict[str, Any]:
    """Return versions and hardware, if they are what :func:`art_classwise.audit.provenance.environment` returns."""
    check_keys("environments.", value, _ENVIRONMENT)
    environment = as_dict("environments", value)
    for key, fits in _ENVIRONMENT.items():
        if not fits(environment[key]):
            raise InputError(f"is damaged: environments.{key} is {environment[key]!r}"[:200])
    return environment
