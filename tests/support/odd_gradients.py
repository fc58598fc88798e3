"""Odd networks whose gradients are their own, or absent; and those that write into their input."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from odd_networks import Written, conv_net, head, odd
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# --- gradients of their own -------------------------------------------------------------------------------------------


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
