"""RobustBench's models, through a guard that makes its released packages import and its loading safe."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from art_classwise._files import written_aside
from art_classwise._passes import is_out_of_memory
from art_classwise._state import preserved_random_state
from art_classwise.errors import InputError, first_line, unknown
from art_classwise.zoo._files import check_weights_file
from art_classwise.zoo.classifier import as_classifier

__all__ = [
    "DATASETS",
    "THREATS",
    "check_model",
    "check_zoo",
    "cuda_optional",
    "load_robustbench",
    "robustbench",
    "robustbench_files",
    "robustbench_names",
]

_SHAPES: dict[str, tuple[tuple[int, int, int], int]] = {
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "imagenet": ((3, 224, 224), 1000),
}
THREATS = ("Linf", "L2", "corruptions")
"""Threat models of its leaderboards."""
DATASETS = tuple(_SHAPES)
"""Data sets that it has models for."""


def robustbench(submodule: str = "") -> Any:
    """Import RobustBench, or a submodule of it such as ``"model_zoo"``.

    RobustBench 1.1.1 imports ``autoattack`` but installs ``pyautoattack``: the name is provided while it
    imports, and taken away again. Where the real ``autoattack`` is installed, that one is used.

    Raises:
        InputError: It can't be imported.
    """
    try:
        # Its own imports warn of what it can't mend: pkg_resources, timm's old paths.
        with _autoattack_named(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(f"robustbench.{submodule}" if submodule else "robustbench")
    except ImportError as error:
        raise InputError(
            f"RobustBench can't be imported ({error}). Install it beside the setuptools it needs: "
            'pip install robustbench "setuptools<81"'
        ) from error


@contextmanager
def _autoattack_named() -> Iterator[None]:
    if "autoattack" in sys.modules or importlib.util.find_spec("autoattack") is not None:
        yield
        return
    before = set(sys.modules)
    package = importlib.import_module("pyautoattack")
    state = importlib.import_module("pyautoattack.state")
    sys.modules["autoattack"], sys.modules["autoattack.state"] = package, state
    try:
        yield
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == "autoattack" and n not in before]:
            del sys.modules[name]


def robustbench_names(dataset: str = "cifar10", threat_model: str = "Linf") -> tuple[str, ...]:
    """Return the names of RobustBench's models for a data set and a threat model.

    Raises:
        InputError: It has no such data set or threat model.
    """
    return tuple(_table(dataset, threat_model))


def check_model(name: str, dataset: str, threat_model: str) -> None:
    """Check that RobustBench has a model.

    Raises:
        InputError: It hasn't; close names are listed.
    """
    _entry(name, dataset, threat_model)


def robustbench_files(
    name: str, dataset: str = "cifar10", threat_model: str = "Linf", model_dir: str | os.PathLike[str] = "models"
) -> dict[Path, str | None]:
    """Return where the files of a model's weights have to lie, each with its id on Google Drive.

    An ensemble has several; a model that timm fetches has one, without an id; one whose weights torchvision keeps in
    its own cache has none.

    Raises:
        InputError: Unknown model, data set or threat model.
    """
    listed = _entry(name, dataset, threat_model).get("gdrive_id")  # a list for an ensemble, None for timm's models
    folder = Path(model_dir) / dataset / threat_model
    if isinstance(listed, list):
        return {folder / f"{name}.pt_m{i}.pt": drive_id for i, drive_id in enumerate(listed)}
    return {} if listed == "" else {folder / f"{name}.pt": listed}


def load_robustbench(
    name: str,
    dataset: str = "cifar10",
    threat_model: str = "Linf",
    model_dir: str | os.PathLike[str] = "models",
    *,
    unsafe_weights: bool = False,
    device: str | torch.device | None = None,
) -> Any:
    """Load a model of RobustBench's zoo as an ART classifier.

    Its file is looked for where RobustBench keeps it, ``{model_dir}/{dataset}/{threat_model}/{name}.pt`` (ensembles:
    ``{name}.pt_m0.pt``, ``{name}.pt_m1.pt``, ...); if it is there, no network is used.

    Args:
        name: As in RobustBench's tables, e.g. ``"Wong2020Fast"``.
        dataset: ``"cifar10"``, ``"cifar100"`` or ``"imagenet"``.
        threat_model: ``"Linf"``, ``"L2"`` or ``"corruptions"``.
        model_dir: Folder of the zoo.
        unsafe_weights: Also load files that hold more than weights. Such a file may run any program:
            only where you trust its author.
        device: As for :func:`as_classifier`.

    Returns:
        An ART ``PyTorchClassifier`` in eval mode. Its attribute ``published`` says what RobustBench published of it: an
        audit compares that with what it measures.

    Raises:
        InputError: Unknown model, data set or threat model; the weights are not there and can't be fetched; the
            file is a web page, cut short, or of another model; or it holds more than weights.
    """
    files = robustbench_files(name, dataset, threat_model, model_dir)
    for file, drive_id in files.items():
        if file.exists() or drive_id is not None:
            _fetch(file, drive_id, name)
    first, drive_id = next(iter(files.items()), (None, ""))
    shape, n_classes = _SHAPES[dataset]
    utils = robustbench("utils")
    try:
        # Models draw their first weights from the global random state; files are opened by torch.load.
        load = partial(torch.load, weights_only=not unsafe_weights)
        patched = mock.patch.object(torch, "load", load)
        quiet = redirect_stdout(sys.stderr)
        with preserved_random_state(), patched, cuda_optional(), quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if first is not None and drive_id is None and first.exists():  # RobustBench itself would fetch it again
                module = _timm_model(name, dataset, threat_model, n_classes, first)
            else:
                if drive_id is None:
                    _say_where_from(name, dataset, threat_model)
                module = utils.load_model(name, model_dir=str(model_dir), dataset=dataset, threat_model=threat_model)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{first.absolute() if first else name} holds more than weights ({first_line(error)}). If you trust its "
            "author, load it with unsafe_weights=True."
        ) from error
    except Exception as error:  # of torch, timm, requests and the models' own code: of any kind
        if first is None:
            raise InputError(
                f"{name} could not be fetched ({first_line(error)}). torchvision keeps its weights, in torch's cache."
            ) from error
        if not first.exists():
            raise InputError(
                f"{name} could not be fetched ({first_line(error)}). Its weights are not on Google Drive: see where "
                f"from above, and save them as {first.absolute()}."
            ) from error
        raise InputError(
            f"{name} can't be loaded from {first.absolute()}: {first_line(error)} Is it the file of another model? "
            f"Move it away to fetch it anew{_by_hand(files)}"
        ) from error
    try:
        classifier = as_classifier(module, shape, n_classes, device=device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"{name} is too large for the memory of the device: {first_line(error)}") from error
    classifier.published = _told(name, dataset, threat_model)
    return classifier


def _told(name: str, dataset: str, threat_model: str) -> dict[str, Any]:
    """Return what is published of a model, as an audit keeps it."""
    from art_classwise.zoo.leaderboard import published  # which asks this module for names

    told, under_attack = published(name, dataset, threat_model), threat_model != "corruptions"
    return {
        "source": f"robustbench:{dataset}/{threat_model}/{name}",
        "norm": threat_model,
        "eps": told.eps if told else None,
        "clean": told.clean if told else None,
        "robust": told.robust if told and under_attack else None,
    }


@contextmanager
def cuda_optional() -> Iterator[None]:
    """Let a model that calls ``.cuda()`` on constants while it is built be built where there is no GPU."""
    if torch.cuda.is_available():
        yield
        return
    with mock.patch.object(torch.Tensor, "cuda", lambda tensor, *_, **__: tensor):
        yield


def _registered(name: str, dataset: str, threat_model: str) -> str:
    return f"{name.lower().replace('-', '_')}_{dataset}_{threat_model.lower()}"


def _say_where_from(name: str, dataset: str, threat_model: str) -> None:
    """Say from where timm is going to fetch a model, which not all of its ways of doing so do."""
    found = importlib.import_module("timm.models").get_pretrained_cfg(_registered(name, dataset, threat_model))
    hub = getattr(found, "hf_hub_id", None)
    source = getattr(found, "url", None) or (f"https://huggingface.co/{hub}" if hub else "where timm keeps it")
    print(f"Looking for {name} in timm's cache, else downloading it from {source}", file=sys.stderr)


def _timm_model(name: str, dataset: str, threat_model: str, n_classes: int, file: Path) -> Any:
    timm = importlib.import_module("timm")
    registered = _registered(name, dataset, threat_model)
    return timm.create_model(registered, num_classes=n_classes, pretrained=False, checkpoint_path=str(file)).eval()


def check_zoo(dataset: str, threat_model: str) -> None:
    """Check that RobustBench knows a data set and a threat model, though perhaps not both together.

    Raises:
        InputError: It doesn't.
    """
    if dataset not in _SHAPES:
        raise unknown("RobustBench data set", dataset, _SHAPES)
    if threat_model not in THREATS:
        raise unknown("RobustBench threat model", threat_model, THREATS)


def _table(dataset: str, threat_model: str) -> dict[str, Any]:
    check_zoo(dataset, threat_model)
    enums, tables = robustbench("model_zoo.enums"), robustbench("model_zoo").model_dicts
    by_threat = tables[enums.BenchmarkDataset(dataset)]
    threat = enums.ThreatModel(threat_model)
    if threat not in by_threat:
        have = ", ".join(t.value for t in by_threat)
        raise InputError(f"RobustBench has no {threat_model} models for {dataset}; it has {have}.")
    table: dict[str, Any] = by_threat[threat]
    return table


def _entry(name: str, dataset: str, threat_model: str) -> dict[str, Any]:
    table = _table(dataset, threat_model)
    if name not in table:
        raise unknown(f"RobustBench model for {dataset} {threat_model}", name, table)
    entry: dict[str, Any] = table[name]
    return entry


def _drive_url(drive_id: str) -> str:
    return f"https://drive.google.com/uc?id={drive_id}"


def _by_hand(files: dict[Path, str | None]) -> str:
    pairs = [f"{_drive_url(drive_id)} to {file.absolute()}" for file, drive_id in files.items() if drive_id is not None]
    return f", or save {', '.join(pairs)}." if pairs else "."


def _fetch(file: Path, drive_id: str | None, name: str) -> None:
    """See that a file of weights is there and looks like one; download it if it is missing."""
    by_hand = "" if drive_id is None else f" Fetch it by hand: save {_drive_url(drive_id)} as {file.absolute()}."
    if file.exists() or drive_id is None:
        check_weights_file(file, f"Delete it to download it anew.{by_hand}")
        return
    print(f"Downloading {name} from {_drive_url(drive_id)} to {file.absolute()}", file=sys.stderr)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(file) as aside:
            with redirect_stdout(sys.stderr):
                robustbench("utils").download_gdrive_new(drive_id, aside)
            check_weights_file(aside, f"The download of {name} failed.{by_hand}")
    except InputError:
        raise
    except Exception as error:  # gdown and requests raise many kinds
        raise InputError(f"{name} could not be downloaded ({first_line(error)}).{by_hand}") from error
