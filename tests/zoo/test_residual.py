from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import art_classwise as acw
from art_classwise.zoo.robustbench import robustbench

SMALL = ("resnet8", "resnet14", "resnet20", "resnet8-stem2")
RESIDUAL = (*SMALL, "resnet18", "preactresnet18")
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
            assert network.conv1.in_channels == channels
    assert on_meta(name, (3, 40, 100))[1].shape == (2, 10)


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
    weighted = [m for m in network.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
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
    for name in RESIDUAL:  # a stem keeps compute sensible: within six times that of 32 x 32, at 49 times the pixels
        assert cost(name, (3, 224, 224))[1] < 6 * cost(name)[1]


def reference(name):
    definitions = robustbench("model_zoo.architectures.resnet")
    if name == "resnet18":
        return definitions.ResNet(definitions.BasicBlock, [2, 2, 2, 2], 10)
    return definitions.PreActResNet(definitions.PreActBlock, [2, 2, 2, 2], 10, bn_before_fc=True, out_shortcut=True)


@pytest.mark.parametrize("name", ["resnet18", "preactresnet18"])
def test_at_32_pixels_networks_are_robustbenchs_to_the_bit(name):
    """Names and order of the weights, weights from a seed, logits and input gradients, in both modes."""
    torch.manual_seed(3)
    theirs = reference(name)
    ours = acw.build(name, (3, 32, 32), 10, seed=3)
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
