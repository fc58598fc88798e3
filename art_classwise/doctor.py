"""Checks of the installation, with suggestions for fixes."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from art_classwise.errors import first_line

__all__ = ["Check", "examine"]

State = Literal["ok", "missing", "broken"]

_PACKAGE = "art-classwise"
_LEAST_PYTHON = (3, 10)
_INSTALL = "In the source folder, run make demo or pip install --editable ."
# Without these the models of the zoo, or one attack, are lacking; all else works.
_NOT_ESSENTIAL = {"robustbench", "pyautoattack", "setuptools", "torchvision"}
_ROOM = 2**30


@dataclass(frozen=True)
class Check:
    """Something that was looked at.

    Attributes:
        about: What it belongs to: ``"packages"``, ``"hardware"``, ``"data sets"``, ``"weights"`` or ``"files"``.
        name: What was looked at.
        state: ``"ok"``; ``"missing"``, if it isn't there; ``"broken"``, if it is and doesn't work.
        says: What was seen.
        do: What to do about it; None if there is nothing to do.
        essential: Whether nothing works without it.
    """

    about: str
    name: str
    state: State
    says: str
    do: str | None = None
    essential: bool = False


def examine(data_dir: str | os.PathLike[str], model_dir: str | os.PathLike[str]) -> list[Check]:
    """Look at what is installed, at the hardware, and at what data and weights are here. Nothing is downloaded.

    Whatever is broken gives a check, never an exception.

    Args:
        data_dir: Folder of the data sets.
        model_dir: Folder of RobustBench's weights.

    Returns:
        The checks, in the order to read them.
    """
    parts: list[tuple[str, str, bool, Callable[[], Iterator[Check]]]] = [
        ("packages", "Python", True, _python),
        ("packages", "requirements", True, _requirements),
        ("packages", "torch computes", True, _torch),
        ("packages", "ART imports", True, _art),
        ("packages", "RobustBench imports", False, _robustbench),
        ("packages", "pyautoattack imports", False, _pyautoattack),
        ("packages", "optional parts", False, _optional),
        ("hardware", "processor", False, _processor),
        ("hardware", "GPU", False, _gpu),
        ("data sets", "data sets", False, lambda: _data(Path(data_dir))),
        ("weights", "RobustBench's weights", False, lambda: _weights(Path(model_dir))),
        ("files", "current folder", True, _current_folder),
        ("files", "disk", False, _disk),
    ]
    return [check for about, name, essential, look in parts for check in _safely(about, name, essential, look)]


def _safely(about: str, name: str, essential: bool, look: Callable[[], Iterator[Check]]) -> list[Check]:
    """Return the checks of a part; what it raises is one, too. A package that is broken may raise anything."""
    checks: list[Check] = []
    with (
        warnings.catch_warnings(),
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        warnings.simplefilter("ignore")
        try:
            for check in look():
                checks.append(check)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            says = f"{type(error).__name__}: {first_line(error)}"
            checks.append(Check(about, name, "broken", says, f"Reinstall it. {_INSTALL}", essential))
    return checks


def _python() -> Iterator[Check]:
    version, least = platform.python_version(), ".".join(map(str, _LEAST_PYTHON))
    if sys.version_info < _LEAST_PYTHON:
        yield Check("packages", "Python", "broken", version, f"Use Python {least} or newer.", True)
    else:
        yield Check("packages", "Python", "ok", f"{version}, {platform.system()} {platform.machine()}", None, True)


def _requirements() -> Iterator[Check]:
    """Report what ``pip check`` finds: requirements of this package, then those of other packages."""
    version = _version(_PACKAGE)
    if version is None:
        says = "not installed as a package, so its requirements aren't known"
        yield Check("packages", _PACKAGE, "missing", says, _INSTALL, True)
        return
    code, output = _pip_check()
    problems = [match.groupdict() for match in map(_PROBLEM.fullmatch, output.splitlines()) if match]
    if code != 0 and not problems:
        says = f"{version}; its requirements weren't checked: {output.strip().splitlines()[-1] if output else 'no pip'}"
        yield Check("packages", _PACKAGE, "ok", says)
        return
    ours = [one for one in problems if one["owner"] == _PACKAGE]
    for one in ours:
        name, required = _NAME.match(one["required"])[0], one["required"]  # type: ignore[index]
        state: State = "missing" if one["installed"] is None else "broken"
        says = f"{one['installed'] or 'not'} installed, but {required} required"
        yield Check("packages", name, state, says, f'pip install "{required}"', name not in _NOT_ESSENTIAL)
    says = f"{version}; {f'{len(ours)} requirements not met' if ours else 'all requirements met'}"
    yield Check("packages", _PACKAGE, "ok", says)
    others = [one for one in problems if one["owner"] != _PACKAGE]
    if others:
        owners = ", ".join(sorted({one["owner"] for one in others}))
        says = f"{len(others)} requirements not met, of {owners}"
        yield Check("packages", "other packages", "broken", says, "See pip check.")


_NAME = re.compile(r"[\w.-]+")
_PROBLEM = re.compile(
    r"(?P<owner>\S+) \S+ (?:requires|has requirement) (?P<required>.+), "
    r"(?:which is not installed|but you have \S+ (?P<installed>\S+))\."
)


@cache
def _pip_check() -> tuple[int, str]:
    """Return the exit code of ``pip check`` and what it printed; pip may be absent, as in environments of uv."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "check"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, check=False)
    return done.returncode, done.stdout or done.stderr


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch() -> Iterator[Check]:
    import torch

    layer = torch.nn.Conv2d(3, 4, 3)
    x = torch.zeros(2, 3, 8, 8, requires_grad=True)
    layer(x).sum().backward()
    if x.grad is None or x.grad.shape != x.shape:
        raise RuntimeError("a convolution has no gradient")
    yield Check("packages", "torch", "ok", f"{torch.__version__} computes gradients", None, True)


