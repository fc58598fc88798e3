"""How strong the attacks are, on networks that other people trained and on real images."""

from __future__ import annotations

import numpy as np
import pytest
from art.attacks.evasion import ProjectedGradientDescentPyTorch

import art_classwise as acw
from art_classwise import PGD, ClassWiseAttack
from art_classwise._core.art_interface import exact_logits, logits_module

QUIET = {"verbose": False}
RADII = {"cifar10-cnn-a": 4 / 255, "cifar10-resnet4b": 2 / 255}


def accuracy(classifier, x, y):
    """In %, in eval mode and float32."""
    import torch

    module = logits_module(classifier)
    parts = [exact_logits(module, torch.from_numpy(part), classifier.nb_classes) for part in np.array_split(x, 4)]
    return 100 * float((torch.cat(parts).argmax(1).numpy() == y).mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", RADII)
def test_pgd_is_as_strong_as_arts(published, cifar10, name):
    """Within 0.3 points of ART's on 1,000 images; with early stop, or in bf16, likewise; never above it by more."""
    classifier, (x, y), eps = published(name), (cifar10.x, cifar10.y), RADII[name]
    budget = {"eps": eps, "eps_step": eps / 4, "max_iter": 20, "num_random_init": 1, "batch_size": 250, **QUIET}
    np.random.seed(0)
    art = accuracy(classifier, ProjectedGradientDescentPyTorch(classifier, **budget).generate(x, y), y)
    ours = {
        options: accuracy(classifier, PGD(classifier, **budget, **dict(options)).generate(x, y), y)
        for options in ((), (("early_stop", True),), (("early_stop", True), ("precision", "bf16")))
    }
    assert accuracy(classifier, x, y) - art > 10  # it did attack
    assert max(ours.values()) <= art + 0.3
    assert max(ours.values()) - min(ours.values()) <= 0.3


def test_towards_each_class_is_stronger_than_away_from_one(published, cifar10):
    classifier, x, y = published("cifar10-cnn-a"), cifar10.x[:300], cifar10.y[:300]
    away = PGD(classifier, eps=4 / 255, loss="margin", early_stop=True, **QUIET)
    towards = ClassWiseAttack(classifier, eps=4 / 255, **QUIET)
    assert accuracy(classifier, towards.generate(x, y), y) <= accuracy(classifier, away.generate(x, y), y)


@pytest.mark.slow
def test_a_longer_ladder_breaks_all_that_a_shorter_one_breaks(published, cifar10):
    """Example by example: quick within standard, and each attack within its longer self."""
    classifier, data = published("cifar10-cnn-a"), cifar10.first(20)

    def withstood(attacks):
        outcomes = acw.ClassWiseAudit("Linf:4/255", attacks, **QUIET).evaluate({"net": classifier}, data).outcomes
        return outcomes.pivot(index="example", columns="attack", values="withstood")

    quick, standard = withstood("quick"), withstood("standard")
    assert not (standard.all(axis=1) & ~quick.all(axis=1)).any()
    assert not (standard["pgd-20"] & ~quick["pgd-10"]).any()
    assert not (standard["pgd-100x5"] & ~standard["pgd-20"]).any()
    assert quick.all(axis=1).mean() > 0.2  # there was something left to break


@pytest.mark.slow
def test_naturally_trained_networks_fall(published, cifar10, mnist_root):
    mnist = acw.load_dataset("mnist", root=mnist_root, n_examples=300, download=False)
    natural = published("mnist-lenet5-natural")
    assert accuracy(natural, mnist.x, mnist.y) >= 97
    attack = PGD(natural, eps=0.3, eps_step=0.01, max_iter=40, early_stop=True, **QUIET)
    assert accuracy(natural, attack.generate(mnist.x, mnist.y), mnist.y) <= 1
    natural, x, y = published("cifar10-resnet18-natural"), cifar10.x[:100], cifar10.y[:100]
    assert accuracy(natural, x, y) >= 88
    assert accuracy(natural, PGD(natural, early_stop=True, **QUIET).generate(x, y), y) <= 1


@pytest.mark.slow
def test_an_adversarially_trained_network_holds(published, mnist_root):
    """TRADES' MNIST network withstands Linf 0.3, as published."""
    mnist = acw.load_dataset("mnist", root=mnist_root, n_examples=300, download=False)
    robust = published("mnist-smallcnn-trades")
    assert accuracy(robust, mnist.x, mnist.y) >= 98.5
    attack = PGD(robust, eps=0.3, eps_step=0.01, max_iter=40, early_stop=True, **QUIET)
    assert accuracy(robust, attack.generate(mnist.x, mnist.y), mnist.y) >= 92
