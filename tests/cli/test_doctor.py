"""What of the stack works: every kind of damage gives a line, and never a traceback."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from art_classwise import doctor
from art_classwise.doctor import examine
from art_classwise.zoo.robustbench import robustbench_files, robustbench_names

ESSENTIAL = {"Python", "torch", "ART", "current folder"}


def looked(tmp_path, **folders):
    given = {"data_dir": tmp_path / "data", "model_dir": tmp_path / "models", **folders}
    return {check.name: check for check in examine(**given)}


def test_a_healthy_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = looked(tmp_path)
    assert {name for name, check in found.items() if check.essential} >= ESSENTIAL
    for name in (*ESSENTIAL, "art-classwise", "RobustBench", "pyautoattack", "processor", "digits"):
        assert found[name].state == "ok", found[name]
        assert found[name].do is None
    assert all(check.do for check in found.values() if check.state != "ok" and check.name != "GPU")
    assert list(tmp_path.iterdir()) == []  # nothing is left behind, nothing downloaded


def test_data_sets_are_found_where_torchvision_looks(tmp_path):
    """A set that the doctor finds is one that torchvision would look at, split by split."""
    from torchvision import datasets

    root = tmp_path / "data"
    sets = {
        name: [f"{of.base_folder}/{file}" for file, _ in (*of.train_list, *of.test_list) if not file.startswith("unl")]
        for name, of in {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "stl10": datasets.STL10}.items()
    }
    sets["mnist"] = [f"MNIST/raw/{file.removesuffix('.gz')}" for file, _ in datasets.MNIST.resources]
    sets["svhn"] = [datasets.SVHN.split_list[split][1] for split in ("train", "test")]
    sets["imagenet"] = ["imagenet/train/n01440764/a.jpg", "imagenet/val/n01440764/a.jpg"]
    for name, files in sets.items():
        assert looked(tmp_path)[name].state == "missing"
        for file in files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(b"x")
        found = looked(tmp_path)[name]
        assert found.state == "ok"
        assert str(root) in found.says
        last = root / files[-1]
        last.write_bytes(b"") if name != "imagenet" else shutil.rmtree(last.parent)
        cut = looked(tmp_path)[name]
        assert (cut.state, cut.says) == ("missing", "train found, test not found")
        assert ("image-net.org" if name == "imagenet" else str(root)) in cut.do


def test_weights_are_counted_by_leaderboard(tmp_path):
    names = robustbench_names("cifar10", "L2")
    for name in names[:3]:
        for path in robustbench_files(name, "cifar10", "L2", tmp_path / "models"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"weights")
    found = looked(tmp_path)
    assert found["cifar10 L2"].state == "ok"
    assert found["cifar10 L2"].says == f"3 of {len(names)} models"
    assert found["cifar10 Linf"].state == "missing"
    assert found["cifar10 Linf"].says.startswith("0 of ")
    assert "imagenet L2" not in found  # there is no such leaderboard


@pytest.mark.parametrize(
    ("name", "version", "state", "essential"),
    [
        ("scipy", None, "missing", True),
        ("torch", "2.0.1", "broken", True),
        ("setuptools", "82.0", "broken", False),
        ("pyautoattack", None, "missing", False),
        ("torch", "2.6.0+cu118", None, None),
        ("pandas", "9.0rc1", None, None),
    ],
)
def test_versions_are_held_against_our_bounds(name, version, state, essential, monkeypatch):
    real = importlib.metadata.version

    def fake(asked):
        if asked != name:
            return real(asked)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", fake)
    found = {check.name: check for check in doctor._requirements()}
    if state is None:
        assert name not in found
        return
    assert (found[name].state, found[name].essential) == (state, essential)
    assert found[name].do.startswith(f'pip install "{name}')
    assert version is None or version in found[name].says


def test_a_package_that_isnt_installed_has_no_bounds(monkeypatch):
    def requires(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    (check,) = doctor._requirements()
    assert (check.state, check.essential) == ("missing", True)


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_folder_that_cant_be_written_is_essential(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    (check,) = doctor._current_folder()
    assert (check.state, check.essential) == ("broken", True)
    assert "Permission denied" in check.says
    assert "--out" in check.do


def test_a_full_disk_is_told(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    (check,) = doctor._disk()
    assert check.state == "broken"


def test_whatever_a_part_raises_is_a_line():
    for error in (
        OSError("libcudart.so.12: cannot open\nshared object"),
        SystemExit(3),
        RuntimeError(),
        ImportError("x"),
    ):

        def look(error=error):
            yield doctor.Check("packages", "first", "ok", "fine")
            print("a package that talks")
            raise error

        first, second = doctor._safely("packages", "second", True, look)
        assert first.state == "ok"
        assert (second.state, second.essential) == ("broken", True)
        assert second.says.startswith(type(error).__name__)
        assert "\n" not in second.says
        assert second.do


@pytest.fixture(scope="module")
def ill(tmp_path_factory):
    """Run doctor where some packages are broken, as a user would: exit code, stdout, stderr."""

    def run(packages, *options):
        folder = tmp_path_factory.mktemp("ill")
        for name, code in packages.items():
            (folder / "site" / name).mkdir(parents=True)
            (folder / "site" / name / "__init__.py").write_text(code)
        environment = {**os.environ, "PYTHONPATH": str(folder / "site"), "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "art_classwise", "doctor", *options]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


def test_broken_packages_give_lines_and_exit_code_1(ill):
    broken = {
        "torch": "raise OSError('libcudart.so.12: cannot open shared object file')",
        "art": "import sys; sys.exit('no')",
        "pandas": "print('hello'); 1 / 0",
    }
    code, out, err = ill(broken, "--json")
    assert code == 1
    assert err == ""
    told = json.loads(out)
    assert (told["schema"], told["kind"], told["works"]) == (1, "doctor", False)
    checks = {check["name"]: check for check in told["checks"]}
    assert "libcudart" in checks["torch computes"]["says"]
    assert "no" in checks["ART imports"]["says"]
    assert checks["art-classwise"]["state"] == "ok"  # installed they are
    assert checks["current folder"]["state"] == "ok"
    code, out, err = ill(broken)
    assert (code, err) == (1, "")
    assert "Traceback" not in out
    assert "Fix this first: torch computes, ART imports." in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80


def test_without_robustbench_all_else_works(ill):
    code, out, err = ill({"robustbench": "raise ImportError('No module named pkg_resources')"}, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["works"] is True
    checks = {check["name"]: check for check in told["checks"]}
    assert checks["RobustBench"]["state"] == "broken"
    assert "pkg_resources" in checks["RobustBench"]["says"]
    assert "setuptools<81" in checks["RobustBench"]["do"]


def test_the_screen(command_line, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = command_line("doctor", "--data-dir", tmp_path / "d\x1b[31m", "--model-dir", "m")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80
    assert out.rstrip().splitlines()[-1].startswith("Everything essential works.")
    for section in ("Packages", "Hardware", "Data sets", "Weights", "Files"):
        assert f"\n{section}\n" in f"\n{out}"
    _, as_json, _ = command_line("doctor", "--json")
    checks = json.loads(as_json)["checks"]
    assert all(check["name"] in out for check in checks)
    assert {tuple(check) for check in checks} == {("about", "name", "state", "says", "do", "essential")}


def test_the_data_folder_of_the_environment(command_line, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    for name in ("train_32x32.mat", "test_32x32.mat"):
        (tmp_path / "there" / name).write_bytes(b"x")
    monkeypatch.setenv("ART_CLASSWISE_DATA", "there")
    _, out, _ = command_line("doctor", "--json")
    assert next(c for c in json.loads(out)["checks"] if c["name"] == "svhn")["state"] == "ok"


def test_it_needs_nothing_that_may_be_broken():
    """Its own modules import only the standard library, and what the command line can't do without."""
    code = (
        "import sys, art_classwise.doctor, art_classwise.cli._doctor;"
        "print(*sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'art', 'pandas', 'numpy', 'packaging'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert Path(doctor.__file__).name == "doctor.py"
