from __future__ import annotations

import pytest
import torch
from torch import nn

import art_classwise as acw
from art_classwise import InputError
from art_classwise.zoo.image_sizes import USUAL_SIZES, check_takes


@pytest.mark.parametrize(
    ("name", "side", "smallest"),
    [("torchvision:squeezenet1_1", 8, 28), ("alexnet", 32, 64), ("inception_v3", 64, 96)],
)
def test_a_size_that_a_network_cannot_take_is_refused_with_those_it_can(name, side, smallest):
    takes = ", ".join(str(usual) for usual in USUAL_SIZES if usual >= smallest)
    says = rf"can't take images of {side} x {side} pixels \(.*\)\. Of the usual sizes it takes {takes}: resize them"
    with torch.device("meta"), pytest.raises(InputError, match=says):
        acw.build(name, (3, side, side), 10)


def test_vision_transformers_are_built_for_their_size():
    with torch.device("meta"):
        for side in (32, 64, 224):
            assert acw.build("vit_b_32", (3, side, side), 10)(torch.zeros(2, 3, side, side)).shape == (2, 10)
        with pytest.raises(InputError, match=r"vit_b_32 can't take images of 50 x 50 pixels \(Input shape indivisible"):
            acw.build("vit_b_32", (3, 50, 50), 10)
        with pytest.raises(InputError, match=r"can't take images of 64 x 32 pixels .*it takes 64: resize"):
            acw.build("vit_b_32", (3, 64, 32), 10)


class OnlyReal(nn.Module):
    """Looks at values, which meta tensors don't have."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 2)

    def forward(self, x):
        return self.linear(x.flatten(1)) if float(x.sum()) == 0 else None


def test_what_needs_values_is_tried_with_some():
    network = nn.Sequential(nn.Dropout(), OnlyReal()).train()
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.get_rng_state()
    check_takes(network, "mine", (3, 2, 2))
    with pytest.raises(InputError, match=r"mine can't take images of 2 x 3 pixels \(mat1 and mat2 .*\)\. Resize them"):
        check_takes(network, "mine", (3, 2, 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
