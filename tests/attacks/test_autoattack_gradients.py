"""AutoAttack, and the other attacks, on networks that let no gradient through, for all examples or for some."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import art_classwise as acw
from art_classwise.attacks.autoattack import AutoAttack
from art_classwise.errors import GradientMaskingWarning

SHAPE = (3, 6, 6)
SHORT = {"eps": 0.12, "n_iter": 5, "n_queries": 80, "verbose": False}


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1.0


class ReturnsNone(NoBackward):
    @staticmethod
    def backward(ctx, gradient):
        return None


class NotDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x * 1.0
        ctx.mark_non_differentiable(y)
        return y


def under_no_grad(network, x):
    with torch.no_grad():
        return network(x)


def in_inference_mode(network, x):
    with torch.inference_mode():
        return network(x)


def times_its_own_weight(network, x):
    """The logits require a gradient, which doesn't come from x."""
    return network(x.detach()) * torch.ones(1, requires_grad=True)


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)).eval()


class Network(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.network, self._forward = plain(), forward

    def forward(self, x):
        return self._forward(self.network, x)


WITHOUT = {
    "no_grad": under_no_grad,
    "inference_mode": in_inference_mode,
    "detach": lambda network, x: network(x.detach()),
    "NumPy": lambda network, x: network(torch.from_numpy(x.detach().numpy().copy())),
    "lists": lambda network, x: network(torch.tensor(x.tolist())),
    "a table": lambda network, x: network((x * 255).round().long() / 255),
    "buckets": lambda network, x: network(torch.bucketize(x, torch.linspace(0, 1, 64)) / 64),
    "no backward": lambda network, x: network(NoBackward.apply(x)),
    "backward to None": lambda network, x: network(ReturnsNone.apply(x)),
    "not differentiable": lambda network, x: network(NotDifferentiable.apply(x)),
    "its own weight": times_its_own_weight,
    "ranks": lambda network, x: network(x).argsort(1).argsort(1).float(),
}


@pytest.fixture
def images():
    return np.random.default_rng(0).random((20, *SHAPE), dtype=np.float32)


def classifier_of(network):
    return acw.as_classifier(network, SHAPE, 5, device="cpu")


def predicted(classifier, x):
    return classifier.predict(x).argmax(1)


@pytest.mark.parametrize("name", list(WITHOUT))
def test_where_no_gradient_goes_through_square_runs_alone(name, images):
    classifier = classifier_of(Network(WITHOUT[name]))
    y = predicted(classifier, images)
    y[3] = (y[3] + 1) % 5
    attack = AutoAttack(classifier, **SHORT, batch_size=8)
    with pytest.warns(GradientMaskingWarning, match="ran without apgd-ce, apgd-t, fab-t, so with square"):
        x_adv = attack.generate(images, y)
    assert list(attack.left_out) == ["apgd-ce", "apgd-t", "fab-t"]
    assert {*attack.left_out.values()} == {"needs gradients, and none goes through the network"}
    assert np.array_equal(attack.zero_gradient, np.arange(20) != 3)
    square = AutoAttack(classifier, **SHORT, attacks="square", batch_size=8)
    with pytest.warns(GradientMaskingWarning, match="100% of the examples"):
        assert np.array_equal(square.generate(images, y), x_adv)
    assert square.left_out == {}
    assert 2 < (predicted(classifier, x_adv) != y).sum() < 20
    for norm, named in ((1, ("fab", "apgd-dlr")), (2, "fab-t")):
        attack = AutoAttack(classifier, norm=norm, attacks=named, **SHORT)
        with pytest.warns(GradientMaskingWarning, match="so with no member at all"):
            assert np.array_equal(attack.generate(images, y), images)


def test_numpy_on_an_input_that_requires_a_gradient(images):
    """It raises there, so the network is asked without a gradient."""
    classifier = classifier_of(Network(lambda network, x: network(torch.from_numpy(x.numpy().copy()))))
    attack = AutoAttack(classifier, **SHORT)
    with pytest.warns(GradientMaskingWarning) as warned:
        x_adv = attack.generate(images)
    assert any("ran without apgd-ce, apgd-t, fab-t" in str(w.message) for w in warned)
    assert (predicted(classifier, x_adv) != predicted(classifier, images)).sum() > 2


def detached_if(where):
    def forward(network, x):
        return network(x.detach() if where(x) else x)

    return forward


def no_backward_off(images, tolerance=1e-3):
    """A gradient goes through at the images alone, so no member can know it beforehand."""
    known = torch.from_numpy(images)

    def forward(network, x):
        known_here = (x[:, None] - known).abs().flatten(2).amax(2).amin(1) < tolerance
        return network(x) if bool(known_here.all()) else network(NoBackward.apply(x))

    return forward


def some_examples(network, x):
    return torch.where(x[:, :1, 0, 0] > 0.5, network(x), network(x.detach()))


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_where_some_gradients_go_through_every_member_runs(norm, images):
    images, eps = images[:8], {np.inf: 0.1, 2: 1.0, 1: 8.0}[norm]
    networks = {
        "by the batch": detached_if(lambda x: float(x.detach()[0, 0, 0, 0]) > 0.5),
        "by the step": no_backward_off(images),
        "by the example": some_examples,
    }
    for name, forward in networks.items():
        classifier = classifier_of(Network(forward))
        y = predicted(classifier, images)
        for member in ("apgd-ce", "apgd-t", "fab", "fab-t"):
            attack = AutoAttack(classifier, norm, eps, member, n_iter=3, batch_size=3, verbose=False)
            if name == "by the step":
                x_adv = attack.generate(images, y)
            else:
                with pytest.warns(GradientMaskingWarning, match="% of the examples"):
                    x_adv = attack.generate(images, y)
            assert attack.left_out == {}
            broken = predicted(classifier, x_adv) != y
            assert name == "by the step" or (broken & ~attack.zero_gradient).any()


def test_gradients_of_zero_leave_no_member_out(images):
    classifier = classifier_of(Network(lambda network, x: network((x * 8).round() / 8)))
    attack = AutoAttack(classifier, **SHORT)
    with pytest.warns(GradientMaskingWarning, match="100% of the examples met a gradient that was zero"):
        attack.generate(images)
    assert attack.left_out == {}
    assert attack.zero_gradient.all()


def test_errors_of_the_network_stay_its_own(images):
    """They aren't mistaken for an absent gradient."""

    def forward(network, x):
        if torch.is_grad_enabled() and not torch.equal(x.detach()[0], torch.from_numpy(images[0])):
            raise RuntimeError("a fault in the network")
        return network(x)

    with pytest.raises(RuntimeError, match="a fault in the network"):
        AutoAttack(classifier_of(Network(forward)), **SHORT).generate(images)


@pytest.mark.parametrize("kind", [acw.PGD, acw.TemperaturePGD, acw.ClassWiseAttack])
def test_searches_run_and_say_it(kind, images):
    for forward in WITHOUT.values():
        classifier = classifier_of(Network(forward))
        attack = kind(classifier, eps=0.05, max_iter=2, num_random_init=0, verbose=False)
        with pytest.warns(GradientMaskingWarning, match="100% of the examples"):
            attack.generate(images)
        assert attack.zero_gradient.all()


@pytest.mark.parametrize("worst_case", [False, True])
def test_an_audit_says_it(images, worst_case):
    classifier = classifier_of(Network(under_no_grad))
    data = acw.Dataset(images, predicted(classifier, images), tuple("abcde"))
    attacks = {"pgd": lambda c: acw.PGD(c, eps=0.12, max_iter=2), "aa": lambda c: AutoAttack(c, **SHORT)}
    audit = acw.ClassWiseAudit("Linf:0.12", attacks, worst_case=worst_case, verbose=False)
    result = audit.evaluate({"net": classifier}, data)
    left = int(result.rows("net", "pgd")["withstood"].sum()) if worst_case else 20
    assert left > 0
    masked = [finding.saw for finding in result.findings if finding.check == "masked gradients"]
    assert any("met zero or non-finite gradients on " in saw for saw in masked)
    weak = [finding.saw for finding in result.findings if finding.check == "weak attack"]
    assert any(f"In aa, apgd-ce, apgd-t and fab-t found no gradient on any of the {left}" in saw for saw in weak)


@pytest.mark.parametrize("worst_case", [False, True])
def test_an_audit_names_members_left_out_for_want_of_classes(images, worst_case):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 3))
    classifier = acw.as_classifier(network, SHAPE, 3, device="cpu")
    data = acw.Dataset(images, predicted(classifier, images), tuple("abc"))
    attacks = {
        "aa": lambda c: AutoAttack(c, **SHORT),
        "named": lambda c: AutoAttack(c, **SHORT, attacks=("apgd-ce", "square")),
    }
    audit = acw.ClassWiseAudit("Linf:0.12", attacks, worst_case=worst_case, verbose=False)
    result = audit.evaluate({"net": classifier}, data)
    said = [
        finding.saw for finding in result.findings if finding.check == "weak attack" and "ran without" in finding.saw
    ]
    assert said == ["aa ran without apgd-t, which compares 4 classes, and the model has 3."]
