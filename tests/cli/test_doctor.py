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
    before = looked(tmp_path)
    for file in (file for files in sets.values() for file in files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"x")
    after = looked(tmp_path)
    for name, files in sets.items():
        last = root / files[-1]
        last.write_bytes(b"") if name != "imagenet" else shutil.rmtree(last.parent)
    cut = looked(tmp_path)
    for name in sets:
        assert [checks[name].state for checks in (before, after, cut)] == ["missing", "ok", "missing"]
        assert str(root) in after[name].says
        assert cut[name].says == "train found, test not found"
        assert ("image-net.org" if name == "imagenet" else str(root)) in cut[name].do


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
    ("line", "name", "state", "essential"),
    [
        ("art-classwise 0.1.0 requires scipy, which is not installed.", "scipy", "missing", True),
        ("art-classwise 0.1.0 requires pyautoattack, which is not installed.", "pyautoattack", "missing", False),
        ("art-classwise 0.1.0 has requirement torch>=2.6, but you have torch 2.0.1+cu118.", "torch", "broken", True),
        (
            "art-classwise 0.1.0 has requirement setuptools<81, but you have setuptools 82.0.",
            "setuptools",
            "broken",
            False,
        ),
        ("frame 1.0 has requirement numpy<2, but you have numpy 2.1.", "other packages", "broken", False),
    ],
)
def test_what_pip_check_finds_is_a_check(line, name, state, essential, monkeypatch):
    monkeypatch.setattr(doctor, "_pip_check", lambda: (1, f"{line}\na line of another kind\n"))
    checks = {check.name: check for check in doctor._requirements()}
    assert set(checks) == {"art-classwise", name}
    assert (checks[name].state, checks[name].essential) == (state, essential)
    assert checks["art-classwise"].state == "ok"
    if name != "other packages":
        assert checks[name].do == f'pip install "{line.split("irement ")[-1].split("requires ")[-1].split(",")[0]}"'
        assert state == "missing" or line.split()[-1].rstrip(".") in checks[name].says


def test_lines_are_those_that_pip_writes(tmp_path):
    """Of a package that lacks one requirement and has another in the wrong version, in a folder of its own."""
    for name, requires in {"frame": ["lacking>=1", "wheel-of<2"], "wheel-of": []}.items():
        folder = tmp_path / f"{name.replace('-', '_')}-3.0.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 3.0", *(f"Requires-Dist: {r}" for r in requires)]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "pip", "check"], env=environment, capture_output=True, text=True)
    problems = [match.groupdict() for match in map(doctor._PROBLEM.fullmatch, done.stdout.splitlines()) if match]
    ours = sorted((one["required"], one["installed"]) for one in problems if one["owner"] == "frame")
    assert ours == [("lacking", None), ("wheel-of<2", "3.0")]


@pytest.mark.parametrize("output", ["No module named pip", ""])
def test_without_pip_requirements_are_not_checked(output, monkeypatch):
    monkeypatch.setattr(doctor, "_pip_check", lambda: (1, output))
    (check,) = doctor._requirements()
    assert check.state == "ok"
    assert "weren't checked" in check.says


def test_a_package_that_isnt_installed_has_no_bounds(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
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
        paths = os.pathsep.join([str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
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
    assert (told["schema"], told["kind"], told["works"]) == (2, "doctor", False)
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
        "import sys, art_classwise.doctor, art_classwise.cli._inventory;"
        "print(*sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'art', 'pandas', 'numpy', 'packaging'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert Path(doctor.__file__).name == "doctor.py"
