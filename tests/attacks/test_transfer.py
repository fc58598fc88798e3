"""The transfer attack, and the same attack on another classifier."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from art.attacks.attack import EvasionAttack
from art.attacks.evasion import FastGradientMethod, HopSkipJump, ProjectedGradientDescent, SimBA
from art.estimators.classification import BlackBoxClassifier, PyTorchClassifier
from art.estimators.regression import BlackBoxRegressor
from art.exceptions import EstimatorError
from torch import nn

import art_classwise as acw
from art_classwise import PGD, AutoAttack, ClassWiseAttack, InputError, TemperaturePGD, TransferAttack, as_classifier
from art_classwise.attacks.transfer import rebind

QUIET = {"verbose": False}


def make(seed, n_classes=4, shape=(3, 6, 6)):
    torch.manual_seed(seed)
    return as_classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), n_classes)), shape, n_classes, device="cpu"
    )


@pytest.fixture
def surrogate():
    return make(5)


@pytest.fixture
def black_box(classifier):
    return BlackBoxClassifier(classifier.predict, (3, 6, 6), 4, clip_values=(0.0, 1.0))


def test_hands_over_what_the_attack_makes_on_the_surrogate(classifier, surrogate, images, labels):
    attack = PGD(surrogate, eps=0.1, max_iter=5, **QUIET)
    before = images.copy()
    x_adv = TransferAttack(classifier, attack).generate(images, labels)
    assert np.array_equal(x_adv, attack.generate(images, labels))
    assert np.array_equal(images, before)
    assert (x_adv.dtype, x_adv.shape) == (np.float32, images.shape)
    assert np.array_equal(
        TransferAttack(classifier, attack).generate(images.astype(np.float64), np.eye(4)[labels]), x_adv
    )


def test_fools_a_model_that_resembles_the_surrogate_and_no_other():
    x = np.random.default_rng(0).random((100, 3, 6, 6), dtype=np.float32)
    model, alike, other = make(0), make(0), make(1)
    with torch.no_grad():
        alike.model[1].weight += 0.005 * torch.randn(4, 108)
    y = model.predict(x).argmax(1)
    left = {
        name: (model.predict(TransferAttack(model, PGD(s, eps=0.2, **QUIET)).generate(x, y)).argmax(1) == y).mean()
        for name, s in (("alike", alike), ("other", other))
    }
    assert left["alike"] < 0.1
    assert left["other"] > left["alike"] + 0.3


def test_without_labels_moves_away_from_what_the_model_sees_not_the_surrogate(classifier, surrogate, images):
    attack = PGD(surrogate, eps=0.1, max_iter=5, **QUIET)
    seen, seen_by_surrogate = (c.predict(images).argmax(1) for c in (classifier, surrogate))
    assert not np.array_equal(seen, seen_by_surrogate)
    x_adv = TransferAttack(classifier, attack).generate(images)
    assert np.array_equal(x_adv, attack.generate(images, seen))
    assert not np.array_equal(x_adv, attack.generate(images, seen_by_surrogate))


def test_the_model_is_asked_for_no_gradient_and_may_have_none(classifier, black_box, surrogate, images, monkeypatch):
    for name in ("loss_gradient", "class_gradient"):
        monkeypatch.setattr(PyTorchClassifier, name, lambda *a, **k: pytest.fail("asked for a gradient"))
    attack = PGD(surrogate, eps=0.1, max_iter=3, **QUIET)
    x_adv = TransferAttack(classifier, attack).generate(images)
    assert np.array_equal(TransferAttack(black_box, attack).generate(images), x_adv)


def test_result_lies_within_the_models_clip_values(surrogate, images, labels):
    attack = PGD(surrogate, eps=0.3, eps_step=0.3, max_iter=3, **QUIET)
    narrow = PyTorchClassifier(
        surrogate.model, nn.CrossEntropyLoss(), (3, 6, 6), 4, clip_values=(0.2, 0.7), device_type="cpu"
    )
    free = PyTorchClassifier(surrogate.model, nn.CrossEntropyLoss(), (3, 6, 6), 4, device_type="cpu")
    expected = attack.generate(images, labels)
    assert np.array_equal(TransferAttack(narrow, attack).generate(images, labels), expected.clip(0.2, 0.7))
    assert np.array_equal(TransferAttack(free, attack).generate(images, labels), expected)
    beyond = TransferAttack(surrogate, PGD(free, eps=0.3, eps_step=0.3, max_iter=3, **QUIET))
    assert beyond.generate(images, labels).min() == 0


def test_targeted_attacks_need_targets(classifier, surrogate, images, labels):
    attack = PGD(surrogate, eps=0.1, max_iter=5, targeted=True, **QUIET)
    transfer = TransferAttack(classifier, attack)
    assert transfer.targeted
    assert not TransferAttack(classifier, PGD(surrogate, **QUIET)).targeted
    assert np.array_equal(transfer.generate(images, labels), attack.generate(images, labels))
    with pytest.raises(InputError, match="target"):
        transfer.generate(images)


def test_masks_ids_and_gradients_are_those_of_the_attack(classifier, surrogate, images, labels):
    mask = np.zeros((3, 6, 6), dtype=np.float32)
    mask[0] = 1
    attack = PGD(surrogate, eps=0.1, max_iter=1, **QUIET)
    transfer = TransferAttack(classifier, attack)
    assert transfer.uses_example_ids
    assert len(transfer.zero_gradient) == 0
    options = {"mask": mask, "example_ids": np.arange(16) + 50}
    x_adv = transfer.generate(images, labels, **options)
    assert np.array_equal(x_adv, attack.generate(images, labels, **options))
    assert np.array_equal(x_adv[:, 1:], images[:, 1:])
    assert not np.array_equal(x_adv, transfer.generate(images, labels, mask=mask))
    assert np.array_equal(transfer.zero_gradient, np.zeros(16, dtype=bool))
    arts = TransferAttack(classifier, FastGradientMethod(surrogate))
    assert not arts.uses_example_ids
    assert len(arts.zero_gradient) == 0


def test_what_cannot_be_transferred_is_refused(classifier, surrogate):
    for attack in (None, "pgd", surrogate, PGD):
        with pytest.raises(InputError, match="must be an ART evasion attack on the surrogate"):
            TransferAttack(classifier, attack)
    with pytest.raises(InputError, match=r"surrogate has classes: 5, but the model 4"):
        TransferAttack(classifier, PGD(make(0, n_classes=5)))
    with pytest.raises(InputError, match=r"surrogate has images of shape \(1, 8, 8\), but the model \(3, 6, 6\)"):
        TransferAttack(classifier, PGD(make(0, shape=(1, 8, 8))))
    with pytest.raises(EstimatorError):
        TransferAttack(BlackBoxRegressor(lambda x: x, (3, 6, 6)), PGD(surrogate))
    transfer = TransferAttack(classifier, PGD(surrogate))
    with pytest.raises(InputError, match="must be an ART evasion attack"):
        transfer.set_params(attack=3)


ATTACKS = {
    "PGD": lambda c: PGD(c, norm=2, eps=0.3, eps_step=0.05, max_iter=3, loss="margin", seed=4, targeted=True, **QUIET),
    "PGD by class": lambda c: PGD(c, eps={0: 0.1, 1: 0.2, 2: 0.3, 3: 0.1}, max_iter=3, momentum=0.5, **QUIET),
    "TemperaturePGD": lambda c: TemperaturePGD(c, eps=0.2, inverse_temperature=7.0, early_stop=True, **QUIET),
    "ClassWiseAttack": lambda c: ClassWiseAttack(c, eps=0.2, targets=2, excluded=(1,), max_iter=3, **QUIET),
    "AutoAttack": lambda c: AutoAttack(c, eps=0.2, seed=3, **QUIET),
    "ART's PGD": lambda c: ProjectedGradientDescent(c, eps=0.2, eps_step=0.1, max_iter=3, targeted=True, **QUIET),
    "ART's FGM": lambda c: FastGradientMethod(c, eps=0.2),
    "SimBA": lambda c: SimBA(c, attack="px", max_iter=7, epsilon=0.3, targeted=True, **QUIET),
    "HopSkipJump": lambda c: HopSkipJump(c, targeted=True, norm=np.inf, max_iter=1, init_eval=2, init_size=3, **QUIET),
    "TransferAttack": lambda c: TransferAttack(c, PGD(make(3), eps=0.2, max_iter=3, **QUIET)),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_rebound_attack_is_the_same_but_for_the_classifier(name, classifier, surrogate):
    attack = ATTACKS[name](surrogate)
    rebound = rebind(attack, classifier)
    assert type(rebound) is type(attack)
    assert rebound is not attack
    assert (rebound.estimator, attack.estimator) == (classifier, surrogate)
    for parameter in attack.attack_params:
        if hasattr(attack, parameter):
            assert getattr(rebound, parameter) == getattr(attack, parameter), parameter
    assert rebind(attack, surrogate) is attack


@pytest.mark.parametrize("name", ["PGD by class", "TemperaturePGD", "ART's PGD", "ART's FGM"])
def test_rebound_attack_does_on_the_classifier_what_one_made_there_does(name, classifier, surrogate, images, labels):
    got, expected = (
        attack.generate(images, np.eye(4, dtype=np.float32)[labels])
        for attack in (rebind(ATTACKS[name](surrogate), classifier), ATTACKS[name](classifier))
    )
    assert np.array_equal(got, expected)


def test_rebound_attack_has_the_parameters_set_since(classifier, surrogate):
    attack = PGD(surrogate, eps=0.1, **QUIET)
    attack.set_params(eps=0.2, max_iter=7)
    rebound = rebind(attack, classifier)
    assert (rebound.eps, rebound.max_iter) == (0.2, 7)


def test_attacks_that_cannot_be_made_anew_say_what_to_do(classifier, black_box, surrogate):
    class Needy(EvasionAttack):
        _estimator_requirements = ()

        def __init__(self, estimator, dictionary):
            super().__init__(estimator=estimator)

        def generate(self, x, y=None, **kwargs):
            return x

    with pytest.raises(InputError, match=r"(?s)The Needy can't be created .*dictionary.*lambda c: Needy\(c, \.\.\.\)"):
        rebind(Needy(surrogate, {}), classifier)
    with pytest.raises(InputError, match="The PGD can't be created"):  # it needs gradients
        rebind(PGD(surrogate), black_box)


class Holding(EvasionAttack):
    """Holds attacks, as ART's AutoAttack does."""

    attack_params = ("attacks",)
    _estimator_requirements = ()

    def __init__(self, estimator, attacks):
        super().__init__(estimator=estimator)
        self.attacks = attacks

    def generate(self, x, y=None, **kwargs):
        return self.attacks[0].generate(x, y)


def test_what_an_attack_holds_is_made_anew_with_it(classifier, network):
    other = acw.as_classifier(network, (3, 6, 6), 4, device="cpu")
    third = acw.as_classifier(network, (3, 6, 6), 4, device="cpu")
    held = Holding(classifier, [acw.PGD(classifier, eps=0.07, verbose=False), acw.PGD(third, verbose=False)])
    again = rebind(held, other)
    assert [a.estimator for a in again.attacks] == [other, third]  # a surrogate's stays
    assert again.attacks[0].eps == 0.07
