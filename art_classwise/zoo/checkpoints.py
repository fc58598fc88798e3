"""Our own checkpoints: one file that says what network it is and loads with ``weights_only=True``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from art_classwise._core.files import written_aside
from art_classwise.errors import InputError
from art_classwise.threat import ThreatModel
from art_classwise.zoo.architectures import build
from art_classwise.zoo.classifier import as_classifier
from art_classwise.zoo.pretrained import fit
from art_classwise.zoo.weights_files import load_weights

__all__ = ["Checkpoint", "load_checkpoint", "read_checkpoint", "save_checkpoint"]

_FORMAT, _VERSION = "art-classwise checkpoint", 1
_ADVICE = "Checkpoints are written by save_checkpoint() or by `art-classwise train`."


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        architecture: A name that :func:`build` knows, or ``""`` for the user's own module.
        input_shape: (C, H, W).
        classes: The class names.
        threat: The threat model trained against, or None.
        recipe: How it was trained: plain values by name.
        state_dict: The weights, on the CPU.
    """

    architecture: str
    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    threat: ThreatModel | None
    recipe: dict[str, Any] = field(repr=False)
    state_dict: dict[str, Tensor] = field(repr=False)


def save_checkpoint(
    path: str | os.PathLike[str],
    model: Any,
    *,
    architecture: str,
    classes: Sequence[str],
    threat: ThreatModel | str | None = None,
    recipe: Mapping[str, Any] | None = None,
    input_shape: Sequence[int] | None = None,
) -> None:
    """Save a network with what is needed to use it again. Written aside, then renamed.

    Args:
        path: The file; an existing one is replaced once the new one is whole.
        model: An ART ``PyTorchClassifier``, or a module (then give ``input_shape``).
        architecture: A name that :func:`build` knows; ``""`` if the network is a module of yours.
        classes: The class names.
        threat: The threat model trained against.
        recipe: How it was trained: strings, numbers, booleans, None, lists and dicts of these.
        input_shape: (C, H, W), where ``model`` is a module.

    Raises:
        InputError: The weights don't fit the architecture, the recipe holds other values, or the file can't be
            written.
    """
    module = model if isinstance(model, nn.Module) else model.model
    shape = tuple(int(s) for s in (model.input_shape if input_shape is None else input_shape))
    state = module.state_dict()
    if (lazy := next((k for k, v in state.items() if is_lazy(v)), None)) is not None:
        raise InputError(f"The model's weight {lazy} has no shape yet: let the model predict something once.")
    weights = {k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in state.items()}
    if architecture:
        fit(build(architecture, shape, len(classes), seed=0), weights, f"the architecture {architecture!r}")
    _check_plain(recipe or {}, "recipe")
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "architecture": architecture,
        "input_shape": list(shape),
        "classes": [str(c) for c in classes],
        "threat": None if threat is None else _threat_text(ThreatModel.parse(threat)),
        "recipe": dict(recipe or {}),
        "state_dict": weights,
    }
    target = Path(path)
    try:
        with written_aside(target) as aside:
            torch.save(content, aside)
    except (OSError, RuntimeError) as error:
        raise InputError(f"The checkpoint can't be written to {target.absolute()}: {error}") from error


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint file without building its network.

    Raises:
        InputError: The file is missing, damaged, or no checkpoint of ours.
    """
    content = load_weights(Path(path), _ADVICE)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InputError(
            f"{Path(path).absolute()} holds {'weights' if _are_weights(content) else f'a {type(content).__name__}'}, "
            "but is not an art-classwise checkpoint. Load the weights into your module with torch.load and "
            "load_state_dict, and wrap it with as_classifier()."
        )
    if content.get("version") != _VERSION:
        raise InputError(
            f"{Path(path).absolute()} is a checkpoint of version {content.get('version')}; this release reads "
            f"version {_VERSION}. Update art-classwise."
        )
    weights = content.get("state_dict")
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise InputError(f"{Path(path).absolute()} is damaged: it lacks weights. {_ADVICE}")
    try:
        return Checkpoint(
            architecture=content["architecture"],
            input_shape=tuple(int(side) for side in content["input_shape"]),
            classes=tuple(content["classes"]),
            threat=None if content["threat"] is None else ThreatModel.parse(content["threat"]),
            recipe=content["recipe"],
            state_dict=content["state_dict"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{Path(path).absolute()} is damaged: {error!r} in its description. {_ADVICE}") from error


def load_checkpoint(
    path: str | os.PathLike[str], module: nn.Module | None = None, *, device: str | torch.device | None = None
) -> Any:
    """Load a checkpoint as an ART classifier.

    Args:
        path: The file.
        module: The network to load the weights into; built from the checkpoint's architecture if absent.
        device: As for :func:`as_classifier`.

    Returns:
        An ART ``PyTorchClassifier`` in eval mode.

    Raises:
        InputError: As :func:`read_checkpoint`; the weights are of another architecture than ``module``; or the
            network is the user's own and ``module`` is missing.
    """
    checkpoint = read_checkpoint(path)
    if module is None and not checkpoint.architecture:
        raise InputError(
            f"{Path(path).absolute()} holds a network that art-classwise doesn't define: "
            "give it, load_checkpoint(path, module=...)."
        )
    if module is None:
        network = build(checkpoint.architecture, checkpoint.input_shape, len(checkpoint.classes), seed=0)
        what = f"the architecture {checkpoint.architecture!r}"
    else:
        network, what = module, f"the module {type(module).__name__}"
    fit(network, checkpoint.state_dict, what, str(Path(path).absolute()))
    network.eval()
    return as_classifier(network, checkpoint.input_shape, len(checkpoint.classes), device=device)


def _are_weights(content: Any) -> bool:
    """Return whether this is a state dict, or holds one."""
    if not isinstance(content, Mapping):
        return False
    return any(isinstance(v, Tensor) or (isinstance(v, Mapping) and _are_weights(v)) for v in content.values())


def _threat_text(threat: ThreatModel) -> str:
    return f"{threat.norm}:{threat.eps!r}"  # all digits: str() rounds


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _check_plain(item, f"{where}[{i}]")
    elif not (value is None or type(value) in (str, int, float, bool)):
        raise InputError(
            f"{where} is a {type(value).__name__}; a recipe holds strings, numbers, booleans, None, lists and dicts."
        )
