"""Odd networks by what they do with their input: they cut it from its gradient, or write into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from odd_networks import Written, conv_net, odd
from torch import Tensor, nn
from torch.nn import functional

# --- no gradients -----------------------------------------------------------------------------------------------------

NONE = {"has_gradients": False}


@odd("all logits are zero until it is trained", **NONE)
def zero_head() -> nn.Module:
    net = conv_net()
    nn.init.zeros_(net[4][-1].weight)
    nn.init.zeros_(net[4][-1].bias)
    return net


@odd("the whole forward is under no_grad", trains=False, **NONE)
def all_under_no_grad() -> nn.Module:
    return Written(torch.no_grad()(lambda m, x: m.net(x)), net=conv_net())


@odd("logits are inference tensors, which backward refuses", trains=False, **NONE)
def all_under_inference_mode() -> nn.Module:
    return Written(torch.inference_mode()(lambda m, x: m.net(x)), net=conv_net())


@odd("the input is detached; weights have gradients", **NONE)
def detached_input() -> nn.Module:
    return Written(lambda m, x: m.net(x.detach()), net=conv_net())


def _through_numpy(m: Any, x: Tensor) -> Tensor:
    return m.net(torch.from_numpy(np.sqrt(x.detach().cpu().numpy())).to(x.device))


@odd("the input goes through NumPy, by the book", **NONE)
def numpy_in_front() -> nn.Module:
    return Written(_through_numpy, net=conv_net())


def _careless_numpy(m: Any, x: Tensor) -> Tensor:
    return m.net(torch.from_numpy(np.sqrt(x.numpy())))


@odd("x.numpy() fails where x requires a gradient", **NONE)
def careless_numpy_in_front() -> nn.Module:
    return Written(_careless_numpy, net=conv_net())


def _numpy_all(m: Any, x: Tensor) -> Tensor:
    return torch.from_numpy((x.detach().numpy().reshape(len(x), -1) - 0.5) @ m.matrix).float()


@odd("nothing of it is torch", trains=False, **NONE)
def numpy_throughout() -> nn.Module:
    return Written(_numpy_all, matrix=np.random.default_rng(0).standard_normal((192, 4)), unused=nn.Linear(1, 1))


@odd("logits are one-hot decisions", trains=False, **NONE)
def one_hot_decisions() -> nn.Module:
    return Written(lambda m, x: functional.one_hot(m.net(x).argmax(1), 4).float(), net=conv_net())


@odd("rounded without a straight-through gradient: it is zero everywhere", **NONE)
def rounded_without_gradient() -> nn.Module:
    return Written(lambda m, x: m.net((x * 8).round() / 8), net=conv_net())


@odd("as above, but large: a copy's gradient must be as zero", **NONE)
def rounded_without_gradient_large() -> nn.Module:
    return Written(lambda m, x: m.net((x * 8).round() / 8), net=conv_net(large=True))


def _looked_up(m: Any, x: Tensor) -> Tensor:
    return m.net(m.levels(torch.bucketize(x, torch.linspace(0, 1, 9, device=x.device)).clamp(0, 9))[..., 0])


@odd("a table is looked up by the input", **NONE)
def lookup_table() -> nn.Module:
    return Written(_looked_up, net=conv_net(), levels=nn.Embedding(10, 1))


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sqrt()


@odd("a custom function without a backward: NotImplementedError", **NONE)
def function_without_backward() -> nn.Module:
    return Written(lambda m, x: m.net(NoBackward.apply(x)), net=conv_net())


class NotDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.sqrt()
        ctx.mark_non_differentiable(y)
        return y


@odd("a custom function marked as not differentiable", **NONE)
def marked_not_differentiable() -> nn.Module:
    return Written(lambda m, x: m.net(NotDifferentiable.apply(x)), net=conv_net())


@odd("the same logits whatever comes", trains=True, **NONE)
def constant_logits() -> nn.Module:
    return Written(lambda m, x: m.bias.expand(len(x), 4), bias=nn.Parameter(torch.arange(4.0)))


# --- that write into their input --------------------------------------------------------------------------------------

WRITES = "what it was given is another afterwards: the attack's own points, or the caller's array"


def _swap(m: Any, x: Tensor) -> Tensor:
    x[:, [0, 2]] = x[:, [2, 0]]
    return m.net(x)


@odd(WRITES)
def swaps_channels_in_place() -> nn.Module:
    return Written(_swap, net=conv_net())


def _normalise(m: Any, x: Tensor) -> Tensor:
    return m.net(x.sub_(0.4).div_(0.3))


@odd(WRITES, centred=True)
def normalises_in_place() -> nn.Module:
    return Written(_normalise, net=conv_net())


@odd(f"{WRITES}; large, through a copy")
def normalises_in_place_large() -> nn.Module:
    return Written(_normalise, net=conv_net(large=True))


@odd(WRITES)
def clamps_in_place() -> nn.Module:
    return Written(lambda m, x: m.net(x.clamp_(0.1, 0.9)), net=conv_net())


def _scales_a_view(m: Any, x: Tensor) -> Tensor:
    x[:, :1].mul_(2)
    return m.net(x)


@odd(f"{WRITES}, by way of a view")
def scales_a_view_in_place() -> nn.Module:
    return Written(_scales_a_view, net=conv_net())


@odd(WRITES, centred=True)
def functional_relu_in_place_first() -> nn.Module:
    return Written(lambda m, x: m.net(functional.relu(x.mul_(2).sub_(1), inplace=True)), net=conv_net())


@odd("a layer in place comes first: a leaf that requires a gradient can't be written into")
def relu_layer_in_place_first() -> nn.Module:
    return nn.Sequential(nn.ReLU(inplace=True), conv_net())


@odd(
    "a layer in place comes first; large",
)
def dropout_layer_in_place_first_large() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Hardtanh(0.1, 0.9, inplace=True), conv_net(large=True))


def _keeps(m: Any, x: Tensor) -> Tensor:
    if m.last is not None and m.last.shape == x.shape:
        m.changed = m.changed or not bool(torch.equal(m.last, m.copy))
    m.last, m.copy = x, x.detach().clone()
    return m.net(x)


@odd("keeps its input: memory that is used again changes what it holds")
def keeps_its_input() -> nn.Module:
    return Written(_keeps, net=conv_net(), last=None, copy=None, changed=False)


def _zeroes_afterwards(m: Any, x: Tensor) -> Tensor:
    logits = m.net(x * 1.0)
    with torch.no_grad():
        x.detach().zero_()
    return logits


@odd(f"{WRITES}, after it was read, unseen by autograd")
def erases_its_input() -> nn.Module:
    return Written(_zeroes_afterwards, net=conv_net())
