"""Odd networks whose gradients are their own: straight-through, stopped in a branch, hooked, computed again."""

from __future__ import annotations

from typing import Any

import torch
from odd_networks import Written, conv_net, head, odd
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Rounding(torch.autograd.Function):
    """To eighths, with the gradient of the identity (Bengio et al. 2013)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 8).round() / 8

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Sign(torch.autograd.Function):
    """With the gradient of the hard tanh, as binarised networks have (Hubara et al. 2016)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * (x.abs() <= 1)


class SmoothSteps(torch.autograd.Function):
    """A staircase, backward as a smooth one (BPDA)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x * 6).floor() / 6

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * (1 - 0.5 * torch.cos(2 * torch.pi * 6 * x))


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


ROUNDING = "the gradient is the function's own: tracing, or a second look by finite differences, finds none"


@odd(ROUNDING)
def rounded_input() -> nn.Module:
    return Written(lambda m, x: m.net(Rounding.apply(x)), net=conv_net())


@odd(f"{ROUNDING}; large, so that it is copied and batch norms folded")
def rounded_input_large() -> nn.Module:
    return Written(lambda m, x: m.net(Rounding.apply(x)), net=conv_net(large=True))


def _two_of_three(m: Any, x: Tensor) -> Tensor:
    return m.net(torch.cat([Rounding.apply(x[:, :2]), x[:, 2:]], 1))


@odd("a copy that loses the rounded channels' gradient still has that of the third: it isn't zero, only weak")
def two_of_three_channels_rounded_large() -> nn.Module:
    return Written(_two_of_three, net=conv_net(large=True))


@odd("one of two branches loses its gradient in a traced copy")
def one_branch_rounded_large() -> nn.Module:
    return Written(lambda m, x: 4 * m.a(Rounding.apply(x)) + m.b(x), a=conv_net(large=True), b=conv_net())


class RoundingLayer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Rounding.apply(x)


@odd("the custom function stands in a layer of its own, deep inside")
def rounded_features_large() -> nn.Module:
    net = conv_net(large=True)
    return nn.Sequential(net[0], RoundingLayer(), *net[1:])


@odd("backward is another function's gradient (BPDA)")
def smooth_staircase_large() -> nn.Module:
    return Written(lambda m, x: m.net(SmoothSteps.apply(x)), net=conv_net(large=True))


class BinaryLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, Sign.apply(self.weight) * self.weight.abs().mean(), self.bias)


@odd("weights are made from others at each pass: a layer that is cast or folded is not what is computed", centred=True)
def binary_weights_large() -> nn.Module:
    net = conv_net(large=True)
    net[4][3] = BinaryLinear(1024, 1024)
    return net


@odd("activations of a sign, with a straight-through gradient")
def sign_activations_large() -> nn.Module:
    net = conv_net(large=True)
    return Written(lambda m, x: m.rest(Sign.apply(m.first(x))), first=net[:2], rest=net[3:])


@odd("straight-through by detach(): what tracing sees as a constant")
def rounded_by_detaching_large() -> nn.Module:
    return Written(lambda m, x: m.net(x + ((x * 8).round() / 8 - x).detach()), net=conv_net(large=True))


@odd("gradients run against the loss")
def reversed_gradients_large() -> nn.Module:
    return Written(
        lambda m, x: m.net(Reversal.apply(x)),
        net=conv_net(large=True),
    )


def _statistics_without_gradient(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        mean, std = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
    return m.net((x - mean) / std)


@odd("part of the forward is under no_grad: a traced copy has its gradient")
def statistics_under_no_grad_large() -> nn.Module:
    return Written(_statistics_without_gradient, net=conv_net(large=True))


def _detached_half(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        other = m.b(x)
    return m.a(x) + 0.2 * other


@odd("one branch is under no_grad: gradients are those of the other alone")
def one_branch_under_no_grad_large() -> nn.Module:
    return Written(_detached_half, a=conv_net(large=True), b=conv_net())


@odd("a branch is detached")
def detached_branch_large() -> nn.Module:
    return Written(lambda m, x: m.a(x) + 0.3 * m.b(x.detach()), a=conv_net(large=True), b=conv_net())


def _hooked(m: Any, x: Tensor) -> Tensor:
    h = m.net[:2](x)
    if h.requires_grad:
        h.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
    return m.net[2:](h)


@odd("a hook on a tensor changes the gradient: tracing calls it on no tensor")
def gradient_hook_large() -> nn.Module:
    return Written(_hooked, net=conv_net(large=True))


@odd("activations are computed again in backward")
def checkpointed_large() -> nn.Module:
    return Written(lambda m, x: checkpoint(m.net, x, use_reentrant=False), net=conv_net(large=True))


@odd("reentrant checkpoints run a backward of their own, which autograd.grad() refuses", trains=True)
def checkpointed_reentrant() -> nn.Module:
    net = conv_net()
    return Written(lambda m, x: m.net[2:](checkpoint(m.net[:2], x, use_reentrant=True)), net=net)


def _own_gradient(m: Any, x: Tensor) -> Tensor:
    with torch.enable_grad():
        asked = x if x.requires_grad else x.detach().requires_grad_()
        (saliency,) = torch.autograd.grad(m.guide(asked).logsumexp(1).sum(), asked, create_graph=True)
    return m.net(x + saliency)


@odd("takes a gradient in its forward, also under no_grad")
def saliency_inside() -> nn.Module:
    return Written(_own_gradient, net=conv_net(), guide=nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), head(144)))


@odd("control flow that depends on values can't be traced")
def control_flow_large() -> nn.Module:
    return Written(
        lambda m, x: m.net(x) if bool((x >= 0).all()) else m.net(x.clamp_min(0)) * 0.5, net=conv_net(large=True)
    )


@odd("a mask decides where gradients go")
def masked_by_where_large() -> nn.Module:
    return Written(lambda m, x: m.net(torch.where(x > 0.3, x, 0.3 * x)), net=conv_net(large=True))


def _clamped(m: Any, x: Tensor) -> Tensor:
    return m.net((x * 1.2 - 0.1).clamp(0.2, 0.8))


@odd("many inputs are out of a clamp's range, and have no gradient at a start")
def clamped_input_large() -> nn.Module:
    return Written(_clamped, net=conv_net(large=True))
