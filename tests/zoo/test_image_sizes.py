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


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("xcit_nano_12_p16_224", (3, 33, 33), "`patch_size` should divide"),
        ("nest_tiny", (3, 32, 48), "only handles square inputs"),
        ("swinv2_tiny_window8_256", (3, 32, 48), "invalid for input of size"),
        ("vit_tiny_r_s16_p8_224", (3, 33, 33), "AssertionError"),
    ],
)
def test_networks_of_timm_that_cannot_be_built_for_a_size_say_so(name, shape, says):
    size = f"timm:{name} can't take images of {shape[1]} x {shape[2]} pixels"
    with pytest.raises(InputError, match=f"{size} .*{says}"):
        acw.build(f"timm:{name}", shape, 10)


class Remembering(nn.Module):
    """Keeps positions for the size that it saw last, as timm's ConViT does."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 2)
        self.positions = torch.zeros(1, 1)

    def forward(self, x):
        x = x.flatten(1)
        if self.positions.shape[1] != x.shape[1]:
            self.positions = torch.ones(1, x.shape[1])
        return self.linear(x + self.positions)


def test_trying_a_size_leaves_nothing_behind():
    network = Remembering()
    check_takes(network, "mine", (3, 2, 2))
    assert network.positions.shape == (1, 1)
    assert network(torch.zeros(2, 3, 2, 2)).device.type == "cpu"
    network = acw.build("timm:convit_tiny", (1, 32, 32), 10, seed=0).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, 1, 32, 32)).isfinite().all()


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
