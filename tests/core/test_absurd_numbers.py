"""Numbers that no machine holds, wherever one may be given: a sentence, not an OverflowError."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

import art_classwise as acw
from art_classwise import InputError
from art_classwise.trainers import policies

ABSURD = [10**400, -(10**400), 10**5000, Fraction(10**400), float("nan"), float("-inf"), True, "1", 1 + 2j, None]


BEYOND_FLOAT32 = [1e31, 3.5e38, 1e39, 1e308]


@pytest.fixture(scope="module")
def classifier():
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    return acw.as_classifier(
        network, (1, 8, 8), 10, device="cpu", optimizer=torch.optim.SGD(network.parameters(), lr=0.1)
    )


def refused(call, allowed_none=False):
    for value in ABSURD:
        if value is None and allowed_none:
            continue
        with pytest.raises(InputError) as caught:
            call(value)
        assert len(str(caught.value)) < 700


@pytest.mark.parametrize("name", ["eps", "eps_step", "max_iter", "num_random_init", "batch_size"])
@pytest.mark.parametrize("kind", [acw.PGD, acw.ClassWiseAttack])
def test_of_an_attack(kind, name, classifier):
    refused(lambda value: kind(classifier, verbose=False, **{name: value}), allowed_none=True)
    with pytest.raises(InputError):
        kind(classifier, verbose=False).set_params(**{name: 10**5000})


@pytest.mark.parametrize("name", ["eps", "eps_step", "max_iter", "beta", "seed", "ema_decay", "gradient_clip"])
def test_of_a_trainer(name, classifier):
    refused(
        lambda value: acw.AdversarialTrainerMARTPyTorch(classifier, verbose=False, **{name: value}), allowed_none=True
    )


def test_of_a_threat_model():
    refused(lambda value: acw.ThreatModel("Linf", value))
    refused(lambda value: acw.ThreatModel.from_art(value if value != "1" else "3", 0.1))
    for text in ("Linf:1e400", "Linf:1/0", f"Linf:{10**400}", f"Linf:{10**400}/{10**401}", "Linf:nan", "L2:-1"):
        with pytest.raises(InputError):
            acw.ThreatModel.parse(text)


def test_of_a_policy_an_audit_and_a_data_set(tmp_path):
    refused(lambda value: policies.Fixed(weights=[1.0, value]))
    refused(lambda value: policies.Fixed(budgets={0: value}))
    refused(lambda value: acw.ClassWiseAudit("Linf:0.1", seed=value))
    refused(lambda value: acw.ClassWiseAudit("Linf:0.1", batch_size=value), allowed_none=True)
    refused(lambda value: acw.load_dataset("digits", n_examples=value), allowed_none=True)
    refused(lambda value: acw.build("digits-cnn", (1, 8, value), 10))
    refused(lambda value: acw.build("digits-cnn", (1, 8, 8), value))
    refused(lambda value: acw.build("digits-cnn", (1, 8, 8), 10, seed=value), allowed_none=True)
    refused(lambda value: acw.metrics.class_accuracy(np.array([0]), np.array([0]), n_classes=1, confidence=value))


@pytest.mark.parametrize("value", BEYOND_FLOAT32)
def test_what_is_finite_but_not_in_float32(value, classifier):
    calls = [
        lambda: acw.ThreatModel("L2", value),
        lambda: acw.certify(classifier, None, noise=value),
        lambda: acw.AdversarialTrainerTRADESPyTorch(classifier, beta=value),
        lambda: acw.AdversarialTrainerFastPyTorch(classifier, noise=value),
        *(
            lambda name=name, kind=kind: kind(classifier, **{name: value})
            for name in ("eps", "eps_step")
            for kind in (acw.PGD, acw.ClassWiseAttack, acw.MinimumNormAttack, acw.AdversarialTrainerMARTPyTorch)
        ),
        lambda: acw.PGD(classifier, momentum=value),
    ]
    for call in calls:
        with pytest.raises(InputError, match="at most 1e\\+30, "):
            call()
    for budget in (np.array([[0.1, value]]), {0: 0.1, 1: value}):
        with pytest.raises(InputError, match="finite numbers, of at most 1e\\+30"):
            acw.PGD(classifier, eps=budget)


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_the_largest_numbers_of_attacks_can_be_computed_with(norm, classifier):
    data = acw.load_dataset("digits", "test").first(4)
    for attack in (
        acw.PGD(classifier, norm=norm, eps=0.1, eps_step=1e30, max_iter=2, verbose=False),
        acw.MinimumNormAttack(classifier, norm=norm, eps_step=1e30, max_iter=2, verbose=False),
    ):
        found = attack.generate(data.x, data.y)
        assert found.min() >= 0
        assert found.max() <= 1
