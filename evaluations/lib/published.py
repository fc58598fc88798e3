"""Small networks that other people trained and published, as the evaluations and tests load them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import art_classwise as acw
from art_classwise.datasets import DATASETS

FAMILIES = {"adversarial": "adversarially", "certified": "provably", "natural": "naturally"}
"""How networks are trained, and the word that nets.json begins with where it says so."""


@dataclass(frozen=True)
class Published:
    """A published network.

    Attributes:
        dataset: What it classifies.
        threat: The radius in use for it: that of its training; natural ones withstand only smaller ones.
        family: One of :data:`FAMILIES`.
        file: Its weights, from the folder of the networks; empty if a package brings them along.
        layers: Of nets.json: see :func:`from_layers`; empty if :func:`load_published` knows them.
        training: How it was trained, in words.
        source: Where it was published.
    """

    dataset: str
    threat: str
    family: str
    file: str = ""
    layers: tuple[Any, ...] = ()
    training: str = ""
    source: str = ""


_CROWN, _TRADES = "alpha-beta-CROWN", "yaodongyu/TRADES"
NETWORKS = {
    "cifar10-cnn-a": Published(
        *("cifar10", "Linf:4/255", "adversarial", "cifar10_cnn_a_adv4.pt"), training="adversarially", source=_CROWN
    ),
    "cifar10-resnet4b": Published(
        *("cifar10", "Linf:2/255", "adversarial", "cifar10_resnet4b_at2.pth"), training="adversarially", source=_CROWN
    ),
    "cifar10-resnet18-natural": Published(
        *("cifar10", "Linf:0.9/255", "natural"), training="naturally", source="pyautoattack"
    ),
    "mnist-smallcnn-trades": Published(
        *("mnist", "Linf:0.3", "adversarial", "mnist_smallcnn_trades.pt"), training="TRADES", source=_TRADES
    ),
    "mnist-lenet5-natural": Published(
        *("mnist", "Linf:0.1", "natural", "mnist_lenet5_clean.pt"), training="naturally", source="advertorch"
    ),
}
"""Those whose layers are written here, by name; :func:`catalog` adds those that a folder describes."""
ADVERSARIAL = tuple(name for name, network in NETWORKS.items() if network.family == "adversarial")


def catalog(folder: str | os.PathLike[str] | None) -> dict[str, Published]:
    """Return :data:`NETWORKS` and those that ``published/nets.json`` in the folder describes, by name.

    Args:
        folder: Where the weights lie; ``checkpoints`` if absent.

    Raises:
        InputError: nets.json can't be read, or describes a network otherwise than it should.
    """
    path = Path(folder or "checkpoints") / "published" / "nets.json"
    if not path.is_file():
        return NETWORKS
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        found = {name.replace("_", "-"): _described(name, told) for name, told in described.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise acw.InputError(
            f"{path} must describe each network by name as an object with the texts data, eps, train and src and the "
            f"list spec, but doesn't: {type(error).__name__}: {error}"
        ) from None
    if both := found.keys() & NETWORKS.keys():
        raise acw.InputError(f"{path} describes {', '.join(sorted(both))}, which are known already: rename them there.")
    return NETWORKS | found


def _described(name: str, told: Mapping[str, Any]) -> Published:
    training, dataset = told["train"], told["data"]
    of = [family for family, word in FAMILIES.items() if training.startswith(word)]
    if not of or dataset not in DATASETS:
        raise ValueError(
            f"{name}: train must begin with {', '.join(FAMILIES.values())}, and data be one of {', '.join(DATASETS)}"
        )
    threat = str(acw.ThreatModel.parse(f"Linf:{told['eps']}"))
    file = f"published/{name}.pt"
    return Published(dataset, threat, of[0], file, tuple(told["spec"]), training, told["src"])


def at_hand(
    folder: str | os.PathLike[str] | None,
    root: str | os.PathLike[str] | None,
    n_examples: int | None,
    names: Sequence[str],
) -> Iterator[tuple[str, Any, acw.Dataset, str]]:
    """Yield the published networks whose weights and data are there: name, classifier, test images, threat model.

    Args:
        folder: Where the weights lie.
        root: Folder of the data sets.
        n_examples: How many test images, drawn in proportion to the classes; all if absent.
        names: Which networks.
    """
    from lib.data import load

    known = catalog(folder)
    for name in names:
        try:
            classifier = load_published(name, folder or "checkpoints")
            data = load(known[name].dataset, "test", root, n_examples)
        except (acw.InputError, FileNotFoundError) as error:
            print(f"left out: {name}: {error}", file=sys.stderr, flush=True)
            continue
        yield name, classifier, data, known[name].threat


def load_published(name: str, folder: str | os.PathLike[str], device: str | None = None) -> Any:
    """Return a published network as an ART classifier that takes images in [0, 1].

    Args:
        name: One of :func:`catalog`. ``cifar10-cnn-a`` (Linf 4/255) and ``cifar10-resnet4b`` (Linf 2/255) are
            adversarially trained, from alpha-beta-CROWN; ``mnist-smallcnn-trades`` (Linf 0.3) from TRADES; the natural
            ones come from pyautoattack, which brings its weights along, and advertorch.
        folder: Where the weights lie.
        device: As for :func:`art_classwise.as_classifier`.

    Raises:
        InputError: The name is unknown, or the network isn't as nets.json describes it.
        FileNotFoundError: The weights aren't there.
    """
    folder, known = Path(folder), catalog(folder)
    if name not in known:
        raise acw.InputError(f"Unknown published network {name!r}: there are {', '.join(known)}.")
    network = known[name]
    of = DATASETS[network.dataset]
    module = from_layers(network.layers) if network.layers else _BY_HAND[name]()
    try:
        if network.file:
            _fill(module, _weights(folder / network.file))
        else:
            with as_file(files("pyautoattack") / "examples" / "model_test.pt") as path:
                _fill(module, _weights(path))
    except (ValueError, RuntimeError) as error:  # another number of weights, or other shapes
        raise acw.InputError(f"The weights of {name} don't fit its layers: {error}") from None
    return acw.as_classifier(module.eval(), of.shape, of.n_classes, device=device)


def from_layers(layers: Sequence[Any]) -> nn.Sequential:
    """Return a network of layers that are described by lists: a name, then what it needs.

    ``["norm", mean, deviation]`` by channel; ``["conv", channels_in, channels, kernel, stride, padding, bias]``, the
    bias a bool that may be left out; ``["bn", channels]``; ``["lin", features_in, features]``; ``["relu"]``;
    ``["sigmoid"]``; ``["max", kernel]``; ``["avg"]``, over all pixels; ``["flat"]``; ``["res", layers, layers]``, the
    sum of what both lists of layers make of the same, the second one's being the shortcut.

    Raises:
        InputError: There is no such layer, or it doesn't take this.
    """
    if not isinstance(layers, (list, tuple)):
        raise acw.InputError(f"Layers must be a list of lists, each a layer, but are {layers!r}.")
    made = []
    for layer in layers:
        if not (isinstance(layer, list) and layer and layer[0] in [*_LAYERS]):
            raise acw.InputError(f"A layer must be a list that begins with {', '.join(_LAYERS)}, but is {layer!r}.")
        try:
            made.append(_LAYERS[layer[0]](*layer[1:]))
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise acw.InputError(f"The layer {layer!r} can't be made: {error}") from None
    return nn.Sequential(*made)


class _Standardise(nn.Module):
    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


class _Sum(nn.Module):
    """A residual block: the sum of body and shortcut."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        same = stride == 1 and channels_in == channels
        self.shortcut = nn.Sequential(*(() if same else (nn.Conv2d(channels_in, channels, 1, stride),)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x))


