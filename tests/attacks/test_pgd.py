"""PGD's losses and momentum beside literal transcriptions, and who leaves the search when."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from art_classwise import as_classifier, losses
from art_classwise._core.random_numbers import ExampleUniform
from art_classwise.attacks import PGD

SHAPE = (3, 6, 6)
QUIET = {"verbose": False}


def build(module, n_classes=4):
    return as_classifier(module, SHAPE, n_classes, device="cpu")


def wrong(classifier, x, y):
    return classifier.predict(x).argmax(1) != y


def margin(classifier, x, y):
    return losses.margin(torch.from_numpy(classifier.predict(x)), torch.from_numpy(y)).numpy()


def gradient_of(loss, network, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(loss(network(x)).sum(), x)[0]


def starts(images, eps, seed=0, restart=0):
    """Where PGD starts within Linf."""
    u = ExampleUniform(seed, restart, torch.arange(len(images)))(*images.shape)
    return (torch.from_numpy(images) + eps * (2 * u - 1)).clamp(0, 1)


def literal_pgd(network, x, start, loss, eps, step, n_steps):
    """Madry et al. 2018, eq. 2, within Linf and [0, 1]."""
    x_adv = start
    for _ in range(n_steps):
        x_adv = x_adv + step * gradient_of(loss, network, x_adv).sign()
        x_adv = torch.min(torch.max(x_adv, x - eps), x + eps).clamp(0, 1)
    return x_adv.detach().numpy()


LITERAL = {
    "cross_entropy": lambda z, y: functional.cross_entropy(z, y, reduction="none"),
    "margin": lambda z, y: z.masked_fill(functional.one_hot(y, 4).bool(), -1e9).amax(1) - z.gather(1, y[:, None])[:, 0],
    "dlr": lambda z, y: (
        -(
            (z.gather(1, y[:, None])[:, 0] - z.masked_fill(functional.one_hot(y, 4).bool(), -1e9).amax(1))
            / (z.sort(1).values[:, -1] - z.sort(1).values[:, -3] + 1e-12)
        )
    ),
}


@pytest.mark.parametrize(
    ("loss", "targeted"),
    [(loss, targeted) for loss in LITERAL for targeted in (False, True) if (loss, targeted) != ("dlr", True)],
)
def test_each_loss_is_ascended_and_for_a_target_descended(loss, targeted, network, classifier, images, own):
    y = (own + 1) % 4 if targeted else own
    sign = -1 if targeted else 1
    attack = PGD(classifier, eps=0.05, eps_step=0.02, max_iter=5, loss=loss, targeted=targeted, **QUIET)
    expected = literal_pgd(
        network,
        torch.from_numpy(images),
        starts(images, 0.05),
        lambda z: sign * LITERAL[loss](z, torch.from_numpy(y)),
        *(0.05, 0.02, 5),
    )
    np.testing.assert_allclose(attack.generate(images, y), expected, atol=1e-5)


def test_the_losses_go_different_ways(classifier, images, own):
    results = [
        PGD(classifier, eps=0.05, max_iter=5, loss=loss, early_stop=True, **QUIET).generate(images, own)
        for loss in ("cross_entropy", "margin", "kl")
    ]
    for i in range(3):
        assert np.abs(results[i] - results[i - 1]).max() > 0.01


def test_one_step_of_eps_from_x_is_fgsm(network, classifier, images, labels):
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    gradient = gradient_of(lambda z: functional.cross_entropy(z, y, reduction="none"), network, x)
    expected = (x + 0.1 * gradient.sign()).clamp(0, 1).numpy()
    attack = PGD(classifier, eps=0.1, eps_step=0.1, max_iter=1, num_random_init=0, **QUIET)
    np.testing.assert_allclose(attack.generate(images, labels), expected, atol=1e-6)


def test_kl_is_trades_inner_search(network, classifier, images, labels):
    """Zhang et al. 2019: ascend KL(p || p') from a random start near x, whatever the labels."""
    x = torch.from_numpy(images)
    p = network(x).softmax(1).detach()
    expected = literal_pgd(
        network,
        x,
        starts(images, 0.05),
        lambda z: functional.kl_div(z.log_softmax(1), p, reduction="none").sum(1),
        *(0.05, 0.0125, 10),
    )
    attack = PGD(classifier, eps=0.05, max_iter=10, loss="kl", **QUIET)
    x_adv = attack.generate(images, labels)
    np.testing.assert_allclose(x_adv, expected, atol=1e-5)
    assert np.array_equal(attack.generate(images, (labels + 1) % 4), x_adv)
    assert np.array_equal(attack.generate(images), x_adv)
    distance = losses.kl(network(x), network(torch.from_numpy(x_adv)))
    assert (distance > losses.kl(network(x), network(starts(images, 0.05)))).all()


@pytest.mark.parametrize("mu", [0.5, 1.0])
@pytest.mark.parametrize("targeted", [False, True])
def test_momentum_is_mi_fgsm(mu, targeted, network, classifier, images, own):
    """Dong et al. 2018, algorithm 1."""
    y = (own + 1) % 4 if targeted else own
    x, label = torch.from_numpy(images), torch.from_numpy(y)
    sign = -1 if targeted else 1
    g, x_adv = torch.zeros_like(x), x
    for _ in range(6):
        gradient = sign * gradient_of(lambda z: functional.cross_entropy(z, label, reduction="none"), network, x_adv)
        g = mu * g + gradient / gradient.abs().sum((1, 2, 3), keepdim=True)
        x_adv = torch.min(torch.max(x_adv + 0.02 * g.sign(), x - 0.06), x + 0.06).clamp(0, 1)
    options = {"eps": 0.06, "eps_step": 0.02, "max_iter": 6, "num_random_init": 0, "targeted": targeted}
    found = PGD(classifier, momentum=mu, **options, **QUIET).generate(images, y)
    np.testing.assert_allclose(found, x_adv.numpy(), atol=1e-5)
    assert not np.allclose(PGD(classifier, **options, **QUIET).generate(images, y), found, atol=1e-3)


def test_momentum_follows_its_example_when_others_leave(classifier, images, own):
    options = {"eps": 0.06, "eps_step": 0.01, "max_iter": 8, "momentum": 0.9, "early_stop": True, **QUIET}
    whole = PGD(classifier, **options).generate(images, own)
    assert 0.2 < wrong(classifier, whole, own).mean() < 1
    for i in range(16):
        alone = PGD(classifier, **options).generate(images[i : i + 1], own[i : i + 1], example_ids=[i])
        np.testing.assert_allclose(alone[0], whole[i], atol=1e-5)


@pytest.mark.parametrize("targeted", [False, True])
def test_early_stop_keeps_the_first_success(targeted, network, classifier, images, own):
    y = (own + 1) % 4 if targeted else own
    x, label = torch.from_numpy(images), torch.from_numpy(y)
    sign = -1 if targeted else 1

    def loss(z):
        return sign * functional.cross_entropy(z, label, reduction="none")

    iterates = [literal_pgd(network, x, starts(images, 0.1), loss, 0.1, 0.02, k) for k in range(11)]
    hits = np.stack([wrong(classifier, x_adv, y) != targeted for x_adv in iterates])
    at_x = wrong(classifier, images, y) != targeted
    first = np.where(hits.any(0), hits.argmax(0), 10)
    expected = np.stack([images[i] if at_x[i] else iterates[first[i]][i] for i in range(16)])
    options = {"eps": 0.1, "eps_step": 0.02, "max_iter": 10, "targeted": targeted, **QUIET}
    found = PGD(classifier, early_stop=True, **options).generate(images, y)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(np.unique(first[hits.any(0)])) > 2  # they leave at different steps


def test_what_is_wrong_already_is_returned_as_it_is(classifier, images, own):
    y = own.copy()
    y[[0, 3, 8]] = (y[[0, 3, 8]] + 1) % 4
    for restarts in (0, 1, 3):
        attack = PGD(classifier, eps=0.05, max_iter=5, num_random_init=restarts, early_stop=True, **QUIET)
        x_adv = attack.generate(images, y)
        assert np.array_equal(x_adv[[0, 3, 8]], images[[0, 3, 8]])
        assert not np.array_equal(x_adv[1], images[1])
    target = (own + 1) % 4
    target[[2, 5]] = own[[2, 5]]
    x_adv = PGD(classifier, eps=0.05, max_iter=5, targeted=True, early_stop=True, **QUIET).generate(images, target)
    assert np.array_equal(x_adv[[2, 5]], images[[2, 5]])


def test_a_tie_at_x_is_wrong_if_the_prediction_is(images):
    """Of equal logits the first is the prediction: what isn't the first class is misclassified as it is."""

    class Tied(nn.Module):
        def forward(self, x):
            score = (x - x.detach()).flatten(1).sum(1, keepdim=True)
            return torch.cat([score, -score, score, score], 1)

    classifier = build(Tied())
    y = np.full(16, 2)
    assert wrong(classifier, images, y).all()
    x_adv = PGD(classifier, eps=0.05, max_iter=2, early_stop=True, **QUIET).generate(images, y)
    assert np.array_equal(x_adv, images)


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("restarts", [0, 1, 3])
@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_early_stop_is_never_weaker(norm, restarts, loss, classifier, images, own):
    options = {"norm": norm, "eps": {np.inf: 0.05, 2: 0.4, 1: 2}[norm], "max_iter": 8, "loss": loss}
    options |= {"num_random_init": restarts, **QUIET}
    plain = wrong(classifier, PGD(classifier, **options).generate(images, own), own)
    early = wrong(classifier, PGD(classifier, early_stop=True, **options).generate(images, own), own)
    assert (early >= plain).all()
    assert 0 < plain.mean() < 1


def test_without_early_stop_every_example_costs_every_step(classifier, images, own, asked):
    PGD(classifier, eps=0.1, max_iter=7, batch_size=10, **QUIET).generate(images, own)
    assert asked == [10] * 7 + [6] * 7


def test_broken_examples_cost_no_further_passes(network, classifier, images, own, asked):
    attack = PGD(classifier, eps=0.1, eps_step=0.02, max_iter=7, early_stop=True, **QUIET)
    attack.generate(images, own)
    searched = asked[1:-1]  # before all a pass for those that are wrong already, at the end one for who has left
    assert asked[0] == 16
    assert asked[-1] == wrong(classifier, attack.generate(images, own), own).sum()
    assert searched == sorted(searched, reverse=True)
    assert searched[-1] < 8
    del asked[:]
    attack.generate(images, (own + 1) % 4)
    assert asked == [16]  # all of them wrong already


def test_restarts_attack_only_what_is_left(classifier, images, own, asked):
    options = {"eps": 0.05, "max_iter": 5, "early_stop": True, **QUIET}
    one = PGD(classifier, **options).generate(images, own)
    left = int((~wrong(classifier, one, own)).sum())
    assert 0 < left < 16
    del asked[:]
    three = PGD(classifier, num_random_init=3, **options).generate(images, own)
    first = asked.index(left, 7 if asked.count(left) > 1 else 0)
    assert max(asked[first:]) <= left
    assert sum(asked) < 16 * (1 + 5 + 1) + 2 * left * (5 + 1) + 1
    broken = wrong(classifier, one, own)
    assert np.array_equal(three[broken], one[broken])  # the first success stays
    assert (wrong(classifier, three, own) >= broken).all()


@pytest.mark.parametrize("targeted", [False, True])
def test_restarts_keep_the_most_wrong_result(targeted, classifier, images, own):
    """For a target: the one that it is nearest to winning in, or wins most clearly."""
    y, sign = ((own + 1) % 4, -1) if targeted else (own, 1)
    options = {"eps": 0.05, "eps_step": 0.02, "max_iter": 2, "targeted": targeted, **QUIET}
    many = sign * margin(classifier, PGD(classifier, num_random_init=4, **options).generate(images, y), y)
    candidates = []
    for restart in range(4):
        start = starts(images, 0.05, restart=restart)
        found = literal_pgd(
            classifier.model,
            torch.from_numpy(images),
            start,
            lambda z: sign * functional.cross_entropy(z, torch.from_numpy(y), reduction="none"),
            *(0.05, 0.02, 2),
        )
        candidates.append(sign * margin(classifier, found, y))
    np.testing.assert_allclose(many, np.max(candidates, axis=0), atol=1e-4)
