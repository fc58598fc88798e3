"""The Fast Minimum-Norm attack, beside its algorithm written out, and beside distances that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_classwise import InputError, as_classifier
from art_classwise.attacks import PGD, MinimumNormAttack, minimum_norm
from art_classwise.audit.provenance import parameters
from art_classwise.errors import GradientMaskingWarning

NORMS = (np.inf, 2, 1)
DUAL = {np.inf: 1, 2: 2, 1: np.inf}


def sizes(delta, norm):
    return np.linalg.norm(delta.reshape(len(delta), -1).astype(np.float64), norm, axis=1)


def onto_l1_ball(v, radius):
    """Duchi et al. 2008, by sorting."""
    if v.abs().sum() <= radius:
        return v
    u = v.abs().flatten().sort(descending=True).values
    t = (u.cumsum(0) - radius) / torch.arange(1, len(u) + 1)
    rho = int((u > t).nonzero().max())
    return v.sign() * (v.abs() - t[rho]).clamp_min(0)


def algorithm_1(network, x, y, norm, steps, alpha, gamma, targeted):
    """Pintor et al. 2021, Algorithm 1, with our steps and 0.1 % more at first; without a box; of one example."""
    delta, best, eps = torch.zeros_like(x), math.inf, math.inf
    for k in range(steps):
        at = (x + delta).requires_grad_()
        z = network(at[None])[0]
        others = torch.cat([z[:y], z[y + 1 :]])
        loss = others.max() - z[y] if targeted else z[y] - others.max()  # below 0: misclassified
        (g,) = torch.autograd.grad(loss, at)
        share = 0.5 * (1 + math.cos(math.pi * k / steps))
        gamma_k = 0.001 + (gamma - 0.001) * share
        norm_now = float(torch.linalg.vector_norm(delta, norm))
        if loss >= 0:
            to_boundary = loss.item() / float(torch.linalg.vector_norm(g, DUAL[norm]))
            eps = 1.001 * (norm_now + to_boundary) if best == math.inf else eps * (1 + gamma_k)
        else:
            best = min(best, norm_now)
            eps = min(eps * (1 - gamma_k), best)
        direction = g.sign() if alpha is None and norm == np.inf else g / g.norm()
        length = (eps / 2 if alpha is None else alpha) * (0.01 + 0.99 * share)
        delta = delta - length * direction
        if norm == np.inf:
            delta = delta.clamp(-eps, eps)
        elif norm == 2:
            delta = delta * min(1.0, eps / float(delta.norm()))
        else:
            delta = onto_l1_ball(delta, eps)
    return best


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("alpha", "targeted"), [(None, False), (0.02, False), (None, True)])
def test_it_is_algorithm_1(network, images, norm, alpha, targeted):
    x = images[:6]
    classifier = PyTorchClassifier(network, nn.CrossEntropyLoss(), (3, 6, 6), 4, device_type="cpu")
    y = classifier.predict(x).argmax(1)
    y = (y + 1) % 4 if targeted else y
    attack = MinimumNormAttack(
        classifier, norm=norm, max_iter=25, eps_step=alpha, gamma=0.1, targeted=targeted, verbose=False
    )
    x_adv = attack.generate(x, y)
    double = network.double()
    expected = [
        algorithm_1(double, torch.from_numpy(one).double(), int(k), norm, 25, alpha, 0.1, targeted)
        for one, k in zip(x, y, strict=True)
    ]
    assert np.isfinite(expected).sum() >= 4
    np.testing.assert_allclose(attack.distance, expected, rtol=2e-3)
    found = np.isfinite(attack.distance)
    np.testing.assert_allclose(sizes(x_adv - x, norm)[found], attack.distance[found], rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n", [2, 5])
def test_of_a_linear_network_it_finds_the_exact_distance(norm, n):
    """It is the least margin over the dual norm of its gradient."""
    rng = np.random.default_rng(0)
    linear = nn.Linear(12, n)
    weight = rng.normal(size=(n, 12))
    bias = rng.normal(size=n) / 2 - weight.sum(1) / 2
    linear.weight.data, linear.bias.data = torch.tensor(weight).float(), torch.tensor(bias).float()
    module = nn.Sequential(nn.Flatten(), linear)
    classifier = PyTorchClassifier(module, nn.CrossEntropyLoss(), (3, 2, 2), n, device_type="cpu")  # without a box
    x = (0.5 + 0.02 * rng.standard_normal((30, 3, 2, 2))).astype(np.float32)
    z = x.reshape(30, 12) @ weight.T + bias
    y = z.argmax(1)
    exact = np.array(
        [
            [(z[i, y[i]] - z[i, j]) / max(1e-9, np.linalg.norm(weight[y[i]] - weight[j], DUAL[norm])) for j in range(n)]
            for i in range(30)
        ]
    )
    attack = MinimumNormAttack(classifier, norm=norm, max_iter=200, verbose=False)
    x_adv = attack.generate(x, y)
    reached = classifier.predict(x_adv).argmax(1)
    assert (reached != y).all()
    ratio = attack.distance / exact[np.arange(30), reached]
    assert ratio.min() >= 1 - 1e-4
    assert np.median(ratio) < 1.001
    if n == 2:
        assert ratio.max() < 1.005
    exact[np.arange(30), y] = np.inf
    least = exact.min(1)
    assert np.median(attack.distance / least) < 1.2  # it goes to the likeliest class, which needn't be nearest
    aimed = MinimumNormAttack(classifier, norm=norm, max_iter=200, targets=1, verbose=False)
    assert (classifier.predict(aimed.generate(x, y)).argmax(1) != y).all()
    assert (aimed.distance <= attack.distance).all()
    assert (aimed.distance >= least * (1 - 1e-4)).all()
    assert np.median(aimed.distance / least) < 1.001


@pytest.mark.parametrize("norm", NORMS)
def test_it_comes_as_near_as_bisection_of_pgd(classifier, images, own, norm):
    attack = MinimumNormAttack(classifier, norm=norm, verbose=False)
    attack.generate(images, own)
    low, high = np.zeros(16), np.full(16, 1.2 * attack.distance.max())
    for _ in range(8):
        eps = ((low + high) / 2).astype(np.float32)
        pgd = PGD(
            classifier, norm=norm, eps=eps.reshape(-1, 1, 1, 1), max_iter=20, early_stop=True, loss="margin",
            verbose=False,
        )  # fmt: skip
        broken = classifier.predict(pgd.generate(images, own)).argmax(1) != own
        low, high = np.where(broken, low, eps), np.where(broken, eps, high)
    assert np.median(attack.distance / high) <= 1.02


def test_what_needs_no_perturbation_and_what_is_too_far_stay(classifier, images, own):
    y = own.copy()
    y[:5] = (own[:5] + 1) % 4
    attack = MinimumNormAttack(classifier, verbose=False)
    x_adv = attack.generate(images, y)
    assert np.array_equal(x_adv[:5], images[:5])
    assert not attack.distance[:5].any()
    assert (attack.distance[5:] > 0).all()
    free = attack.distance.copy()
    limit = float(np.median(free[5:]))
    limited = MinimumNormAttack(classifier, eps=limit, verbose=False)
    x_adv = limited.generate(images, y)
    found = np.isfinite(limited.distance)
    assert limited.distance[found].max() <= limit * (1 + 1e-6)
    assert 2 <= (~found).sum() <= 9
    assert np.array_equal(x_adv[~found], images[~found])
    assert found[free < 0.99 * limit].all()
    assert not found[free > 1.1 * limit].any()


@pytest.mark.parametrize("bias", [0.3, -0.3])
def test_the_network_itself_decides(classifier, images, own, monkeypatch, bias):
    """Even where the copy that it searches on takes every image for another class too early, or too late."""

    class Wrong(nn.Module):
        def forward(self, x):
            logits = model(x)
            return logits + bias * logits.std() * torch.arange(4)

    model = classifier.model
    exact = MinimumNormAttack(classifier, verbose=False)
    exact.generate(images, own)
    monkeypatch.setattr("art_classwise.attacks._base.fast_network", lambda *args, **options: Wrong().eval())
    attack = MinimumNormAttack(classifier, verbose=False)
    x_adv = attack.generate(images, own)
    found = np.isfinite(attack.distance)
    assert np.array_equal(classifier.predict(x_adv).argmax(1) != own, found)
    np.testing.assert_allclose(sizes(x_adv - images, np.inf)[found], attack.distance[found], rtol=1e-5)
    assert found.mean() > 0.5
    assert (attack.distance[found] >= 0.97 * exact.distance[found]).all()


def test_neither_batches_nor_company_change_it_and_masks_hold(classifier, images, own):
    attack = MinimumNormAttack(classifier, norm=2, max_iter=30, verbose=False)
    whole = attack.generate(images, own)
    distance = attack.distance
    attack.set_params(batch_size=5)
    np.testing.assert_allclose(attack.generate(images, own), whole, atol=1e-4)
    attack.generate(images[[9, 2]], own[[9, 2]], example_ids=[9, 2])
    np.testing.assert_allclose(attack.distance, distance[[9, 2]], rtol=1e-3)
    mask = np.random.default_rng(0).random(images.shape) < 0.5
    masked = attack.generate(images, own, mask=mask)
    assert np.array_equal(masked[~mask], images[~mask])
    assert np.median(attack.distance) > 1.2 * np.median(distance)
    np.testing.assert_allclose(attack.generate(images, own, mask=0), images)
    assert np.isinf(attack.distance).all()


def test_gradients_that_show_no_way_are_told():
    class Flat(nn.Module):
        def forward(self, x):
            return torch.stack([x.flatten(1).sum(1).round(), torch.zeros(len(x))], 1)

    classifier = as_classifier(Flat(), (1, 2, 2), 2, device="cpu")
    attack = MinimumNormAttack(classifier, max_iter=3, verbose=False)
    x = np.full((3, 1, 2, 2), 0.9, dtype=np.float32)
    with pytest.warns(GradientMaskingWarning, match="100% of the examples"):
        x_adv = attack.generate(x, [0, 0, 0])
    assert attack.zero_gradient.all()
    assert np.isinf(attack.distance).all()
    assert np.array_equal(x_adv, x)


def test_without_clip_values_and_in_other_units(network, images):
    distances = []
    for scale, clip in ((1, None), (1, (0, 1)), (255, (0, 255))):
        scaled = nn.Sequential(_Divided(scale), network)
        classifier = PyTorchClassifier(scaled, nn.CrossEntropyLoss(), (3, 6, 6), 4, clip_values=clip, device_type="cpu")
        attack = MinimumNormAttack(classifier, verbose=False, eps_step=None)
        attack.generate((scale * images).astype(np.float32))
        distances.append(attack.distance / scale)
    unbounded, unit, bytes_ = distances
    np.testing.assert_allclose(bytes_, unit, rtol=0.01)
    assert (unbounded <= 1.01 * unit).all()
    assert np.isfinite(unbounded).all()


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_box_a_denied_point_is_looked_for_further_out_however_far(norm, monkeypatch):
    """The fast copy sees the boundary a little too near; further along the same way the network itself crosses it."""
    torch.manual_seed(0)
    linear = nn.Linear(12, 2)
    module = nn.Sequential(nn.Flatten(), linear)

    class Early(nn.Module):
        def forward(self, x):
            logits = module(x)
            return logits - torch.tensor([1e-3, 0.0]) * logits.detach().std()

    classifier = PyTorchClassifier(module, nn.CrossEntropyLoss(), (3, 2, 2), 2, device_type="cpu")
    x = (40 * np.random.default_rng(0).standard_normal((20, 3, 2, 2))).astype(np.float32)
    x = x[classifier.predict(x).argmax(1) == 0]
    slope = torch.linalg.vector_norm(linear.weight[0] - linear.weight[1], DUAL[norm]).item()
    exact = -np.diff(classifier.predict(x), axis=1)[:, 0] / slope
    walked = []
    real = MinimumNormAttack._walk
    monkeypatch.setattr(MinimumNormAttack, "_walk", lambda self, *args: walked.append(args[0]) or real(self, *args))
    monkeypatch.setattr("art_classwise.attacks._base.fast_network", lambda *args, **options: Early().eval())
    attack = MinimumNormAttack(classifier, norm=norm, verbose=False)
    x_adv = attack.generate(x)
    assert (classifier.predict(x_adv).argmax(1) == 1).all()
    assert len(walked) == 1  # the network itself wasn't walked on
    assert exact.max() > 1.5 * attack.threat.eps
    assert (attack.distance / exact).max() < 1.05


class _Divided(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x / self.by


def test_bad_input_is_told(classifier, images, own):
    with pytest.raises(InputError, match="needs the target labels"):
        MinimumNormAttack(classifier, targeted=True, verbose=False).generate(images)
    with pytest.warns(UserWarning, match="covers every image"):
        MinimumNormAttack(classifier, eps=1, max_iter=2, verbose=False).generate(images, own)
    with pytest.raises(InputError, match="`targets` is for attacks without a target"):
        MinimumNormAttack(classifier, targeted=True, targets=2, verbose=False)
    for max_iter in (0, 1):  # the first point looked at is x itself
        with pytest.raises(InputError, match="`max_iter` must be a whole number of at least 2"):
            MinimumNormAttack(classifier, max_iter=max_iter, verbose=False)
    for targets in (-1, 1.5, "malt"):
        with pytest.raises(InputError, match="`targets`"):
            MinimumNormAttack(classifier, targets=targets, verbose=False)
    assert "targets" not in parameters(MinimumNormAttack(classifier))
    assert parameters(MinimumNormAttack(classifier, targets=2))["targets"] == 2
    assert minimum_norm.__all__ == ["MinimumNormAttack"]
