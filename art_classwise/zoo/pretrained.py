"""Weights into a module: loaded if they fit, else told where they don't."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import sys
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from art_classwise._core.files import written_aside
from art_classwise._core.fingerprints import file_digest
from art_classwise._core.forward import is_out_of_memory
from art_classwise._core.state import preserved_random_state
from art_classwise.errors import InputError, first_line
from art_classwise.zoo.classifier import as_classifier
from art_classwise.zoo.robustbench import DATASETS, cuda_optional, published, robustbench, robustbench_files
from art_classwise.zoo.weights_files import check_weights_file, more_than_weights

__all__ = ["fit", "load_robustbench", "misfit"]

_SHOWN = 3
_KINDS = ("whole numbers", "floating-point numbers", "complex numbers", "quantised numbers")


def fit(module: nn.Module, weights: Mapping[str, Any], what: str, holder: str = "The model") -> None:
    """Load weights into a module that they are the weights of.

    Args:
        module: Layers whose shapes aren't known yet (``nn.LazyLinear``, say) take those of the weights.
        weights: A state dict.
        what: What the module is, for messages.
        holder: What the weights are of.

    Raises:
        InputError: The names, shapes or kinds of numbers differ; some are named.
    """
    own = module.state_dict()
    missing, unknown = [k for k in own if k not in weights], [k for k in weights if k not in own]
    both = [k for k in own if k in weights and isinstance(own[k], Tensor)]
    others = [k for k in both if not isinstance(weights[k], Tensor)]
    both = [k for k in both if isinstance(weights[k], Tensor)]
    reshaped = [k for k in both if not is_lazy(own[k]) and own[k].shape != weights[k].shape]
    differ = [
        *_several("it lacks", missing),
        *_several("it has", unknown, "besides"),
        *_several("", [f"{k} has shape {tuple(weights[k].shape)}, not {tuple(own[k].shape)}" for k in reshaped]),
        *_several("", [f"{k} is a {type(weights[k]).__name__}, not a tensor" for k in others]),
        *_several("", [f"{k} has a shape, but no values" for k in both if weights[k].is_meta]),
    ]
    if differ:
        raise InputError(f"{holder} is of another architecture than {what}: {'; '.join(differ)}.")
    for key in both:
        given, wanted = _kind(weights[key]), _kind(own[key])
        if given != wanted:
            raise InputError(
                f"{holder} holds {given} ({weights[key].dtype}) for {key}, but {what} has {wanted} ({own[key].dtype}) "
                "there: convert them first, by what they were made with."
            )
    dense = {k: v.to_dense() if isinstance(v, Tensor) and v.layout != own[k].layout else v for k, v in weights.items()}
    try:
        module.load_state_dict(dense)
    except Exception as error:  # of the module's own hooks: of any kind
        raise InputError(f"The weights can't be loaded into {what}: {first_line(error)}") from error


def misfit(error: BaseException) -> str:
    """Return what an error of ``load_state_dict`` says, a few names of each kind; of another error, its first line."""
    text = str(error)
    if not text.startswith("Error(s) in loading state_dict"):
        return first_line(error)
    names: dict[str, list[str]] = {
        kind: re.findall(r'"([^"]+)"', line)
        for kind in ("Missing key", "Unexpected key")
        for line in text.splitlines()
        if line.strip().startswith(kind)
    }
    return "; ".join(
        [
            *_several("it lacks", names.get("Missing key", [])),
            *_several("it has", names.get("Unexpected key", []), "besides"),
            *_several("of another shape are", re.findall(r"size mismatch for ([^:\s]+):", text)),
        ]
    ) or first_line(error)


def _kind(tensor: Tensor) -> str:
    kind = 3 if tensor.is_quantized else 2 if tensor.is_complex() else int(tensor.is_floating_point())
    return _KINDS[kind]


def _several(before: str, items: list[str], after: str = "") -> list[str]:
    """Write a few of many: nothing if there is none."""
    if not items:
        return []
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return [" ".join(filter(None, (before, ", ".join(items[:_SHOWN]) + more, after)))]


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
    shape, n_classes = DATASETS[dataset].shape, DATASETS[dataset].n_classes
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
        found = more_than_weights(error)
        raise InputError(
            f"{first.absolute() if first else name} "
            + (
                f"holds more than weights: {found}. If you trust its author, load it with `unsafe_weights=True`."
                if found
                else f"is damaged: move it away to download it again{_by_hand(files)}"
            )
        ) from error
    except Exception as error:  # of torch, timm, requests and the models' own code: of any kind
        if first is None:
            raise InputError(
                f"{name} could not be downloaded ({first_line(error)}). torchvision keeps its weights in torch's cache."
            ) from error
        if not first.exists():
            raise InputError(
                f"{name} could not be downloaded ({first_line(error)}). Its weights are not on Google "
                f"Drive: see the address above, and save them as {first.absolute()}."
            ) from error
        raise InputError(
            f"{name} can't be loaded from {first.absolute()}: {misfit(error).rstrip('.:')}. Is it the file of another "
            "model? "
            f"Move it away to download it again{_by_hand(files)}"
        ) from error
    try:
        classifier = as_classifier(module, shape, n_classes, device=device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"{name} is too large for the memory of the device: {first_line(error)}") from error
    classifier.published = _told(name, dataset, threat_model)
    classifier.origin = {
        "file": classifier.published["source"],
        "architecture": type(module).__qualname__,
        "sha256": file_digest(first) if first is not None and first.is_file() else None,
    }
    return classifier


def _told(name: str, dataset: str, threat_model: str) -> dict[str, Any]:
    """Return what is published of a model, as an audit keeps it."""
    told, under_attack = published(name, dataset, threat_model), threat_model != "corruptions"
    return {
        "source": f"robustbench:{dataset}/{threat_model}/{name}",
        "norm": threat_model,
        "eps": told.eps if told else None,
        "clean": told.clean if told else None,
        "robust": told.robust if told and under_attack else None,
    }


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


def _drive_url(drive_id: str) -> str:
    return f"https://drive.google.com/uc?id={drive_id}"


def _by_hand(files: dict[Path, str | None]) -> str:
    pairs = [f"{_drive_url(drive_id)} to {file.absolute()}" for file, drive_id in files.items() if drive_id is not None]
    return f", or save {', '.join(pairs)}." if pairs else "."


def _fetch(file: Path, drive_id: str | None, name: str) -> None:
    """See that a file of weights is there and looks like one; download it if it is missing."""
    by_hand = "" if drive_id is None else f" Fetch it by hand: save {_drive_url(drive_id)} as {file.absolute()}."
    if file.exists() or drive_id is None:
        check_weights_file(file, f"Delete it to download it again.{by_hand}")
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
