"""Residual networks for images of any size: those of the CIFAR literature, with a stem that large images pass first.

Parameter names, their order and initial weights are those of the usual implementations for CIFAR (RobustBench's among
them), and at 32 x 32 so are the functions: published weights fit.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from art_classwise.errors import InputError

__all__ = ["SMALLEST", "PreActResNet", "ResNet", "check_size", "pooled", "reduction_for", "stem"]

SMALLEST = 8
"""Pixels of the shorter side below which the last of three or four stages would have nothing left to look at."""


def check_size(name: str, shape: Sequence[int]) -> None:
    """Check that images are large enough for a network.

    Raises:
        InputError: They aren't.
    """
    _, height, width = shape
    if min(height, width) < SMALLEST:
        raise InputError(
            f"{name} takes images of {SMALLEST} x {SMALLEST} pixels or larger, but got {height} x {width}; digits-cnn "
            "takes images of 2 x 2 or larger."
        )


def reduction_for(shape: Sequence[int]) -> int:
    """Return how many times a stem makes images smaller: so that 28 to 64 pixels a side are left of any usual size.

    1 below 48 pixels (28 and 32), 2 below 128 (64 and 96), and 4, as for ImageNet, from there on (224).
    """
    side = min(shape[1:])
    return 1 if side < 48 else 2 if side < 128 else 4


def stem(channels: int, width: int, reduction: int) -> tuple[nn.Conv2d, nn.Module]:
    """Return a network's first convolution, and the pooling after it.

    Args:
        channels: Of the images.
        width: Of the convolution's output.
        reduction: 1: 3 x 3, as for CIFAR; 2: 3 x 3 with stride 2; 4: as for ImageNet (He et al. 2016), 7 x 7 with
            stride 2 and a 3 x 3 max pooling with stride 2; 8: likewise, with stride 4 of the convolution.
    """
    if reduction >= 4:
        convolution = nn.Conv2d(channels, width, 7, stride=reduction // 2, padding=3, bias=False)
        return convolution, nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Conv2d(channels, width, 3, stride=reduction, padding=1, bias=False), nn.Identity()


def pooled(maps: Tensor) -> Tensor:
    """Return the mean of feature maps (n, C, H, W) over their pixels, (n, C).

    The kernel is as large as the map, which gives to the bit what the fixed kernels for 32 x 32 do.
    """
    return functional.avg_pool2d(maps, maps.shape[-2:]).flatten(1)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions, each before its batch norm; where the shape changes, a 1 x 1 convolution beside them."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_width != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_width, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return functional.relu(out)


class PreActBlock(nn.Module):
    """Likewise, with each batch norm before its convolution (He et al. 2016, arXiv 1603.05027)."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        if stride != 1 or in_width != width:
            self.shortcut = nn.Sequential(nn.Conv2d(in_width, width, 1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        active = functional.relu(self.bn1(x))
        out = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        out += self.shortcut(active) if hasattr(self, "shortcut") else x
        return out  # type: ignore[no-any-return]


def _stages(
    block: type[BasicBlock] | type[PreActBlock], widths: Sequence[int], blocks: Sequence[int]
) -> list[nn.Sequential]:
    """Return the stages of a network: the first block of each but the first halves the maps' sides."""
    stages, before = [], widths[0]
    for i, (width, n) in enumerate(zip(widths, blocks, strict=True)):
        inputs = [before, *itertools.repeat(width, n - 1)]
        strides = [1 if i == 0 else 2, *itertools.repeat(1, n - 1)]
        stages.append(nn.Sequential(*(block(of, width, s) for of, s in zip(inputs, strides, strict=True))))
        before = width
    return stages


class ResNet(nn.Module):
    """A residual network of basic blocks (He et al. 2016, arXiv 1512.03385).

    Args:
        shape: (C, H, W) of the images.
        n_classes: Number of classes.
        widths: Channels of each stage.
        blocks: Blocks of each stage.
        reduction: As for :func:`stem`.
    """

    def __init__(
        self, shape: Sequence[int], n_classes: int, widths: Sequence[int], blocks: Sequence[int], reduction: int
    ) -> None:
        super().__init__()
        self.conv1, self.pool = stem(shape[0], widths[0], reduction)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.n_stages = len(widths)
        for i, stage in enumerate(_stages(BasicBlock, widths, blocks), start=1):
            self.add_module(f"layer{i}", stage)
        self.linear = nn.Linear(widths[-1], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, n_classes) of images (n, C, H, W)."""
        out = self.pool(functional.relu(self.bn1(self.conv1(x))))
        for i in range(1, self.n_stages + 1):
            out = getattr(self, f"layer{i}")(out)
        return self.linear(pooled(out))  # type: ignore[no-any-return]


class PreActResNet(nn.Module):
    """A pre-activation residual network with a last batch norm. Arguments as of :class:`ResNet`."""

    def __init__(
        self, shape: Sequence[int], n_classes: int, widths: Sequence[int], blocks: Sequence[int], reduction: int
    ) -> None:
        super().__init__()
        self.conv1, self.pool = stem(shape[0], widths[0], reduction)
        self.n_stages = len(widths)
        for i, stage in enumerate(_stages(PreActBlock, widths, blocks), start=1):
            self.add_module(f"layer{i}", stage)
        self.bn = nn.BatchNorm2d(widths[-1])
        self.linear = nn.Linear(widths[-1], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, n_classes) of images (n, C, H, W)."""
        out = self.pool(self.conv1(x))
        for i in range(1, self.n_stages + 1):
            out = getattr(self, f"layer{i}")(out)
        return self.linear(pooled(functional.relu(self.bn(out))))  # type: ignore[no-any-return]
