"""Small networks that other people trained and published, as the evaluations and tests load them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import art_classwise as acw

NETWORKS = {
    "cifar10-cnn-a": ("cifar10", "Linf:4/255"),
    "cifar10-resnet4b": ("cifar10", "Linf:2/255"),
    "cifar10-resnet18-natural": ("cifar10", "Linf:0.9/255"),
    "mnist-smallcnn-trades": ("mnist", "Linf:0.3"),
    "mnist-lenet5-natural": ("mnist", "Linf:0.1"),
}
"""By name the data set, and the radius: that of their training; the natural ones withstand only smaller ones."""
ADVERSARIAL = tuple(name for name in NETWORKS if "natural" not in name)


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
    from lib.setups import load

    for name in names:
        dataset, threat = NETWORKS[name]
        try:
            classifier = load_published(name, folder or "checkpoints")
            data = load(dataset, "test", root, n_examples)
        except (acw.InputError, FileNotFoundError) as error:
            print(f"left out: {name}: {error}", file=sys.stderr, flush=True)
            continue
        yield name, classifier, data, threat


def load_published(name: str, folder: str | os.PathLike[str], device: str | None = None) -> Any:
    """Return a published network as an ART classifier that takes images in [0, 1].

    Args:
        name: One of :data:`NETWORKS`. ``cifar10-cnn-a`` (Linf 4/255) and ``cifar10-resnet4b`` (Linf 2/255) are
            adversarially trained, from alpha-beta-CROWN; ``mnist-smallcnn-trades`` (Linf 0.3) from TRADES; the natural
            ones come from pyautoattack, which brings its weights along, and advertorch.
        folder: Where the weights lie.
        device: As for :func:`art_classwise.as_classifier`.

    Raises:
        InputError: The name is unknown.
        FileNotFoundError: The weights aren't there.
    """
    folder = Path(folder)
    if name == "cifar10-cnn-a":
        network = nn.Sequential(
            *(nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10)),
        )
        _fill(network, _weights(folder / "cifar10_cnn_a_adv4.pt"))
        module: nn.Module = nn.Sequential(_Standardise((0.485, 0.456, 0.406), (0.225, 0.225, 0.225)), network)
    elif name == "cifar10-resnet4b":
        network = _resnet4b()
        network.load_state_dict(_weights(folder / "cifar10_resnet4b_at2.pth"))
        module = nn.Sequential(_Standardise((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)), network)
    elif name == "cifar10-resnet18-natural":
        module = acw.build("resnet18", (3, 32, 32), 10)
        with as_file(files("pyautoattack") / "examples" / "model_test.pt") as path:
            _fill(module, _weights(path))
    elif name == "mnist-smallcnn-trades":
        module = acw.build("mnist-cnn", (1, 28, 28), 10)
        module.load_state_dict(_weights(folder / "mnist_smallcnn_trades.pt"))
    elif name == "mnist-lenet5-natural":
        module = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(3136, 200), nn.ReLU(), nn.Linear(200, 10)),
        )
        _fill(module, _weights(folder / "mnist_lenet5_clean.pt"))
    else:
        raise acw.InputError(f"Unknown published network {name!r}: there are {', '.join(NETWORKS)}.")
    shape = (1, 28, 28) if name.startswith("mnist") else (3, 32, 32)
    return acw.as_classifier(module.eval(), shape, 10, device=device)


class _Standardise(nn.Module):
    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        same = stride == 1 and channels_in == channels
        self.shortcut = nn.Sequential(*(() if same else (nn.Conv2d(channels_in, channels, 1, stride),)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x))


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
    return network


def _weights(path: Path) -> dict[str, Tensor]:
    content = torch.load(path, weights_only=True, map_location="cpu")
    content = content[0] if isinstance(content, list) else content
    return content.get("state_dict", content)


def _fill(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights by their order: the names differ, the architecture doesn't."""
    module.load_state_dict(dict(zip(module.state_dict(), weights.values(), strict=True)))
