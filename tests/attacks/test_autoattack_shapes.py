"""AutoAttack on inputs of every shape, beside the exact robustness of linear models."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_classwise.attacks.autoattack import MEMBERS, AutoAttack
from art_classwise.errors import GradientMaskingWarning

SHAPES = [
    *((3, 8, 8), (3, 12, 16), (1, 9, 6), (2, 3, 5), (1, 2, 2), (1, 1, 1), (1, 1, 30), (40, 1, 1)),
    *((12,), (2,), (1,), (5, 7), (2, 3, 4, 5), (1, 2, 1, 3, 2)),
]
NORMS = (np.inf, 2, 1)
BOXES = [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)]
N = 7


def linear(shape, n_classes, low, high, seed):
    generator, d = np.random.default_rng(seed), int(np.prod(shape))
    layer = nn.Linear(d, n_classes)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(generator.normal(size=(n_classes, d))) / (high - low))
        layer.bias.copy_(-layer.weight.sum(1) * (low + high) / 2)
    module = nn.Sequential(nn.Flatten(), layer).eval()
    loss, box = nn.CrossEntropyLoss(), (low, high)
    classifier = PyTorchClassifier(module, loss, shape, n_classes, clip_values=box, device_type="cpu")
    x = (low + (high - low) * generator.random((N, *shape))).astype(np.float32)
    return classifier, x, classifier.predict(x).argmax(1)


def gain(w, room, eps, norm):
    """How far a linear function rises within ball and box: room is how far the box lets each coordinate go."""
    slope = np.abs(w)
    if norm == np.inf:
        return slope @ np.minimum(room, eps)
    if norm == 1:  # the steepest coordinates first, each as far as it may go
        order = np.argsort(-slope)
        spent = np.minimum(np.cumsum(room[order]), eps)
        return slope[order] @ np.diff(spent, prepend=0.0)
    if np.linalg.norm(np.where(slope > 0, room, 0)) <= eps:
        return slope @ room
    low, high = 0.0, 1e9
    for _ in range(100):  # the best move is a multiple of the slope, cut at the box
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.norm(np.minimum(middle * slope, room)) <= eps else (low, middle)
    return slope @ np.minimum(low * slope, room)


def margins(classifier, x, y, eps, norm):
    """The least margin (n,) that any attack can reach, exactly."""
    layer, (low, high) = classifier.model[1], classifier.clip_values
    weight, flat = layer.weight.detach().double().numpy(), x.reshape(len(x), -1).astype(np.float64)
    logits = flat @ weight.T + layer.bias.detach().numpy()
    least = np.full(len(x), np.inf)
    for i, k in itertools.product(range(len(x)), range(len(weight))):
        if k != y[i]:
            w = weight[k] - weight[y[i]]
            room = np.where(w > 0, high - flat[i], flat[i] - low)
            least[i] = min(least[i], logits[i, y[i]] - logits[i, k] - gain(w, room, eps, norm))
    return least


def telling_radius(classifier, x, y, norm):
    """A radius within which half of the examples can be broken."""
    low, high = classifier.clip_values
    inside, outside = 0.0, 0.98 * (high - low) * x[0].size ** (0 if norm == np.inf else 1 / norm)
    for _ in range(25):
        middle = (inside + outside) / 2
        some = (margins(classifier, x, y, middle, norm) > 0).sum() > len(x) // 2
        inside, outside = (middle, outside) if some else (inside, middle)
    return outside * 1.02


def pairwise():
    """Each shape in Linf and another norm; numbers of classes and boxes in turn, so that each meets each norm."""
    pairs = [(shape, norm) for i, shape in enumerate(SHAPES) for norm in (np.inf, (2, 1)[i % 2])]
    for place, (shape, norm) in enumerate(pairs):
        yield shape, norm, (2, 3, 4, 5, 8)[place % 5], BOXES[place % 3]


@pytest.mark.parametrize(("shape", "norm", "n_classes", "box"), [*pairwise()])
def test_linear_models_are_broken_where_they_can_be(shape, norm, n_classes, box):
    classifier, x, y = linear(shape, n_classes, *box, seed=sum(shape) + n_classes)
    eps = telling_radius(classifier, x, y, norm)
    least = margins(classifier, x, y, eps, norm)
    tolerance = 1e-4 * np.abs(classifier.predict(x)).max()
    wrong = {}
    for name in ("standard", "apgd-ce"):
        attack = AutoAttack(classifier, norm, np.float32(eps), name, n_iter=12, n_queries=20, verbose=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="AutoAttack ran without")
            points = attack.generate(x, y)
        moves = (points - x).reshape(N, -1).astype(np.float64)
        assert np.linalg.norm(moves, norm, axis=1).max() <= eps + 1e-6 * (box[1] - box[0])
        assert box[0] <= points.min() <= points.max() <= box[1]
        wrong[name] = classifier.predict(points).argmax(1) != y
        assert not wrong[name][least > tolerance].any()
    assert wrong["standard"][least < -20 * tolerance].all()
    assert wrong["standard"][wrong["apgd-ce"]].all()
    assert 0 < wrong["standard"].sum() < N


@pytest.mark.parametrize(
    ("shape", "norm"),
    [*(((3, 12, 16), norm) for norm in NORMS), ((2, 3, 5), 1), ((1, 1, 1), np.inf), ((9,), 2), ((2, 2, 3, 2), np.inf)],
)
def test_every_member_on_every_shape(shape, norm):
    """Strong enough to break something, on one example and on several, at the least and the largest radius."""
    classifier, x, y = linear(shape, 5, 0.0, 1.0, seed=3)
    reach = x[0].size ** (0 if norm == np.inf else 1 / norm)
    for member in MEMBERS:
        for eps, n in ((1e-7, 2), (0.9 * reach, 1), (0.9 * reach, N)):
            attack = AutoAttack(classifier, norm, eps, member, n_iter=8, n_queries=40, verbose=False)
            points = attack.generate(x[:n], y[:n])
            assert points.shape == (n, *shape)
            wrong = classifier.predict(points).argmax(1) != y[:n]
            least = margins(classifier, x[:n], y[:n], eps, norm)
            assert not wrong[least > 1e-4].any()
            if member != "apgd-dlr":  # its loss has other maxima
                assert wrong.sum() >= 0.5 * (least < -0.01).sum()
        wrong_from_the_start = (y + 1) % 5
        assert np.array_equal(attack.generate(x, wrong_from_the_start), x)


@pytest.mark.parametrize(("shape", "norm"), [((3, 12, 16), np.inf), ((1, 2, 2), 2), ((5,), 1)])
def test_tied_logits_stop_no_member(shape, norm):
    classifier, x, _ = linear(shape, 5, 0.0, 1.0, seed=0)
    with torch.no_grad():  # two classes win together, everywhere
        layer = classifier.model[1]
        layer.weight[1], layer.bias[:2] = layer.weight[0], 99.0
    for member in MEMBERS:
        attack = AutoAttack(classifier, norm=norm, eps=0.1, attacks=member, n_iter=4, n_queries=5, verbose=False)
        with pytest.warns(GradientMaskingWarning, match="100% of the examples"):
            points = attack.generate(x, np.zeros(N, dtype=np.int64))
        assert np.isfinite(points).all()
