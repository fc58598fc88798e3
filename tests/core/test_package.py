"""The package as a whole: quick to import, complete in its names, its bounds those that are tested."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys

import pytest
from places import ROOT

import art_classwise as acw


def loaded_after(statement):
    code = f"import sys; {statement}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_import_loads_nothing_heavy():
    """What makes `import art_classwise` and `--help` quick: no torch, ART, pandas or matplotlib."""
    heavy = {"torch", "art", "pandas", "matplotlib", "scipy", "sklearn", "robustbench", "pyarrow", "numpy"}
    assert loaded_after("import art_classwise") & heavy == set()
    assert loaded_after("import art_classwise.cli") & heavy == set()


def test_public_names_are_there():
    assert set(acw.__all__) <= set(dir(acw))
    for name in acw.__all__:
        assert getattr(acw, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Claswise'"):
        _ = acw.Claswise


def test_public_names_are_the_same_for_import_for_type_checkers_and_for_export():
    imports = [n for n in ast.walk(ast.parse(inspect.getsource(acw))) if isinstance(n, ast.ImportFrom)]
    seen = {alias.name for n in imports if n.module.startswith("art_classwise") for alias in n.names}
    assert seen == {*acw._HOMES, *acw._MODULES} == set(acw.__all__) - {"__version__"}


def test_every_public_name_is_documented():
    for name in acw.__all__:
        if name != "__version__":
            assert (getattr(acw, name).__doc__ or "").strip(), name


def test_version_is_in_the_changelog():
    assert f"## {acw.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_lower_bounds_are_the_ones_tested():
    """constraints/oldest.txt pins each bound of pyproject.toml to the same version."""
    bounds = dict(re.findall(r'^    "([\w-]+)>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "constraints" / "oldest.txt").read_text(), re.MULTILINE))
    tools = {
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "hypothesis",
        "ruff",
        "mypy",
        "import-linter",
        "tensorboardX",
        "nbclient",
        "ipykernel",
        "ipywidgets",
    }

    def numbers(version):
        parts = [int(p) for p in version.split(".")]
        while parts and parts[-1] == 0:
            parts.pop()
        return parts

    assert {n: numbers(v) for n, v in bounds.items() if n not in tools} == {n: numbers(v) for n, v in pins.items()}