def _cnn_a() -> nn.Module:
    return nn.Sequential(
        _Standardise((0.485, 0.456, 0.406), (0.225, 0.225, 0.225)),
        nn.Sequential(
            *(nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10)),
        ),
    )


def _resnet4b() -> nn.Module:
    layers = {
        "conv1": nn.Conv2d(3, 16, 3, 2, 1),
        "relu0": nn.ReLU(),
        "layer1": nn.Sequential(_Block(16, 32, 2), _Block(32, 32, 1)),
        "layer2": nn.Sequential(_Block(32, 32, 2), _Block(32, 32, 1)),
        "flatten": nn.Flatten(),
        "linear1": nn.Linear(512, 100),
        "relu1": nn.ReLU(),
        "linear2": nn.Linear(100, 10),
    }
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return nn.Sequential(_Standardise((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)), network)


def _lenet5() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(3136, 200), nn.ReLU(), nn.Linear(200, 10)),
    )


_BY_HAND: dict[str, Callable[[], nn.Module]] = {
    "cifar10-cnn-a": _cnn_a,
    "cifar10-resnet4b": _resnet4b,
    "cifar10-resnet18-natural": partial(acw.build, "resnet18", (3, 32, 32), 10),
    "mnist-smallcnn-trades": partial(acw.build, "mnist-cnn", (1, 28, 28), 10),
    "mnist-lenet5-natural": _lenet5,
}


def _convolution(c_in: int, c: int, kernel: int, stride: int, padding: int, bias: bool = True) -> nn.Module:
    return nn.Conv2d(c_in, c, kernel, stride, padding, bias=bias)


def _standardise(mean: Sequence[float], deviation: Sequence[float]) -> nn.Module:
    if np.ndim(mean) != 1 or np.shape(mean) != np.shape(deviation) or not np.all(np.greater(deviation, 0)):
        raise ValueError("mean and deviation must be lists of numbers, one per channel, the deviations above 0")
    return _Standardise(mean, deviation)


_LAYERS: dict[str, Callable[..., nn.Module]] = {  # each takes just what from_layers() says
    "norm": _standardise,
    "conv": _convolution,
    "bn": lambda channels: nn.BatchNorm2d(channels),
    "lin": lambda features_in, features: nn.Linear(features_in, features),
    "relu": lambda: nn.ReLU(),
    "sigmoid": lambda: nn.Sigmoid(),
    "max": lambda kernel: nn.MaxPool2d(kernel),
    "avg": lambda: nn.AdaptiveAvgPool2d(1),
    "flat": lambda: nn.Flatten(),
    "res": lambda body, shortcut: _Sum(from_layers(body), from_layers(shortcut)),
}


def _weights(path: Path) -> dict[str, Tensor]:
    content = torch.load(path, weights_only=True, map_location="cpu")
    content = content[0] if isinstance(content, list) else content
    return content.get("state_dict", content)


def _fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights by their order: the names differ, the architecture doesn't. Mean and deviation are no weights."""
    state = module.state_dict()
    ours = {name for name, part in module.named_modules() if isinstance(part, _Standardise)}
    theirs = [name for name in state if name.rpartition(".")[0] not in ours]
    if len(theirs) != len(weights):
        raise ValueError(f"they are {len(weights)} tensors, where {len(theirs)} are needed")
    module.load_state_dict(state | dict(zip(theirs, weights.values(), strict=True)))