def _art() -> Iterator[Check]:
    art = importlib.import_module("art")
    importlib.import_module("art.estimators.classification")
    importlib.import_module("art_classwise.attacks")
    yield Check("packages", "ART", "ok", f"{art.__version__} imports, and so do the attacks", None, True)


def _robustbench() -> Iterator[Check]:
    how = 'pip install robustbench "setuptools<81"'
    if importlib.util.find_spec("robustbench") is None:
        yield Check("packages", "RobustBench", "missing", "not installed, so its models can't be loaded", how)
        return
    from art_classwise.zoo.robustbench import robustbench

    try:
        robustbench("model_zoo")
    except Exception as error:
        yield Check("packages", "RobustBench", "broken", first_line(error), how)
        return
    yield Check("packages", "RobustBench", "ok", f"{_version('robustbench')} imports, with our workaround")


def _pyautoattack() -> Iterator[Check]:
    how = "pip install pyautoattack"
    if importlib.util.find_spec("pyautoattack") is None:
        yield Check("packages", "pyautoattack", "missing", "not installed, so AutoAttack isn't available", how)
        return
    module = importlib.import_module("pyautoattack")
    works = hasattr(module, "AutoAttack")
    says = f"{_version('pyautoattack')} imports" if works else "has no AutoAttack"
    yield Check("packages", "pyautoattack", "ok" if works else "broken", says, None if works else how)


def _optional() -> Iterator[Check]:
    for module, gives, how in (
        ("tensorboardX", "TensorBoard's curves (--tensorboard)", "pip install tensorboardX"),
        ("ipywidgets", "progress bars in notebooks", "pip install ipywidgets"),
    ):
        if importlib.util.find_spec(module) is None:
            yield Check("packages", module, "missing", f"not installed: no {gives}", how)
        else:
            yield Check("packages", module, "ok", f"{_version(module)}: {gives}")


@cache
def _system() -> Any:
    """Return what PyTorch's own report for bugs has: system, driver, GPUs, as texts."""
    from torch.utils import collect_env

    return collect_env.get_env_info()


def _processor() -> Iterator[Check]:
    import torch

    yield Check("hardware", "system", "ok", str(_system().os))
    capability: Any = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    parts = (f"{n} {what}{'' if n == 1 else 's'}" for n, what in ((cores, "core"), (threads, "thread")))
    says = f"{', '.join(parts)}, {capability()}; {_bfloat16('cpu')}"
    yield Check("hardware", "processor", "ok", says)


