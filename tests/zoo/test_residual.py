from __future__ import annotations

import re

import pytest
import torch
from places import ROOT
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import art_classwise as acw
from art_classwise.zoo import ARCHITECTURES
from art_classwise.zoo.robustbench import robustbench

PAGE = ROOT / "docs" / "reference" / "zoo.md"

SMALL = ("resnet8", "resnet14", "resnet20", "resnet8-stem2")
WIDE = ("wrn-10-1", "wrn-10-1-swish")
RESIDUAL = (*SMALL, "resnet18", "preactresnet18", *WIDE)
SIDES = (28, 32, 64, 96, 224)


def on_meta(name, shape, n_classes=10):
    """Return a network without weights' values, and what it returns for two images: shapes only, at no cost."""
    with torch.device("meta"):
        network = acw.build(name, shape, n_classes).eval()
        return network, network(torch.zeros(2, *shape))


def n_weights(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", RESIDUAL)
def test_residual_networks_take_images_of_every_size(name):
    for side in SIDES:
        for channels in (1, 3):
            network, logits = on_meta(name, (channels, side, side), 7)
            assert logits.shape == (2, 7)
            assert next(m for m in network.modules() if isinstance(m, nn.Conv2d)).in_channels == channels
    assert on_meta(name, (3, 33, 101))[1].shape == (2, 10)


@pytest.mark.parametrize("name", RESIDUAL)
def test_every_pixel_counts_at_every_size(name):
    """No border is cut off by a pooling that doesn't reach it: the logits depend on the four corners."""
    for side in (28, 96):
        network = acw.build(name, (1, side, side), 3, seed=0).eval()
        x = torch.rand(1, 1, side, side, generator=torch.manual_seed(0)).requires_grad_()
        (gradient,) = torch.autograd.grad(network(x)[0, 0], x)
        blocks = [
            gradient[0, 0, rows, columns]
            for rows in (slice(8), slice(-8, None))
            for columns in (slice(8), slice(-8, None))
        ]
        assert all(block.abs().max() > 1e-3 * gradient.abs().max() for block in blocks)


@pytest.mark.parametrize(
    ("name", "weights", "layers"), [("resnet8", 78_042, 8), ("resnet14", 175_258, 14), ("resnet20", 272_474, 20)]
)
def test_small_residual_networks_are_those_of_he_et_al(name, weights, layers):
    """272,474 weights is the published number of ResNet-20 with projections; 6n + 2 layers without these."""
    network, _ = on_meta(name, (3, 32, 32))
    assert n_weights(network) == weights
    weighted = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len([m for m in weighted if getattr(m, "kernel_size", None) != (1, 1)]) == layers
    # By hand: 9 * (3 * 16 + 2n (16^2 + 32^2 + 64^2) - 16 * 32 - 32 * 64, as two blocks begin narrower) + ...
    n, squares = (layers - 2) // 6, 16**2 + 32**2 + 64**2
    convolutions = 9 * (3 * 16 + 2 * n * squares - 32 * 16 - 64 * 32)
    norms = 2 * (16 + 2 * n * (16 + 32 + 64) + 32 + 64)
    assert weights == convolutions + 16 * 32 + 32 * 64 + norms + 64 * 10 + 10


def test_the_light_network_has_more_weights_in_fewer_operations():
    def cost(name, shape=(3, 32, 32)):
        with FlopCounterMode(display=False) as count:
            network, _ = on_meta(name, shape)
        return n_weights(network), count.get_total_flops() / 4  # two images, two operations each

    weights, operations = cost("resnet8-stem2")
    assert 0.29e6 < weights < 0.32e6
    assert operations < 12.5e6 < cost("resnet20")[1] / 3
    for name in (
        "resnet8",
        "resnet8-stem2",
        "wrn-10-1",
    ):  # a stem keeps compute sensible: within six times that of 32 x 32, at 49 times the pixels
        assert cost(name, (3, 224, 224))[1] < 6 * cost(name)[1]


def resnet():
    return robustbench("model_zoo.architectures.resnet")


def wide(depth, width, n_classes=10):
    return robustbench("model_zoo.architectures.wide_resnet").WideResNet(depth, n_classes, width)


def swish(depth, width, n_classes=10):
    definitions = robustbench("model_zoo.architectures.dm_wide_resnet")
    of = "CIFAR100" if n_classes == 100 else "CIFAR10"
    mean, std = (getattr(definitions, f"{of}_{what}") for what in ("MEAN", "STD"))
    return definitions.DMWideResNet(n_classes, depth, width, nn.SiLU, mean, std)


REFERENCES = {
    "resnet18": lambda: resnet().ResNet(resnet().BasicBlock, [2, 2, 2, 2], 10),
    "preactresnet18": lambda: resnet().PreActResNet(
        resnet().PreActBlock, [2, 2, 2, 2], 10, bn_before_fc=True, out_shortcut=True
    ),
    "wrn-10-2": lambda: wide(10, 2),
    "wrn-16-1": lambda: wide(16, 1),
    "wrn-10-2-swish": lambda: swish(10, 2),
    "wrn-16-1-swish": lambda: swish(16, 1, 100),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_at_32_pixels_networks_are_robustbenchs_to_the_bit(name):
    """Names and order of the weights, weights from a seed, logits and input gradients, in both modes."""
    torch.manual_seed(3)
    theirs = REFERENCES[name]()
    ours = acw.build(name, (3, 32, 32), 100 if name == "wrn-16-1-swish" else 10, seed=3)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    for training in (True, False):
        results = []
        for network in (ours.train(training), theirs.train(training)):
            x = torch.rand(2, 3, 32, 32, generator=torch.manual_seed(1)).requires_grad_()
            logits = network(x)
            results.append((logits, *torch.autograd.grad(logits[:, 0].sum(), x)))
        for mine, other in zip(*results, strict=True):
            assert torch.equal(mine, other)


@pytest.mark.parametrize(
    ("name", "theirs", "weights"),
    [  # as published, in millions: 36.48 and 46.16; 267 of WRN-70-16 (Gowal et al. 2020)
        ("wrn-28-10", lambda: wide(28, 10), 36_479_194),
        ("wrn-34-10", lambda: wide(34, 10), 46_160_474),
        ("wrn-28-10-swish", lambda: swish(28, 10), 36_479_194),
        ("wrn-70-16-swish", lambda: swish(70, 16), 266_796_506),
        ("wrn-28-10-swish", lambda: swish(28, 10, 100), 36_479_194 + 90 * 641),
    ],
)
def test_wide_resnets_take_the_published_weights(name, theirs, weights):
    with torch.device("meta"):
        theirs = theirs()
        ours = acw.build(name, (3, 32, 32), theirs(torch.zeros(1, 3, 32, 32)).shape[1])
        shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (ours, theirs)]
    assert list(shapes[0]) == list(shapes[1])
    assert shapes[0] == shapes[1]
    assert n_weights(ours) == weights


def test_swish_networks_pad_as_tensorflow_does():
    """With "SAME", a stride of 2 leaves ceil(n / 2) of n pixels: as many as the 1 x 1 convolutions beside leave."""
    for height, width in ((9, 14), (13, 33), (28, 30)):
        network = acw.build("wrn-10-1-swish", (1, height, width), 3, seed=0).eval()
        assert network(torch.rand(1, 1, height, width)).shape == (1, 3)
        assert network.layer(torch.rand(1, 16, height, width)).shape[2:] == (-(-height // 4), -(-width // 4))


def test_the_table_in_the_documentation_is_right():
    """Weights, and million multiply-adds as torch counts them."""
    rows = re.findall(r"^\| `([\w-]+)` \| ([\d,]+) \|([^|]*)\|([^|]*)\|([^|]*)\|", PAGE.read_text("utf-8"), re.M)
    assert {name for name, *_ in rows} == {*ARCHITECTURES} - {"digits-cnn"}
    for name, weights, small, *larger in rows:
        sizes = [28] if name == "mnist-cnn" else [32] if name.startswith("wrn") else [32, 64, 96, 224]
        at_64 = small.split(", ")[-1]
        told = dict(zip((28, 32, 64, 96, 224), (small, small.split(", ")[0], at_64, *larger), strict=True))
        for side in sizes:
            with FlopCounterMode(display=False) as count:
                network, _ = on_meta(name, (1 if side == 28 else 3, side, side))
            assert f"{n_weights(network):,}" == weights or side > 32  # where the stem is larger
            assert f"{count.get_total_flops() / 4e6:,.0f}" == told[side].strip(), (name, side)
