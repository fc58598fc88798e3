"""The package as a whole: quick to import, complete in its names, its bounds those that are tested."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest
from places import ROOT

import art_classwise as acw

STUB = Path(acw.__file__).with_suffix(".pyi")


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


def test_modules_among_the_public_names_can_be_imported_as_modules():
    """By each kind of statement, in a new process, and it is one module: a class has one identity."""
    names = sorted(name for name in acw.__all__ if isinstance(getattr(acw, name), types.ModuleType))
    assert {"figures", "policies", "attacks"} <= set(names)
    code = f"""
        import importlib
        for name in {names}:
            space = {{}}
            exec(f"import art_classwise.{{name}} as first", space)
            exec(f"from art_classwise import {{name}} as second", space)
            exec(f"import art_classwise; third = art_classwise.{{name}}", space)
            first = space["first"]
            assert first is space["second"] is space["third"] is importlib.import_module(first.__name__), name
            exec(f"from art_classwise.{{name}} import *", space)
            assert set(first.__all__) <= set(space), name
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_public_names_are_the_same_for_imports_and_for_type_checkers():
    """Editors and type checkers read ``__all__`` of the stub, the import its ``import`` statements."""
    stub = ast.parse(STUB.read_text(encoding="utf-8"))
    exported = next(ast.literal_eval(n.value) for n in stub.body if isinstance(n, ast.Assign))
    assert sorted(exported) == sorted(acw.__all__)
    assert len(acw.__all__) <= 50  # as many as a reader takes in on a page
    assert STUB.with_name("py.typed").exists()


def test_a_type_checker_sees_the_types(tmp_path):
    """Of names that are imported on first use, as of others: a wrong argument is an error, an unknown name too."""
    pytest.importorskip("mypy")
    given = tmp_path / "given.py"
    given.write_text(
        "import art_classwise as acw\n"
        "reveal_type(acw.read_audit('runs'))\n"
        "acw.ThreatModel('Linf', 'wide')\n"
        "acw.zoo.robustbench_names('cifar10', 'Linf')\n"
        "acw.nothing\n"
    )
    # With the configuration and cache of `make test`, which has checked the package before: so it takes no 20 s.
    # In a process of its own: in this one its millions of objects would stay, for each garbage collection to visit.
    options = [f"--config-file={ROOT / 'pyproject.toml'}", f"--cache-dir={ROOT / '.mypy_cache'}"]
    done = subprocess.run([sys.executable, "-m", "mypy", *options, str(given)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert [int(line.split(":")[1]) for line in lines[:-1]] == [2, 3, 5]
    assert "art_classwise.audit.result.AuditResult" in lines[0]
    assert "[arg-type]" in lines[1]
    assert "[attr-defined]" in lines[2]


@pytest.mark.parametrize("name", sorted(acw._MOVED))
def test_a_name_that_has_moved_is_found_and_says_where(name):
    with pytest.warns(DeprecationWarning, match=rf"moved to (art_classwise\.\w+)\.{name};") as caught:
        value = getattr(acw, name)
    assert caught[0].filename == __file__
    place = re.search(r"moved to (\S+)\.\w+;", str(caught[0].message))[1]
    assert value is getattr(importlib.import_module(place), name)
    assert name not in acw.__all__


def test_all_names_of_0_1_0_can_be_imported():
    """Scripts written for 0.1.0 go on working."""
    names = """PGD AdversarialTrainerAWPPyTorch AdversarialTrainerBATPyTorch AdversarialTrainerClassExcludedPyTorch
        AdversarialTrainerMARTPyTorch AdversarialTrainerStandardPyTorch AdversarialTrainerTRADESPyTorch AuditResult
        AutoAttack ClassExclusionStudy ClassWiseAttack ClassWiseAudit Comparison Dataset ExclusionResult Finding
        InputError NaturalTrainerPyTorch SeedSpread TemperaturePGD ThreatModel TransferAttack as_classifier attacks
        build compare figures load_checkpoint load_dataset load_robustbench load_unlabeled losses metrics
        normalize_head policies published read_audit read_checkpoint robustbench_files robustbench_names
        robustbench_table save_checkpoint spread_over_seeds"""
    assert set(names.split()) <= {*acw.__all__, *acw._MOVED}


def test_every_public_name_is_documented():
    for name in acw.__all__:
        assert (getattr(acw, name).__doc__ or "").strip(), name


def test_version_is_in_the_changelog():
    assert f"## {acw.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_lower_bounds_are_the_ones_tested():
    """constraints/oldest.txt pins each bound of pyproject.toml to the same version."""
    bounds = dict(re.findall(r'^    "([\w-]+)>=([\d.]+)[";]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
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
        "duckdb",
        "huggingface_hub",
        "jsonschema",
        "pyyaml",
        "s3fs",
    }

    def numbers(version):
        parts = [int(p) for p in version.split(".")]
        while parts and parts[-1] == 0:
            parts.pop()
        return parts

    assert {n: numbers(v) for n, v in bounds.items() if n not in tools} == {n: numbers(v) for n, v in pins.items()}
