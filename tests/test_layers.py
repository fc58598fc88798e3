"""The house keeps its layers: what import-linter can't say, and that it says what it can."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "art_classwise"
SHARED = "_core"  # which all of the package imports: the one exception


def imported(path: Path, source: str) -> list[str]:
    """Return the full names of what a file imports of the package; of ``from a import b`` also a.b."""
    names = []
    package = path.relative_to(PACKAGE.parent).parent.parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (start, node.module) if part)
            names += [f"{module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.split(".")[0] == PACKAGE.name]


def private_of_others(path: Path, source: str) -> list[str]:
    """Return imports of modules that begin with ``_`` and belong to a package that this file isn't in."""
    here = ".".join(path.relative_to(PACKAGE.parent).parent.parts) + "."
    found = []
    for name in imported(path, source):
        parts = name.split(".")
        for i, part in enumerate(parts[1:], start=1):
            owner = ".".join(parts[:i]) + "."
            private = part.startswith("_") and not part.startswith("__") and parts[1:2] != [SHARED]
            if private and not here.startswith(owner):
                found.append(name)
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_private_module_of_another_package_is_imported(path):
    assert private_of_others(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from art_classwise.attacks._base import SearchAttack", ["art_classwise.attacks._base.SearchAttack"]),
        ("from art_classwise.attacks import _base", ["art_classwise.attacks._base"]),
        ("import art_classwise.attacks._base", ["art_classwise.attacks._base"]),
        ("def f():\n    from ..attacks import _base", ["art_classwise.attacks._base"]),
        ("from art_classwise.audit._table import AuditTable", []),
        ("from ._table import AuditTable", []),
        ("from art_classwise._core.state import evaluating", []),
        ("from art_classwise import __version__", []),
        ("from numpy import _core", []),
    ],
)
def test_private_imports_are_found(source, found):
    assert private_of_others(PACKAGE / "audit" / "audit.py", source) == found
