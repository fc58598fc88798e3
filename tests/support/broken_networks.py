"""Networks with a fault each, made of a healthy one: what the checks of an audit should find."""

from __future__ import annotations

import torch
from torch import nn

import art_classwise as acw


def audited(module, data, attacks="pgd-10", threat="Linf:0.05", **options):
    """Return the audit of a network under the name "net"."""
    classifier = acw.as_classifier(module, data.input_shape, len(data.classes), device="cpu")
    return acw.ClassWiseAudit(threat, attacks, verbose=False, **options).evaluate({"net": classifier}, data)


class Changed(nn.Module):
    """A network with something done before it and after it."""

    def __init__(self, network, before=None, after=None):
        super().__init__()
        self.network, self.before, self.after = network, before or nn.Identity(), after or nn.Identity()

    def forward(self, x):
        return self.after(self.network(self.before(x)))


class Do(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def _backward(change):
    """Return an identity whose gradient is changed."""

    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return change(gradient)

    return Do(Identity.apply)


def _straight_through(function):
    return Do(lambda x: x + (function(x) - x).detach())


class Rejecting(nn.Module):
    """Returns zero logits for what it isn't sure of."""

    def __init__(self, network, sure):
        super().__init__()
        self.network, self.sure = network, sure

    def forward(self, x):
        logits = self.network(x)
        top = logits.topk(2, dim=1).values
        return logits * (top[:, :1] - top[:, 1:] > self.sure)


def _random_signs(gradient):
    return gradient * (torch.rand_like(gradient) - 0.5).sign()


BROKEN = {
    "random gradients": (lambda n: Changed(n, before=_backward(_random_signs)), "false gradients"),
    "zero gradients": (lambda n: Changed(n, before=_backward(torch.zeros_like)), "false gradients"),
    "negated gradients": (lambda n: Changed(n, before=_backward(torch.neg)), "false gradients"),
    "detached": (lambda n: Changed(n, before=Do(lambda x: x.detach() + 0 * x)), "false gradients"),
    "straight-through": (
        lambda n: Changed(n, before=_straight_through(lambda x: (x * 4).round() / 4)),
        "false gradients",
    ),
    "straight-through signs": (
        lambda n: Changed(n, before=_straight_through(lambda x: (x > 0.5).float())),
        "false gradients",
    ),
    "rounded": (lambda n: Changed(n, before=Do(lambda x: (x * 4).round() / 4)), "masked gradients"),
    "softmax": (lambda n: Changed(n, after=nn.Softmax(1)), "probabilities instead of logits"),
    "dropout": (lambda n: Changed(n, after=Do(lambda z: nn.functional.dropout(z, 0.5))), "random network"),
    "noise": (lambda n: Changed(n, before=Do(lambda x: x + 0.1 * torch.randn_like(x))), "random network"),
    "centred on the batch": (lambda n: Changed(n, after=Do(lambda z: z - z.mean(0))), "batch-dependent network"),
    "expects 0 to 255": (lambda n: Changed(n, before=Do(lambda x: x / 255)), "wrong normalisation"),
    "expects -1 to 1": (lambda n: Changed(n, before=Do(lambda x: 0.5 * (x.clamp(-1, 1) + 1))), "wrong normalisation"),
    "other order": (lambda n: Changed(n, after=Do(lambda z: z.roll(1, 1))), "misaligned labels"),
    "constant": (lambda n: Changed(n, after=Do(lambda z: 0 * z)), "constant logits"),
    "rejecting": (lambda n: Rejecting(n, 12.0), "constant logits"),
}
"""By its fault: what makes it of a healthy network, and what is to be found."""

HEALTHY = {
    "as it is": lambda n: n,
    "small logits": lambda n: Changed(n, after=Do(lambda z: 0.01 * z)),
    "large logits": lambda n: Changed(n, after=Do(lambda z: 100 * z)),
    "shifted logits": lambda n: Changed(n, after=Do(lambda z: z + 1000)),
    "log-softmax": lambda n: Changed(n, after=nn.LogSoftmax(1)),
    "clipped inputs": lambda n: Changed(n, before=Do(lambda x: x.clamp(0, 1))),
    "averaged over shifts": lambda n: Changed(n, before=nn.AvgPool2d(3, 1, 1)),
    "double precision": lambda n: Changed(n, before=Do(lambda x: x.double().float())),
}
"""What changes nothing that matters."""
