"""Network architectures by name. Those for CIFAR are RobustBench's own definitions."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from art_classwise._core.state import preserved_random_state
from art_classwise.errors import InputError, check_seed, unknown

__all__ = ["ARCHITECTURES", "build"]

Shape = tuple[int, ...]


def build(name: str, input_shape: Sequence[int], n_classes: int, *, seed: int | None = None) -> nn.Module:
    """Build a network with fresh weights.

    Args:
        name: ``"digits-cnn"``, ``"mnist-cnn"``, ``"resnet18"``, ``"preactresnet18"``, or ``"wrn-<depth>-<width>"``.
        input_shape: (C, H, W).
        n_classes: Number of classes.
        seed: Of the weights; the global random state decides if absent.

    Returns:
        The network, on the CPU. It takes images in [0, 1] and returns logits.

    Raises:
        InputError: Unknown architecture, or one that doesn't take such images.
    """
    shape = tuple(int(side) for side in input_shape)
    wide = re.fullmatch(r"wrn-(\d+)-(\d+)", name)
    if name not in ARCHITECTURES and not wide:
        raise unknown("architecture", name, ARCHITECTURES, hint='Wide ResNets are written "wrn-34-10".')
    if len(shape) != 3 or n_classes < 2:
        raise InputError(f"A network needs images (C, H, W) and 2 classes or more, but got {shape}, {n_classes}.")

    def make() -> nn.Module:
        if wide:
            return _wide_resnet(int(wide[1]), int(wide[2]), shape, n_classes)
        return ARCHITECTURES[name](shape, n_classes)

    if seed is None:
        return make()
    check_seed(seed)
    with preserved_random_state(seed):
        return make()


def _digits_cnn(shape: Shape, n_classes: int) -> nn.Module:
    """Two convolutions and two linear layers; 38,282 weights for 10 classes at 8 x 8."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (height // 2) * (width // 2), 64),
        nn.ReLU(),
        nn.Linear(64, n_classes),
    )


def _mnist_cnn(shape: Shape, n_classes: int) -> nn.Module:
    """The SmallCNN of TRADES and MART (4 convolutions, 3 linear layers), with its parameter names."""
    if shape[1:] != (28, 28):
        raise InputError(f"mnist-cnn takes images of 28 x 28, but got {shape[1]} x {shape[2]}.")
    features = OrderedDict(
        conv1=nn.Conv2d(shape[0], 32, 3),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(32, 32, 3),
        relu2=nn.ReLU(),
        maxpool1=nn.MaxPool2d(2),
        conv3=nn.Conv2d(32, 64, 3),
        relu3=nn.ReLU(),
        conv4=nn.Conv2d(64, 64, 3),
        relu4=nn.ReLU(),
        maxpool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
    )
    head = OrderedDict(
        fc1=nn.Linear(1024, 200),
        relu1=nn.ReLU(),
        drop=nn.Dropout(0.5),
        fc2=nn.Linear(200, 200),
        relu2=nn.ReLU(),
        fc3=nn.Linear(200, n_classes),
    )
    return nn.Sequential(OrderedDict(feature_extractor=nn.Sequential(features), classifier=nn.Sequential(head)))


def _need_cifar(name: str, shape: Shape) -> None:
    if shape != (3, 32, 32):
        raise InputError(
            f"{name} takes colour images of 32 x 32, shape (3, 32, 32), but got {shape}; "
            "for grey images use mnist-cnn (28 x 28) or digits-cnn (any size)."
        )


def _resnet18(shape: Shape, n_classes: int) -> nn.Module:
    from art_classwise.zoo.robustbench import robustbench

    _need_cifar("resnet18", shape)
    definitions = robustbench("model_zoo.architectures.resnet")
    network: nn.Module = definitions.ResNet(definitions.BasicBlock, [2, 2, 2, 2], n_classes)
    return network


def _preact_resnet18(shape: Shape, n_classes: int) -> nn.Module:
    from art_classwise.zoo.robustbench import robustbench

    _need_cifar("preactresnet18", shape)
    definitions = robustbench("model_zoo.architectures.resnet")
    network: nn.Module = definitions.PreActResNet(
        definitions.PreActBlock, [2, 2, 2, 2], n_classes, bn_before_fc=True, out_shortcut=True
    )
    return network


def _wide_resnet(depth: int, width: int, shape: Shape, n_classes: int) -> nn.Module:
    from art_classwise.zoo.robustbench import robustbench

    _need_cifar(f"wrn-{depth}-{width}", shape)
    if depth < 10 or (depth - 4) % 6 or width < 1:
        raise InputError(f"A wide ResNet has 6k + 4 layers (10, 16, 22, 28, 34, ...), not {depth}, and width >= 1.")
    definitions = robustbench("model_zoo.architectures.wide_resnet")
    network: nn.Module = definitions.WideResNet(depth=depth, widen_factor=width, num_classes=n_classes)
    return network


ARCHITECTURES: dict[str, Callable[[Shape, int], nn.Module]] = {
    "digits-cnn": _digits_cnn,
    "mnist-cnn": _mnist_cnn,
    "resnet18": _resnet18,
    "preactresnet18": _preact_resnet18,
    "wrn-28-10": lambda shape, n_classes: _wide_resnet(28, 10, shape, n_classes),
    "wrn-34-10": lambda shape, n_classes: _wide_resnet(34, 10, shape, n_classes),
}
