"""Options of a command in a file, to keep beside the results and to run again.

Typer brings a copy of click since 0.20 or so, so commands and parameters have no type that all versions share.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from art_classwise._core.files import read_regular, written_aside
from art_classwise.errors import InputError, first_line, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["ConfigFile", "SaveConfig", "save_config"]

_MOST = 1 << 24  # bytes of such a file
_OWN = ("config", "save_config", "help")


def _names(command: Any) -> dict[str, Any]:
    """Return the options of a command, and its arguments, by the names they have in a file."""
    known = {}
    for parameter in command.params:
        if parameter.name in _OWN:
            continue
        flags = [flag.lstrip("-") for flag in parameter.opts if flag.startswith("--")]
        known[flags[0] if flags else str(parameter.name)] = parameter
    return known


def _read(context: typer.Context, path: Path | None) -> Path | None:
    """Let a file's options be the defaults of this call."""
    if path is None or context.resilient_parsing:
        return path
    try:
        values = tomllib.loads(read_regular(path, _MOST).decode("utf-8"))
    except OSError as error:
        raise InputError(f"--config {path} can't be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # of TOML or UTF-8
        raise InputError(f"--config {path} is not TOML: {first_line(error)}.") from error
    known = _names(context.command)
    defaults = {}
    for name, value in values.items():
        if name.replace("_", "-") not in known:
            raise unknown(f"option in {path}", name, known)
        parameter = known[name.replace("_", "-")]
        defaults[str(parameter.name)] = _checked(name, value, parameter, path)
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _checked(name: str, value: Any, parameter: Any, path: Path) -> Any:
    if isinstance(value, Mapping):
        raise InputError(f"{path}: {name} must be a value, as on the command line, not a table.")
    if parameter.multiple:
        return value if isinstance(value, list) else [value]
    if isinstance(value, list):
        raise InputError(f"{path}: {name} must be one value, but got {len(value)}.")
    if isinstance(value, bool) != bool(getattr(parameter, "is_flag", False)):
        wanted = "true or false" if not isinstance(value, bool) else "a value, not true or false"
        raise InputError(f"{path}: {name} must be {wanted}, but got {json.dumps(value)}.")
    return value


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=_read,
        is_eager=True,
        help="A TOML file of options by their names, e.g. threat = 'Linf:8/255'; what is given here goes before it.",
        metavar="FILE",
        show_default=False,
        rich_help_panel="Running",
    ),
]
SaveConfig = Annotated[
    Path | None,
    typer.Option(
        "--save-config",
        help="Write the options of this call to a TOML file, for --config.",
        metavar="FILE",
        show_default=False,
        rich_help_panel="Running",
    ),
]


def save_config(context: typer.Context, path: Path | None) -> None:
    """Write the options that were given, by hand or in a file, to a TOML file.

    Raises:
        InputError: It can't be written.
    """
    if path is None:
        return
    lines = [f"# art-classwise {context.info_name} --config {path.name}"]
    for name, parameter in _names(context.command).items():
        value = context.params.get(str(parameter.name))
        source = getattr(context.get_parameter_source(str(parameter.name)), "name", "DEFAULT")
        if source == "DEFAULT" or value is None:
            continue
        lines.append(f"{name} = {_toml(value)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--save-config {path} can't be written: {error.strerror}.") from error


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Enum):
        return _toml(value.value)
    return json.dumps(value if isinstance(value, (bool, int, float)) else str(value), ensure_ascii=False)
