"""Wide residual networks (Zagoruyko, Komodakis 2016, arXiv 1605.07146) in the two forms of which weights are published.

As in :mod:`art_classwise.zoo.residual`, names, order and initial weights are RobustBench's, and so are the functions at
32 x 32.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from art_classwise.zoo.residual import pooled, stem

__all__ = ["SwishWideResNet", "WideResNet"]


def _blocks(widths: Sequence[int], n: int) -> Iterator[list[tuple[int, int, int]]]:
    """Yield for each of three groups of n blocks what these take, return, and their stride."""
    for (before, width), stride in zip(itertools.pairwise(widths), (1, 2, 2), strict=True):
        yield [(before, width, stride), *itertools.repeat((width, width, 1), n - 1)]


class _Block(nn.Module):
    """A pre-activation block; where the width changes, what is activated goes past it, too."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.convShortcut = None if in_width == width else nn.Conv2d(in_width, width, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return torch.add(x if self.convShortcut is None else self.convShortcut(active), out)


class _Group(nn.Module):
    def __init__(self, blocks: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.layer = nn.Sequential(*(_Block(*block) for block in blocks))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


class WideResNet(nn.Module):
    """A wide ResNet with the parameter names of TRADES' and MART's authors.

    Args:
        shape: (C, H, W) of the images.
        n_classes: Number of classes.
        depth: Number of layers, 6k + 4.
        width: Factor of the channels, 16, 32 and 64.
        reduction: As for :func:`art_classwise.zoo.residual.stem`.
    """

    def __init__(self, shape: Sequence[int], n_classes: int, depth: int, width: int, reduction: int) -> None:
        super().__init__()
        widths = [16, 16 * width, 32 * width, 64 * width]
        self.conv1, self.pool = stem(shape[0], widths[0], reduction)
        self.block1, self.block2, self.block3 = map(_Group, _blocks(widths, (depth - 4) // 6))
        self.bn1 = nn.BatchNorm2d(widths[-1])
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(widths[-1], n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. 2015, arXiv 1502.01852, by the outputs
                nn.init.normal_(module.weight, 0, math.sqrt(2 / (math.prod(module.kernel_size) * module.out_channels)))
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, n_classes) of images (n, C, H, W)."""
        out = self.block3(self.block2(self.block1(self.pool(self.conv1(x)))))
        return self.fc(pooled(self.relu(self.bn1(out))))  # type: ignore[no-any-return]


class _SwishBlock(nn.Module):
    """Likewise, with Swish, x * sigmoid(x), and TensorFlow's padding ("SAME") before a stride."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(in_width)
        self.relu_0 = nn.SiLU()
        self.conv_0 = nn.Conv2d(in_width, width, 3, stride=stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(width)
        self.relu_1 = nn.SiLU()
        self.conv_1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = None if in_width == width else nn.Conv2d(in_width, width, 1, stride=stride, bias=False)
        self._stride = stride

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu_0(self.batchnorm_0(x))
        # Of an even side, stride 2 leaves out the pixels before the first; without it both borders count.
        top, left = (active.shape[-2] % 2, active.shape[-1] % 2) if self._stride == 2 else (1, 1)
        out = self.conv_0(functional.pad(active, (left, 1, top, 1)))
        out = self.conv_1(self.relu_1(self.batchnorm_1(out)))
        return torch.add(x if self.shortcut is None else self.shortcut(active), out)


class _SwishGroup(nn.Module):
    def __init__(self, blocks: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.block = nn.Sequential(*(_SwishBlock(*block) for block in blocks))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)  # type: ignore[no-any-return]


_CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
_CIFAR100 = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
"""Mean and standard deviation of the training images, channel by channel."""


class SwishWideResNet(nn.Module):
    """The wide ResNet of Gowal et al. 2020 (arXiv 2010.03593) and Wang et al. 2023 (arXiv 2302.04638).

    It normalises images itself, by the mean and standard deviation of CIFAR-100 if there are 100 classes, else by those
    of CIFAR-10; of images without colours by 0.5 and 0.25. Arguments as of :class:`WideResNet`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: Sequence[int], n_classes: int, depth: int, width: int, reduction: int) -> None:
        super().__init__()
        mean, std = (_CIFAR100 if n_classes == 100 else _CIFAR10) if shape[0] == 3 else ((0.5,), (0.25,))
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)  # no weights, as published
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        widths = [16, 16 * width, 32 * width, 64 * width]
        self.init_conv, self.pool = stem(shape[0], widths[0], reduction)
        self.layer = nn.Sequential(*map(_SwishGroup, _blocks(widths, (depth - 4) // 6)))
        self.batchnorm = nn.BatchNorm2d(widths[-1])
        self.relu = nn.SiLU()
        self.logits = nn.Linear(widths[-1], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, n_classes) of images (n, C, H, W)."""
        out = self.layer(self.pool(self.init_conv((x - self.mean) / self.std)))
        return self.logits(pooled(self.relu(self.batchnorm(out))))  # type: ignore[no-any-return]
