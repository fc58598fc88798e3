"""What griffe does not read of our docstrings: Sphinx roles, :class:`art_classwise.Dataset`, and "Example:"."""

from __future__ import annotations

import logging
import re
from typing import Any

import griffe

_log = logging.getLogger("mkdocs.roles")  # MkDocs counts what is said below "mkdocs"
_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`(~?)([\w.]+)`")


class Roles(griffe.Extension):
    """Turns roles into cross references, once a package is loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Treat all docstrings of a package."""
        self._treat(pkg)

    def _treat(self, thing: griffe.Object) -> None:
        if thing.docstring is not None:
            text = _ROLE.sub(lambda role: _link(thing, role[2], bool(role[1])), thing.docstring.value)
            thing.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
        for member in thing.members.values():
            if isinstance(member, griffe.Object):
                self._treat(member)


def _link(scope: griffe.Object, name: str, short: bool) -> str:
    try:
        target = _find(scope, name)
    except griffe.AliasResolutionError:
        return f"`{name}`"  # imported from another package
    if target is None:
        _log.warning("The docstring of %s refers to %s, which there isn't.", scope.path, name)
    shown = name.rpartition(".")[2] if short else name.removeprefix("art_classwise.")
    if target is not None and target.is_attribute and target.docstring is None and target.parent is not None:
        target = _described_in(scope, name) or target.parent
    if target is None or any(part.startswith("_") for part in target.path.split(".")):
        return f"`{shown}`"  # of no concern to readers of the site
    return f"[`{shown}`][{target.path}]"


def _described_in(scope: griffe.Object, name: str) -> Any:
    """Return the class whose docstring describes an attribute: the one named before it, or the one around."""
    before, dot, _ = name.rpartition(".")
    if dot:
        return _find(scope, before)
    around: Any = scope
    while around is not None and not around.is_class:
        around = around.parent
    return around


def _find(scope: griffe.Object, name: str) -> Any:
    """Return what a name means in a docstring: a member of its class or of one around it, or a name of its module."""
    around: Any = scope
    while around is not None:
        if (found := _member(around, name)) is not None:
            return found
        around = around.parent
    root = scope.package
    return _member(root, name.removeprefix(f"{root.name}.")) if name.startswith(f"{root.name}.") else None


def _member(of: Any, name: str) -> Any:
    for part in name.split("."):
        of = of.all_members.get(part) if of.is_class else of.members.get(part)
        if of is None:
            return None
        of = of.final_target if of.is_alias else of
        if of.is_module and name.endswith(part):  # a module may have the name of the function that it is about
            of = of.members.get(of.name, of)
    return of
