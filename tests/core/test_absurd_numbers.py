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
