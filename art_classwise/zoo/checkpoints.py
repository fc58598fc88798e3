"""Our own checkpoints: one file that says what network it is and loads with ``weights_only=True``."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import torch
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from art_classwise._core.files import written_aside
from art_classwise._core.fingerprints import file_digest
from art_classwise._core.labels import check_class_names
from art_classwise._core.plain_values import check_plain
from art_classwise._core.records import Record, parse
from art_classwise.errors import InputError, check_name
from art_classwise.threat import ThreatModel
from art_classwise.zoo.architectures import build, runs_code
from art_classwise.zoo.building import as_large_as
from art_classwise.zoo.classifier import as_classifier, checked_shape, normalized, trial
from art_classwise.zoo.pretrained import fit
from art_classwise.zoo.weights_files import HUB, StateDict, load_weights, open_weights, renamed_to_fit, weights_within

__all__ = ["Checkpoint", "is_checkpoint", "load_checkpoint", "read_checkpoint", "save_checkpoint"]

_FORMAT, _VERSION = "art-classwise checkpoint", 1
_ADVICE = "Checkpoints are written by save_checkpoint() or by `art-classwise train`."


def _tuple_of_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _threat_of_text(value: Any) -> Any:
    return ThreatModel.parse(value) if isinstance(value, str) else value


_MOST_VALUES, _MOST_CLASSES = 1 << 25, 1_000_000
"""Of an image that a file may ask to be tried on its network, colour of 3,300 x 3,300; and of names in a header."""


def _of_an_image(shape: tuple[int, ...]) -> tuple[int, ...]:
    if not 1 <= len(shape) <= 8 or math.prod(shape) > _MOST_VALUES:
        raise ValueError(f"must be the shape of an image, of at most {_MOST_VALUES:,} values, but is {shape!r:.80}")
    return shape


def _writable(name: str) -> str:
    check_name("class", name)
    return name


ClassName: TypeAlias = Annotated[str, AfterValidator(_writable)]


class Checkpoint(Record):
    """What a checkpoint file holds.

    Attributes:
        architecture: A name that :func:`build` knows, or ``""`` for the user's own module.
        input_shape: (C, H, W).
        classes: The class names.
        threat: The threat model trained against, or None.
        recipe: How it was trained: plain values by name.
        state_dict: The weights, on the CPU.
    """

    model_config = ConfigDict(extra="ignore")

    architecture: str
    input_shape: Annotated[
        tuple[Annotated[int, Field(ge=1, le=_MOST_VALUES)], ...],
        BeforeValidator(_tuple_of_list),
        AfterValidator(_of_an_image),
    ]
    classes: Annotated[tuple[ClassName, ...], BeforeValidator(_tuple_of_list), Field(max_length=_MOST_CLASSES)]
    threat: Annotated[ThreatModel | None, BeforeValidator(_threat_of_text)]
    recipe: dict[str, Any] = Field(repr=False)
    state_dict: StateDict = Field(repr=False)


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
    given = getattr(model, "input_shape", None) if input_shape is None else input_shape
    if given is None:
        raise InputError("A module doesn't say what images it takes: give `input_shape`, e.g. (3, 32, 32).")
    shape = checked_shape(given)
    check_class_names(classes)
    state = module.state_dict()
    if (lazy := next((k for k, v in state.items() if is_lazy(v)), None)) is not None:
        raise InputError(f"The model's weight {lazy} has no shape yet: let the model predict something once.")
    weights = {k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in state.items()}
    if architecture:
        with as_large_as(weights, f"the architecture {architecture!r}", "The model"):
            network = build(architecture, shape, len(classes), seed=0)
        weights = renamed_to_fit(weights, network, "The model")
        fit(network, weights, f"the architecture {architecture!r}")
    check_plain(recipe or {}, "recipe")
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
    return _checkpoint(load_weights(Path(path), _ADVICE), path)


def _checkpoint(content: Any, path: str | os.PathLike[str]) -> Checkpoint:
    """Return what a file holds as a checkpoint: see :func:`read_checkpoint`."""
    if not _is_ours(content):
        raise InputError(
            f"{Path(path).absolute()} holds {'weights' if _are_weights(content) else f'a {type(content).__name__}'}, "
            "but is not an art-classwise checkpoint.",
            python="Load the weights into your module with torch.load and load_state_dict, and wrap it with "
            "as_classifier().",
        )
    if content.get("version") != _VERSION:
        raise InputError(
            f"{Path(path).absolute()} is a checkpoint of version {content.get('version')}; this release reads "
            f"version {_VERSION}. Update art-classwise."
        )
    return parse(Checkpoint, content, str(Path(path).absolute()), _ADVICE)


def load_checkpoint(
    path: str | os.PathLike[str],
    module: nn.Module | None = None,
    *,
    architecture: str | None = None,
    input_shape: Sequence[int] | None = None,
    n_classes: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    key: str | None = None,
    device: str | torch.device | None = None,
) -> Any:
    """Load a checkpoint, or any file of weights, as an ART classifier.

    Args:
        path: A checkpoint of ours; a file written by ``torch.save`` with a state dict, by itself or under a key such
            as ``"state_dict"``, ``"net"``, ``"model"``, ``"model_state_dict"`` or ``"ema"`` (Lightning's, say); a
            safetensors file; a folder as Hugging Face's ``save_pretrained`` writes it; or ``"hf:ORGANISATION/NAME"``,
            a model of the Hugging Face hub, which is looked for in its cache first. Prefixes that wrappers add to
            names, ``module.``, ``_orig_mod.`` or ``model.``, don't matter.
        module: The network to load the weights into.
        architecture: In its place, a name that :func:`build` knows: ``"resnet18"``, ``"torchvision:resnet50"``,
            ``"timm:..."``, ``"file.py:callable"``. A checkpoint of ours says its own.
        input_shape: (C, H, W); a checkpoint of ours says it. A warning says if the network for this one is another.
        n_classes: Number of classes; if absent as many as there are logits, or with ``architecture`` as the last of the
            weights has rows. A checkpoint of ours says it.
        mean: What is subtracted from images in [0, 1] before they reach the network, if it doesn't do so itself: a
            number, or one per channel.
        std: What they are then divided by.
        key: Where in the file the weights are, where it holds several: ``"ema"``, say.
        device: As for :func:`as_classifier`.

    Returns:
        An ART ``PyTorchClassifier`` in eval mode. Its attribute ``origin`` says of which file and architecture it is,
        for the report of an audit.

    Raises:
        InputError: The file is missing, damaged, or no file of weights; it holds weights alone, and not what is needed
            to use them is given; or they are of another architecture: names that don't fit are told, both ways.
    """
    content = None if _is_folder_or_hub(path) else load_weights(Path(path), _ADVICE)
    own = _checkpoint(content, path) if _is_ours(content) else None
    holder = str(Path(path).absolute())
    if own is not None and key is None:
        if architecture is None and runs_code(own.architecture) and module is None:
            raise InputError(
                f"{Path(path).absolute()} names the program {own.architecture} as its architecture, which isn't run "
                f"because a file says so: if you trust it, give `architecture={own.architecture!r}`."
            )
        architecture = architecture if runs_code(own.architecture) else own.architecture or architecture
        input_shape = own.input_shape if input_shape is None else input_shape
        n_classes = len(own.classes) if n_classes is None else n_classes
        weights = own.state_dict
    elif content is None:
        holder, weights = open_weights(path, key)
    else:
        weights = weights_within(content, holder, key)
    if module is None and not architecture:
        foreign = "a network that art-classwise doesn't define", "weights, but not of which network"
        what = foreign[own is None]
        raise InputError(
            f"{holder} holds {what}: say how to build it with `architecture`, e.g. resnet18, torchvision:resnet50 or "
            "file.py:callable.",
            python="Or give the network itself, `module`.",
        )
    if input_shape is None:
        raise InputError(
            f"{holder} doesn't say what images its network takes"
            f"{'' if own is None else ': save it with them, save_checkpoint(..., input_shape=...)'}.",
            python="Give `input_shape`, e.g. (3, 32, 32).",
        )
    input_shape = checked_shape(input_shape)
    if module is None:
        assert architecture
        rows = next((len(v) for v in reversed(weights.values()) if isinstance(v, Tensor) and v.dim()), 2)
        what = f"the architecture {architecture!r}"
        with as_large_as(weights, what, holder):
            network = build(architecture, input_shape, rows if n_classes is None else n_classes, seed=0)
        if own is not None and own.input_shape != input_shape and ":" not in architecture:
            _warn_of_other_function(network, architecture, own, input_shape)
    else:
        network, what = module, f"the module {type(module).__name__}"
    fit(network, renamed_to_fit(weights, network, holder), what, holder)
    network = network.eval() if mean is None and std is None else normalized(network, mean, std, input_shape).eval()
    if n_classes is None:
        _, logits = trial(network, tuple(input_shape))
        n_classes = int(logits.shape[-1]) if isinstance(logits, Tensor) and logits.dim() else 0
    classifier = as_classifier(network, input_shape, n_classes, device=device)
    hub = str(path).startswith(HUB)
    classifier.origin = {
        "file": str(path) if hub else Path(path).absolute().name,
        "architecture": type(network).__qualname__ if module is not None else architecture,
        "threat": None if own is None or own.threat is None else _threat_text(own.threat),
        "sha256": file_digest(path) if not hub and os.path.isfile(path) else None,
    }
    return classifier


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a checkpoint of ours, which says of what network it is.

    Raises:
        InputError: It is missing, damaged, or no file of weights.
    """
    return not _is_folder_or_hub(path) and _is_ours(load_weights(Path(path), _ADVICE))


def _is_folder_or_hub(path: str | os.PathLike[str]) -> bool:
    return str(path).startswith(HUB) or os.path.isdir(path)


def _is_ours(content: Any) -> bool:
    return isinstance(content, dict) and content.get("format") == _FORMAT


def _warn_of_other_function(network: nn.Module, architecture: str, own: Checkpoint, shape: tuple[int, ...]) -> None:
    """Warn where one of our networks isn't what a checkpoint's is, as it was asked for images of another size."""
    with torch.device("meta"):
        saved = build(architecture, own.input_shape, max(2, len(own.classes)))
    if str(saved) != str(network):  # which has strides and paddings
        warnings.warn(
            f"The checkpoint's network is for images of shape {own.input_shape}. {architecture} for {shape} computes "
            "something else with the same weights, since larger images are reduced first: resize images instead.",
            stacklevel=3,
        )


def _are_weights(content: Any) -> bool:
    """Return whether this is a state dict, or holds one."""
    if not isinstance(content, Mapping):
        return False
    return any(isinstance(v, Tensor) or (isinstance(v, Mapping) and _are_weights(v)) for v in content.values())


def _threat_text(threat: ThreatModel) -> str:
    return f"{threat.norm}:{threat.eps!r}"  # all digits: str() rounds