def _bfloat16(device: str) -> str:
    import torch

    from art_classwise.attacks.fast_copy import multiplies_bfloat16

    return f"bfloat16 {'in' if multiplies_bfloat16(torch.device(device)) else 'not in'} hardware"


def _gpu() -> Iterator[Check]:
    import torch

    system, built = _system(), torch.version.cuda
    if not torch.cuda.is_available():
        if system.nvidia_driver_version is None:
            yield Check("hardware", "GPU", "missing", "none, so everything runs on the processor")
        elif built is None:
            do = "Install a torch build for CUDA: https://pytorch.org/get-started"
            yield Check("hardware", "GPU", "broken", f"torch {torch.__version__} is built without CUDA", do)
        else:
            says = f"torch is built for CUDA {built}, but sees no GPU; driver {system.nvidia_driver_version}"
            yield Check(
                "hardware", "GPU", "broken", says, "Check nvidia-smi: the driver may be too old for this torch."
            )
        return
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        torch.zeros(8, device=f"cuda:{number}").add_(1).sum().item()
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        versions = f"CUDA {built}, driver {system.nvidia_driver_version}"
        says = f"{properties.name}, {memory}, {versions}; {_bfloat16(f'cuda:{number}')}"
        yield Check("hardware", f"GPU {number}", "ok", says)


def _data(folder: Path) -> Iterator[Check]:
    from art_classwise.datasets.catalog import DATASETS

    for name, spec in DATASETS.items():
        if not spec.files:
            yield Check("data sets", name, "ok", "comes with scikit-learn")
            continue
        within = folder / spec.folder
        present = [split for split, files in spec.files.items() if all(_holds(within / file) for file in files)]
        absent = [split for split in spec.files if split not in present]
        where = folder.absolute()
        do = f"Downloaded to {where} on first use; --data-dir chooses another folder."
        if name == "imagenet":
            do = f"Download it from https://image-net.org/download.php and unpack it to {where / 'imagenet'}."
        if not present:
            yield Check("data sets", name, "missing", "not found", do)
        elif absent:
            yield Check("data sets", name, "missing", f"{present[0]} found, {absent[0]} not found", do)
        else:
            yield Check("data sets", name, "ok", f"train and test, in {where}")


def _holds(path: Path) -> bool:
    """Return whether there is a file that isn't empty, or a folder that isn't."""
    return any(path.iterdir()) if path.is_dir() else path.is_file() and path.stat().st_size > 0


def _weights(folder: Path) -> Iterator[Check]:
    from art_classwise.errors import InputError
    from art_classwise.zoo.robustbench import DATASETS, THREATS, robustbench_files, robustbench_names

    for dataset in DATASETS:
        for threat in THREATS:
            try:
                names = robustbench_names(dataset, threat)
            except InputError:  # there is no such leaderboard
                continue
            files = [robustbench_files(name, dataset, threat, folder) for name in names]
            present = sum(bool(paths) and all(_holds(path) for path in paths) for paths in files)
            says = f"{present} of {len(names)} models"
            do = f"Downloaded to {folder.absolute()} on first use; --model-dir chooses another folder."
            yield Check("weights", f"{dataset} {threat}", "ok" if present else "missing", says, None if present else do)


def _current_folder() -> Iterator[Check]:
    folder = Path.cwd()
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".art-classwise-"):
            pass
    except OSError as error:
        do = "Change to a folder that you can write to, or use --out."
        yield Check("files", "current folder", "broken", f"{folder} isn't writable: {first_line(error)}", do, True)
        return
    yield Check("files", "current folder", "ok", f"{folder} is writable", None, True)


def _disk() -> Iterator[Check]:
    free = shutil.disk_usage(Path.cwd()).free
    says = f"{free / 2**30:.1f} GiB free"
    if free < _ROOM:
        do = "Free some space: data sets take up to 3 GiB, a model's weights up to 1 GiB."
        yield Check("files", "disk", "broken", says, do)
    else:
        yield Check("files", "disk", "ok", says)
