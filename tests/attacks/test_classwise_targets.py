"""Who may be sent where by the class-wise attack, and which attack sends them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from art.attacks.attack import EvasionAttack
from art.attacks.evasion import HopSkipJump, ProjectedGradientDescent, SimBA
from art.estimators.classification import BlackBoxClassifier, PyTorchClassifier
from art.exceptions import EstimatorError
from torch import nn

import art_classwise as acw
from art_classwise import PGD, ClassWiseAttack, InputError, as_classifier

QUIET = {"verbose": False}


@pytest.fixture
def x():
    return np.random.default_rng(7).random((40, 3, 6, 6), dtype=np.float32)


@pytest.fixture
def y(classifier, x):
    return predictions(classifier, x)


def predictions(classifier, x_adv):
    return classifier.predict(x_adv).argmax(1)


@pytest.fixture
def attack(classifier):
    """A class-wise attack with these options, for which about half of the pairs can be solved."""
    return lambda **options: ClassWiseAttack(classifier, **{"eps": 0.06, "max_iter": 6, **QUIET, **options})


def test_k_targets_are_the_k_nearest_by_clean_logits(attack, classifier, x, y):
    logits = classifier.predict(x)
    logits[np.arange(40), y] = -np.inf
    nearest = np.argsort(-logits, axis=1)
    everyone = attack().reach(x, y)
    for k in (1, 2, 3, 9):
        targets = marked(nearest[:, : min(k, 3)])
        reached = attack(targets=k).reach(x, y)
        assert np.array_equal(reached & targets, everyone & targets)
        assert not (reached & ~everyone).any()
        solved = predictions(classifier, attack(targets=k).generate(x, y)) != y
        assert np.array_equal(solved, reached.any(1))
    assert attack(targets=1).reach(x, y).sum() < attack(targets=2).reach(x, y).sum()


def marked(classes):
    """(n, k) classes as (n, 4) bool."""
    return (np.arange(4) == classes[..., None]).any(1)


def test_only_listed_classes_are_reached(attack, classifier, x, y):
    rows = np.flatnonzero((y != 1) & (y != 3))
    everyone = attack().reach(x[rows], y[rows], example_ids=rows)
    for targets in ([3, 1], (1, 3), np.array([1, 3], dtype=np.uint8), [3]):
        to = attack(targets=targets)
        reached = to.reach(x[rows], y[rows], example_ids=rows)
        assert np.array_equal(reached[:, targets], everyone[:, targets])
        assert reached.sum() == reached[:, targets].sum() > 0
        ends_in = predictions(classifier, to.generate(x[rows], y[rows], example_ids=rows))
        assert np.array_equal(np.isin(ends_in, targets), reached.any(1))


def test_misclassified_is_no_success_unless_as_a_target(attack, classifier, x, y):
    wrong = np.where(y == 0, 2, 0)  # what the model says, y, is not the label
    rows = np.flatnonzero((y != 3) & (wrong != 3))
    reached = attack(targets=[3]).reach(x[rows], wrong[rows])
    assert not reached[:, :3].any()
    x_adv = attack(targets=[3]).generate(x[rows], wrong[rows])
    assert np.array_equal(predictions(classifier, x_adv) == 3, reached[:, 3])
    assert 0 < reached[:, 3].sum() < len(rows)


def test_matrix_says_for_each_class_where_it_may_be_sent(attack, classifier, x, y):
    matrix = np.zeros((4, 4), dtype=bool)
    matrix[0, 2] = matrix[2, 0] = matrix[2, 1] = True  # nobody leaves classes 1 and 3
    to, everyone = attack(targets=matrix), attack().reach(x, y)
    reached = to.reach(x, y)
    assert np.array_equal(reached, everyone & matrix[y])
    assert reached.any(1).sum() > 5
    x_adv = to.generate(x, y)
    assert np.array_equal(matrix[y, predictions(classifier, x_adv)], reached.any(1))
    stay = np.isin(y, [1, 3])
    assert stay.any()
    assert np.array_equal(x_adv[stay], x[stay])
    assert np.array_equal(attack(targets=matrix.tolist()).reach(x, y), reached)
    nobody = attack(targets=np.zeros((4, 4), dtype=bool))
    assert not nobody.reach(x, y).any()
    assert np.array_equal(nobody.generate(x, y), x)


@pytest.mark.parametrize("dropped", [0, 2])
def test_excluded_class_is_as_if_the_network_did_not_have_it(network, classifier, attack, x, dropped):
    """The same network whose last layer lacks the unit gives the same verdicts for the other classes."""
    kept = [k for k in range(4) if k != dropped]
    smaller = nn.Sequential(*network[:-1], nn.Linear(128, 3)).eval()
    smaller[-1].weight.data, smaller[-1].bias.data = network[-1].weight.data[kept], network[-1].bias.data[kept]
    without = as_classifier(smaller, (3, 6, 6), 3, device="cpu")
    y = predictions(without, x)
    named = np.array(kept)[y]
    assert (predictions(classifier, x) == dropped).any()
    for options in ({}, {"loss": "cross_entropy"}, {"targets": 1}):
        reduced, full = (
            ClassWiseAttack(without, eps=0.06, max_iter=6, **options, **QUIET),
            attack(excluded=[dropped], **options),
        )
        reached = full.reach(x, named)
        assert 0.1 < reached.mean() < 0.9
        assert not reached[:, dropped].any()
        assert np.array_equal(reached[:, kept], reduced.reach(x, y))
        np.testing.assert_allclose(full.generate(x, named), reduced.generate(x, y), atol=1e-6)
        assert np.array_equal(full.reach(x), reached)  # the model's own predictions are among the others


def test_labels_and_targets_that_are_excluded_are_refused(attack, x, y):
    matrix = np.zeros((4, 4), dtype=bool)
    matrix[0, 1] = True
    with pytest.raises(InputError, match="Examples of the excluded class 0 can't be attacked"):
        attack(excluded=[0]).reach(x, y)
    for targets in ([2, 1], matrix):
        with pytest.raises(InputError, match="Class 1 is both a target and excluded"):
            attack(targets=targets, excluded=[1])
    for excluded in ([0, 1, 2], [0, 1, 2, 3]):
        with pytest.raises(InputError, match="fewer than two classes"):
            attack(excluded=excluded)
    with pytest.raises(InputError, match="compares four classes"):
        attack(excluded=[1], loss="dlr")


def test_a_target_equal_to_the_label_is_refused_with_the_reason(attack, x, y):
    matrix = ~np.eye(4, dtype=bool)
    matrix[2, 2] = True
    with pytest.raises(InputError, match="sends class 2 into itself, which would make the model look better"):
        attack(targets=matrix)
    for run in (attack(targets=[2, 3]).generate, attack(targets=[2, 3]).reach):
        with pytest.raises(InputError, match=r"Class 2 is a target, but also the label .* look better, not worse"):
            run(x[y == 2], y[y == 2])
        with pytest.raises(InputError, match="also the label"):
            run(x[y == 2])  # the model's own predictions are labels too


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"targets": [4]}, "`targets` must be a list of classes from 0 to 3"),
        ({"targets": [-1, 2]}, "`targets` must be a list of classes from 0 to 3"),
        ({"targets": [1, 2, 1]}, "`targets` names class 1 twice"),
        ({"targets": []}, "names no class"),
        ({"targets": 0}, "`targets` must be a whole number of at least 1"),
        ({"targets": True}, "`targets` must be a whole number"),
        ({"targets": 1.5}, "`targets` must be a list of classes"),
        ({"targets": [1.0, 2.0]}, "`targets` must be a list of classes"),
        ({"targets": [True, False, False, True]}, "`targets` must be a list of classes"),
        ({"targets": ["cat"]}, "`targets` must be a list of classes"),
        ({"targets": None}, "`targets` must be a list of classes"),
        ({"targets": "nearest"}, 'must be "all", a number, classes or a matrix'),
        ({"targets": np.zeros((4, 3), dtype=bool)}, r"boolean of shape \(4, 4\).*but is bool of shape \(4, 3\)"),
        ({"targets": np.zeros((5, 5), dtype=bool)}, r"of shape \(5, 5\)"),
        ({"targets": np.zeros((4, 4))}, "but is float64"),
        ({"targets": np.zeros((1, 4, 4), dtype=bool)}, "must be a list of classes"),
        ({"excluded": [4]}, "`excluded` must be a list of classes from 0 to 3"),
        ({"excluded": [1, 1]}, "`excluded` names class 1 twice"),
        ({"excluded": 1}, "`excluded` must be a list"),
        ({"excluded": None}, "`excluded` must be a list"),
        ({"loss": "margins"}, "Did you mean margin"),
        ({"loss": "kl"}, "Unknown loss"),
        ({"attack": "pgd"}, "`attack` must be a targeted ART evasion attack"),
    ],
    ids=str,
)
def test_bad_parameters_are_named(attack, options, says):
    with pytest.raises(InputError, match=says):
        attack(**options)
    good = attack()
    with pytest.raises(InputError, match=says):
        good.set_params(**options)


@pytest.mark.parametrize("options", [{"mask": np.ones((2, 6, 6))}, {"example_ids": [1, 2]}, {"target": 3}], ids=str)
def test_bad_options_of_a_call_are_named(attack, x, y, options):
    for run in (attack().generate, attack().reach):
        with pytest.raises(InputError, match=next(iter(options))):
            run(x, y, **options)


def arts_pgd(classifier, targeted=True):
    return ProjectedGradientDescent(classifier, eps=0.06, eps_step=0.02, max_iter=6, targeted=targeted, **QUIET)


def test_reach_by_another_attack_is_what_it_reaches_by_hand(attack, classifier, x, y):
    art = arts_pgd(classifier)
    reached, x_adv = attack(attack=art).reach(x, y), attack(attack=art).generate(x, y)
    by_hand, by_chance = np.zeros((40, 4), dtype=bool), np.zeros((40, 4), dtype=bool)
    for target in range(4):
        ends_in = predictions(classifier, art.generate(x, np.eye(4, dtype=np.float32)[np.full(40, target)]))
        by_hand[:, target] = ends_in == target
        by_chance[np.arange(40), ends_in] = True
    by_hand[np.arange(40), y] = by_chance[np.arange(40), y] = False
    assert 0.1 < by_hand.mean() < 0.7
    assert not (by_hand & ~reached).any()
    assert not (reached & ~by_hand & ~by_chance).any()
    assert np.array_equal(predictions(classifier, x_adv) != y, reached.any(1))
    assert np.abs(x_adv - x).max() <= 0.06 + 1e-6


@pytest.mark.parametrize("name", ["SimBA", "HopSkipJump"])
def test_black_box_attacks_need_no_gradients(network, classifier, monkeypatch, x, name):
    for method in ("loss_gradient", "class_gradient"):
        monkeypatch.setattr(PyTorchClassifier, method, lambda *a, **k: pytest.fail("asked for a gradient"))
    if name == "SimBA":  # for neural networks that return probabilities
        model = as_classifier(nn.Sequential(network, nn.Softmax(1)), (3, 6, 6), 4, device="cpu")
        inner = SimBA(model, attack="px", max_iter=100, epsilon=0.3, targeted=True, **QUIET)
    else:
        model = black_box_of(classifier)
        inner = HopSkipJump(model, targeted=True, norm=np.inf, max_iter=2, max_eval=100, init_eval=100, **QUIET)
    x = x[:4]
    y = predictions(classifier, x)
    classwise = ClassWiseAttack(model, eps=0.3, attack=inner, **QUIET)
    x_adv, reached = classwise.generate(x, y), classwise.reach(x, y)
    assert reached.any()
    assert not reached[np.arange(4), y].any()
    assert np.array_equal(predictions(classifier, x_adv) != y, reached.any(1))
    assert np.abs(x_adv - x).max() <= 0.3 + 1e-6


def black_box_of(classifier):
    return BlackBoxClassifier(classifier.predict, (3, 6, 6), 4, clip_values=(0.0, 1.0))


def test_the_search_needs_gradients(classifier):
    with pytest.raises(EstimatorError):
        ClassWiseAttack(black_box_of(classifier), eps=0.3)


class Thrown(EvasionAttack):
    """Throws every image across the box, towards nothing in particular."""

    _estimator_requirements = ()

    def __init__(self, estimator, result=None):
        super().__init__(estimator=estimator)
        self._targeted, self.result, self.batches = True, result, []

    def generate(self, x, y=None, **kwargs):
        self.batches.append((x, y, random.random(), np.random.random(), torch.rand(1).item()))
        return 5 - 10 * x.round() if self.result is None else self.result(x)


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_what_another_attack_returns_is_brought_into_ball_box_and_mask(classifier, x, y, norm):
    mask = np.zeros((3, 6, 6))
    mask[1] = 1
    radii = {np.inf: {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}, 2: {0: 0.5, 1: 1, 2: 2, 3: 3}, 1: {0: 1, 1: 4, 2: 8, 3: 9}}[norm]
    attack = ClassWiseAttack(classifier, norm=norm, eps=radii, attack=Thrown(classifier), **QUIET)
    x_adv, reached = attack.generate(x, y, mask=mask), attack.reach(x, y, mask=mask)
    assert (x_adv != x).any()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert np.array_equal(x_adv[:, [0, 2]], x[:, [0, 2]])
    size = attack.threat.size(torch.from_numpy(x_adv - x)).numpy()
    assert (size <= np.array([radii[k] for k in y]) * (1 + 1e-5)).all()
    assert np.array_equal(predictions(classifier, x_adv) != y, reached.any(1))


def test_another_attack_is_given_one_hot_targets_in_batches_and_its_own_randomness(classifier, x, y):
    thrown = Thrown(classifier, result=lambda x: x)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    for seed in (3, 3, 4):
        ClassWiseAttack(classifier, eps=0.1, attack=thrown, batch_size=16, seed=seed, **QUIET).reach(x, y)
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])
    each = len(thrown.batches) // 3
    pairs = [len(images) for images, *_ in thrown.batches[:each]]
    assert max(pairs) == 16
    assert sum(pairs) == 40 * 3
    for _, targets, *_ in thrown.batches:
        assert targets.shape[1:] == (4,)
        assert np.array_equal(targets, np.eye(4)[targets.argmax(1)])
    draws = [batch[2:] for batch in thrown.batches]
    assert draws[:each] == draws[each : 2 * each]
    assert draws[0] != draws[2 * each]


@pytest.mark.parametrize("result", [lambda x: x[:, :1], lambda x: x[:-1], lambda x: x * np.nan])
def test_another_attack_must_return_finite_images(classifier, x, y, result):
    attack = ClassWiseAttack(classifier, eps=0.1, attack=Thrown(classifier, result), **QUIET)
    with pytest.raises(InputError, match="The Thrown must return finite images of shape"):
        attack.reach(x, y)


def test_untargeted_attacks_are_refused(attack, classifier):
    for inner in (arts_pgd(classifier, targeted=False), PGD(classifier)):
        with pytest.raises(InputError, match="aimed by targeted=True"):
            attack(attack=inner)


def test_another_attack_does_not_see_excluded_classes(network, classifier, attack, x):
    smaller = nn.Sequential(*network[:-1], nn.Linear(128, 3)).eval()
    smaller[-1].weight.data, smaller[-1].bias.data = network[-1].weight.data[1:], network[-1].bias.data[1:]
    without = as_classifier(smaller, (3, 6, 6), 3, device="cpu")
    y = predictions(without, x)
    reached = attack(attack=arts_pgd(classifier), excluded=[0]).reach(x, y + 1)
    expected = ClassWiseAttack(without, eps=0.06, attack=arts_pgd(without), **QUIET).reach(x, y)
    assert 0.1 < expected.mean() < 0.9
    assert not reached[:, 0].any()
    assert np.array_equal(reached[:, 1:], expected)
    black_box = black_box_of(classifier)
    inner = HopSkipJump(black_box, targeted=True, **QUIET)
    with pytest.raises(InputError, match="give a PyTorchClassifier"):
        ClassWiseAttack(black_box, eps=0.06, attack=inner, excluded=[0], **QUIET).reach(x, y + 1)


def test_another_attack_leaves_the_network_as_it_was(network, classifier, attack, x, y):
    network.train()
    network[5].weight.grad = gradient = torch.ones_like(network[5].weight)
    for excluded in ((), (3,)):
        rows = ~np.isin(y, excluded)
        attack(attack=arts_pgd(classifier), excluded=excluded).reach(x[rows], y[rows])
        assert all(m.training for m in network.modules())
        assert all(p.requires_grad for p in network.parameters())
        assert network[5].weight.grad is gradient
        assert torch.equal(gradient, torch.ones_like(gradient))
        assert network[0].weight.grad is None
    assert isinstance(classifier, PyTorchClassifier)


@pytest.fixture
def trained(digits):
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    classifier = acw.as_classifier(network, (1, 8, 8), 10, optimizer=optimizer, device="cpu")
    train = acw.load_dataset("digits", "train")
    classifier.fit(train.x, train.y, batch_size=64, nb_epochs=3)
    return classifier


@pytest.mark.slow
def test_an_attack_that_computes_with_logits_works_without_excluded_classes(trained, digits):
    """ART's Carlini and Wagner multiplies them by zero, where minus infinity would make NaN."""
    from art.attacks.evasion import CarliniL2Method

    chosen = np.flatnonzero(digits.y != 8)[:4]
    x, y = digits.x[chosen], digits.y[chosen]
    attack = CarliniL2Method(trained, targeted=True, max_iter=30, learning_rate=0.05, verbose=False)
    options = {"norm": 2, "eps": 3.0, "targets": 1, "attack": attack, "verbose": False}
    whole = ClassWiseAttack(trained, **options).reach(x, y).any(1).mean()
    without = ClassWiseAttack(trained, **options, excluded=(8,)).reach(x, y).any(1).mean()
    assert whole > 0.5
    assert without >= whole - 0.2


def test_a_replacement_is_told_of_the_mask_and_of_the_examples(trained, digits):
    x, y = digits.x[:20], digits.y[:20]
    mask = np.zeros((1, 8, 8), np.float32)
    mask[:, 2:6, 2:6] = 1
    own = PGD(trained, eps=0.6, targeted=True, verbose=False)
    attack = ClassWiseAttack(trained, eps=0.6, attack=own, batch_size=7, verbose=False)
    found = attack.reach(x, y, mask=mask)
    directly = ClassWiseAttack(trained, eps=0.6, loss="cross_entropy", verbose=False).reach(x, y, mask=mask)
    assert directly.sum() > 10
    assert found.sum() >= 0.9 * directly.sum()
    attack = ClassWiseAttack(trained, eps=0.2, attack=own, batch_size=64, verbose=False)
    again = ClassWiseAttack(trained, eps=0.2, attack=own, batch_size=7, verbose=False)
    assert np.array_equal(attack.reach(x, y), again.reach(x, y))
