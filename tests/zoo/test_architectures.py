from __future__ import annotations

import pytest
import torch
from torch import nn

import art_classwise as acw
from art_classwise import InputError
from art_classwise.zoo import ARCHITECTURES

SHAPES = {"digits-cnn": (1, 8, 8), "mnist-cnn": (1, 28, 28)}


@pytest.mark.parametrize("name", [*ARCHITECTURES, "wrn-16-1"])
def test_architectures_take_images_and_return_logits(name):
    if name.startswith("wrn-"):  # the definition is one; small here to stay quick
        name = "wrn-10-1-swish" if name.endswith("swish") else "wrn-10-1"
    shape = SHAPES.get(name, (3, 32, 32))
    network = acw.build(name, shape, 7, seed=0).eval()
    assert network(torch.rand(2, *shape)).shape == (2, 7)


def test_weights_come_from_the_seed_and_leave_the_global_state():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (acw.build("digits-cnn", (1, 8, 8), 10, seed=s)[0].weight for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_published_parameter_counts():
    """CIFAR ResNet-18: 11.17 million; WRN-34-10: 46.16 million; TRADES' SmallCNN: 0.31 million."""

    def count(name, shape):
        with torch.device("meta"):
            return sum(p.numel() for p in acw.build(name, shape, 10).parameters())

    assert count("resnet18", (3, 32, 32)) == 11_173_962
    assert count("wrn-34-10", (3, 32, 32)) == 46_160_474
    assert count("mnist-cnn", (1, 28, 28)) == 312_202


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("resnet-18", (3, 32, 32), 10), "Unknown architecture 'resnet-18'. Did you mean .*resnet18"),
        (("resnet18", (3, 7, 32), 10), "resnet18 takes images of 8 x 8 pixels or larger, but got 7 x 32"),
        (("mnist-cnn", (3, 32, 32), 10), "images of 28 x 28, but got 32 x 32"),
        (("wrn-29-10", (3, 32, 32), 10), "6k \\+ 4 layers"),
        (("wrn-13-1", (3, 32, 32), 10), "6k \\+ 4 layers"),
        (("digits-cnn", (1, 8, 8), 1), "`n_classes` must be a whole number of at least 2, but got 1"),
        (("digits-cnn", (1, 8, 8), -1), "at least 2, but got -1"),
        (("digits-cnn", (1, 8, 8), True), "at least 2, but got True"),
        (("digits-cnn", (8, 8), 10), r"must be the shape of an image, \(C, H, W\), but got \(8, 8\)"),
        ((None, (1, 8, 8), 10), "Unknown architecture 'None'"),
        ((18, (1, 8, 8), 10), "Unknown architecture '18'. "),
        ((["resnet8"], (1, 8, 8), 10), "Unknown architecture .*Did you mean resnet8"),
    ],
)
def test_bad_architectures_are_named(arguments, says):
    with pytest.raises(InputError, match=says):
        acw.build(*arguments)


class Asserting(nn.Module):
    def __init__(self, *says):
        super().__init__()
        self.says = says

    def forward(self, x):
        raise AssertionError(*self.says)


class Tuple(nn.Module):
    def forward(self, x):
        return x, x


def test_as_classifier_checks_the_module(network):
    with pytest.raises(InputError, match=r"can't take images of shape \(1, 6, 6\)"):
        acw.as_classifier(network, (1, 6, 6), 4)
    with pytest.raises(InputError, match=r"logits of shape \(2, 5\) .* returned \(2, 4\)"):
        acw.as_classifier(network, (3, 6, 6), 5)
    with pytest.raises(InputError, match="returned tuple: wrap it"):
        acw.as_classifier(Tuple(), (3, 6, 6), 5)
    with pytest.raises(InputError, match='"cpu" or "cuda", but got \'gpu\''):
        acw.as_classifier(network, (3, 6, 6), 4, device="gpu")
    with pytest.raises(InputError, match=r"must be a torch\.nn\.Module, but is a str"):
        acw.as_classifier("network", (3, 6, 6), 4)
    with pytest.raises(InputError, match=r"`input_shape` must be the shape of an image"):
        acw.as_classifier(network, 6, 4)
    with pytest.raises(InputError, match="`n_classes` must be a whole number of at least 2"):
        acw.as_classifier(network, (3, 6, 6), 1)
    with pytest.raises(InputError, match="can't take images .*: of 224 only"):
        acw.as_classifier(Asserting("of 224 only"), (3, 6, 6), 4)
    with pytest.raises(InputError, match="can't take images .*: AssertionError"):
        acw.as_classifier(Asserting(), (3, 6, 6), 4)
    assert acw.as_classifier(network, (3, 6, 6), 4, device=torch.device("cpu")).device.type == "cpu"
    network.train()
    mean = network[1].running_mean.clone()
    assert acw.as_classifier(network, (3, 6, 6), 4).nb_classes == 4
    assert network.training
    assert torch.equal(network[1].running_mean, mean)
