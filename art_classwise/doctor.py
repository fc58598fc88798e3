"""Checks of the installation, with suggestions for fixes."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
    found: list[Check] = []
    with (
        warnings.catch_warnings(),
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        warnings.simplefilter("ignore")
        try:
            for check in look():
                found.append(check)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            says = f"{type(error).__name__}: {first_line(error)}"
            found.append(Check(about, name, "broken", says, f"Reinstall it. {_INSTALL}", essential))
    return found


def _python() -> Iterator[Check]:
    version, least = platform.python_version(), ".".join(map(str, _LEAST_PYTHON))
    if sys.version_info < _LEAST_PYTHON:
        yield Check("packages", "Python", "broken", version, f"Use Python {least} or newer.", True)
    else:
        yield Check("packages", "Python", "ok", f"{version}, {platform.system()} {platform.machine()}", None, True)


def _requirements() -> Iterator[Check]:
    """Compare what is installed with what the package asks for."""
    from packaging.requirements import Requirement

    try:
        asked = importlib.metadata.requires(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        yield Check(
            "packages",
            _PACKAGE,
            "missing",
            "not installed as a package, so its requirements aren't known",
            _INSTALL,
            True,
        )
        return
    needed = [r for r in map(Requirement, asked) if r.marker is None or r.marker.evaluate({"extra": ""})]
    fine = []
    for requirement in needed:
        name, essential = requirement.name, requirement.name not in _NOT_ESSENTIAL
        how = f'pip install "{requirement.name}{requirement.specifier}"'
        version = _version(name)
        if version is None:
            yield Check("packages", name, "missing", f"not installed; needed: {requirement.specifier}", how, essential)
        elif not requirement.specifier.contains(version, prereleases=True):
            says = f"{version} installed, but {requirement.specifier} required"
            yield Check("packages", name, "broken", says, how, essential)
        else:
            fine.append(f"{name} {version}")
    yield Check("packages", _PACKAGE, "ok", f"{_version(_PACKAGE)}; {len(fine)} of {len(needed)} requirements met")


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
        there = importlib.util.find_spec(module) is not None
        says = f"{_version(module)}: {gives}" if there else f"not installed: no {gives}"
        yield Check("packages", module, "ok" if there else "missing", says, None if there else how)


def _processor() -> Iterator[Check]:
    import torch

    capability: Any = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    says = f"{cores} cores, {threads} threads, {capability()}; {_bfloat16('cpu')}"
    yield Check("hardware", "processor", "ok", says)


def _bfloat16(device: str) -> str:
    import torch

    from art_classwise.attacks.fast_copy import multiplies_bfloat16

    return f"bfloat16 {'in' if multiplies_bfloat16(torch.device(device)) else 'not in'} hardware"


def _gpu() -> Iterator[Check]:
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        if built is None and shutil.which("nvidia-smi"):
            do = "Install a torch build for CUDA: https://pytorch.org/get-started"
            yield Check("hardware", "GPU", "broken", f"torch {torch.__version__} is built without CUDA", do)
        elif built is not None and shutil.which("nvidia-smi"):
            do = "Check nvidia-smi: the driver may be too old for this torch."
            yield Check("hardware", "GPU", "broken", f"torch is built for CUDA {built}, but sees no GPU", do)
        else:
            yield Check("hardware", "GPU", "missing", "none, so everything runs on the processor")
        return
    for number in range(torch.cuda.device_count()):
        held = torch.cuda.get_device_properties(number)
        torch.zeros(8, device=f"cuda:{number}").add_(1).sum().item()
        memory = f"{held.total_memory / 2**30:.0f} GiB"
        says = f"{held.name}, {memory}, CUDA {torch.version.cuda}; {_bfloat16(f'cuda:{number}')}"
        yield Check("hardware", f"GPU {number}", "ok", says)


def _data(folder: Path) -> Iterator[Check]:
    from art_classwise.datasets.catalog import DATASETS

    for name, spec in DATASETS.items():
        if not spec.files:
            yield Check("data sets", name, "ok", "comes with scikit-learn")
            continue
        within = folder / spec.folder
        there = [split for split, files in spec.files.items() if all(_holds(within / file) for file in files)]
        lacks = [split for split in spec.files if split not in there]
        where = folder.absolute()
        do = f"It will be downloaded to {where} on first use; --data-dir chooses another folder."
        if name == "imagenet":
            do = f"Download it from https://image-net.org/download.php and unpack it to {where / 'imagenet'}."
        if not there:
            yield Check("data sets", name, "missing", "not found", do)
        elif lacks:
            yield Check("data sets", name, "missing", f"{there[0]} found, {lacks[0]} not found", do)
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
            here = sum(bool(paths) and all(_holds(path) for path in paths) for paths in files)
            says = f"{here} of {len(names)} models"
            do = f"They will be downloaded to {folder.absolute()} on first use; --model-dir chooses another folder."
            yield Check("weights", f"{dataset} {threat}", "ok" if here else "missing", says, None if here else do)


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
