"""APGD beside pyautoattack's, step by step: the same points, but of examples that have left."""

from __future__ import annotations

import math

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import nn

from art_classwise._core.forward import MicroBatches
from art_classwise.attacks._apgd import APGD


def small(shape=(3, 8, 11), n_classes=10, n=20):
    """A network, and images that it has right but for two."""
    torch.manual_seed(shape[1])
    c, h, w = shape
    module = nn.Sequential(nn.Conv2d(c, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * (h - 2) * (w - 2), n_classes))
    module.eval().requires_grad_(False)
    x = torch.rand(n, *shape)
    y = module(x).argmax(1)
    y[:2] = (y[:2] + 1) % n_classes
    return MicroBatches(module), x, y  # an example has the same bits whoever has left


class Asked:
    """The network, and the points that it was asked about, pass by pass."""

    def __init__(self, module):
        self.module, self.passes = module, []

    def __call__(self, x):
        self.passes.append(x.detach().clone())
        return self.module(x)


def theirs(module, norm, loss, n_iter, **options):
    options |= {"n_iter": n_iter, "norm": norm, "device": "cpu", "use_largereps": norm == "L1"}
    if loss == "dlr-targeted":
        return APGDAttack_targeted(module, n_target_classes=1, **options)
    return APGDAttack(module, loss=loss, **options)


CASES = [
    *((norm, eps, loss) for norm, eps in (("Linf", 0.012), ("L2", 0.15)) for loss in ("ce", "dlr", "dlr-targeted")),
    ("Linf", 1e-4, "ce"),  # none leaves
    ("L2", 1e-3, "dlr"),
    ("L1", 1e-2, "ce"),
    ("Linf", 0.3, "ce"),  # all leave
    ("L2", 3.0, "dlr-targeted"),
    *(("L1", eps, loss) for eps, loss in ((1.0, "ce"), (1.0, "dlr"), (0.7, "dlr-targeted"), (20.0, "ce"))),
]
LONG = ("L1", 0.5, "ce", 170)  # so that L1's checkpoints are more than a step apart


@pytest.mark.parametrize(("norm", "eps", "loss", "n_iter"), [*((*case, 30) for case in CASES), LONG])
def test_every_step_leads_where_pyautoattacks_leads(norm, eps, loss, n_iter):
    module, x, y = small()
    expected, found = Asked(module), Asked(module)
    x_theirs = theirs(expected, norm, loss, n_iter, eps=eps, seed=3).perturb(x, y)
    x_ours = APGD(module=found, norm=norm, eps=eps, n_iter=n_iter, loss=loss, n_target_classes=1, seed=3).perturb(x, y)
    if loss == "dlr-targeted":
        expected.passes.pop(1)  # it asks for the target once more
    assert len(found.passes) <= len(expected.passes)
    right = module(x).argmax(1) == y
    labels, gone = y[right], torch.zeros(int(right.sum()), dtype=torch.bool)
    starts = range(1, len(expected.passes) + 1)
    at_radius = starts[0] if norm != "L1" else starts[2 * math.ceil(0.3 * n_iter) + 2]  # before, balls are larger
    for k, points in enumerate(found.passes[1:], start=1):
        same = (points[:, None] == expected.passes[k]).flatten(2).all(2)
        assert (same.sum(1) == 1).all()  # each point is one of theirs
        assert gone[~same.any(0)].all()  # and who is missing was broken before
        if k >= at_radius:
            gone |= module(expected.passes[k]).argmax(1) != labels
    assert gone.all() or len(found.passes) == len(expected.passes)
    broken = module(x_theirs).argmax(1) != y
    assert torch.equal(module(x_ours).argmax(1) != y, broken)
    assert torch.equal((x_ours != x).flatten(1).any(1), broken & right)
    if 1e-2 < eps < 0.2 or 0.4 < eps < 2:
        assert 2 < (broken & right).sum() < 18
        assert len({len(p) for p in found.passes}) > 2  # they left at different times


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.008), ("L2", 0.1), ("L1", 0.7)])
def test_later_starts_and_targets_are_pyautoattacks_too(norm, eps):
    """They depend on who is left, and on how many random numbers were drawn."""
    for n, classes, shape in ((20, 5, (3, 8, 11)), (7, 4, (1, 9, 6)), (1, 4, (3, 8, 8))):
        module, x, y = small(shape, classes, n + 2)
        for loss in ("ce", "dlr-targeted"):
            expected, found = Asked(module), Asked(module)
            attack = theirs(expected, norm, loss, 9, eps=eps, n_restarts=1 if loss == "dlr-targeted" else 3)
            attack.n_target_classes = classes - 1
            ours = APGD(
                module=found,
                norm=norm,
                eps=eps,
                n_iter=9,
                loss=loss,
                n_restarts=3,
                n_target_classes=classes - 1,
            )
            broken = module(attack.perturb(x, y)).argmax(1) != y
            assert torch.equal(module(ours.perturb(x, y)).argmax(1) != y, broken)
            if not broken.all():  # the last point of the last start
                assert any(torch.equal(found.passes[-1][0], p) for p in expected.passes[-1])


def test_slopes_that_are_no_numbers_stop_no_example():
    """pyautoattack's points become NaN there."""
    module, x, y = small()
    x[:, 0, 0, :2] = 0.0
    y = module(x).argmax(1)

    def rooted(x):  # the slope is infinite, or NaN, where a pixel is 0, and the value is the module's
        corner = x[:, 0, 0, :2]
        return module(x) + ((corner.sqrt() - corner.sqrt()) * torch.tensor([1.0, 0.0])).sum(1, keepdim=True)

    for norm, eps in (("Linf", 0.1), ("L2", 1.0), ("L1", 10.0)):
        for loss in ("ce", "dlr", "dlr-targeted"):
            points = APGD(module=rooted, norm=norm, eps=eps, n_iter=10, loss=loss).perturb(x, y)
            assert points.isfinite().all()
            assert (module(points).argmax(1) != y).float().mean() > 0.8
