"""Balance adversarial training: its loss, its search for both sides of the boundary, its training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trainable
from torch import nn

import art_classwise as acw
from art_classwise import InputError, losses
from art_classwise.threat import ThreatModel
from art_classwise.trainers.engine.adversary import BoundarySearch, Budgets, InnerSearch

BAT = acw.AdversarialTrainerBATPyTorch
C = 4


# The loss.


def literal_bat(clean, first, last, k, beta):
    """CE(p_l) + KL(p_l || U) + KL(p_f || U) + beta KL(p || p_f), of one example's logits."""
    p, wrong, right = ([math.exp(v) / sum(map(math.exp, z)) for v in z] for z in (clean, first, last))

    def kl(a, b):
        return sum(u * math.log(u / v) for u, v in zip(a, b, strict=True))

    uniform = [1 / len(p)] * len(p)
    return -math.log(right[k]) + kl(right, uniform) + kl(wrong, uniform) + beta * kl(p, wrong)


def test_the_loss_is_that_of_the_paper():
    torch.manual_seed(0)
    z = 3 * torch.randn(3, 6, C, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    for beta in (0.0, 1.0, 6.0):
        expected = [literal_bat(*(v[i].tolist() for v in z), int(y[i]), beta) for i in range(6)]
        assert losses.bat(*z, y, beta).tolist() == pytest.approx(expected, rel=1e-12)
    first, second = losses.bat_terms(*z, y)
    torch.testing.assert_close(first + 6 * second, losses.bat(*z, y))  # the default is the paper's
    assert first.shape == second.shape == (6,)


def test_the_divergence_from_uniform_lies_between_0_and_log_c():
    y = torch.zeros(1, dtype=torch.int64)
    flat, sure = torch.zeros(1, C), torch.tensor([[200.0, 0, 0, 0]])
    assert float(losses.bat(flat, flat, flat, y)) == pytest.approx(math.log(C))  # the cross-entropy alone
    assert float(losses.bat(sure, sure, sure, y)) == pytest.approx(2 * math.log(C))  # no cross-entropy


def test_gradients_are_finite_where_probabilities_vanish():
    z = torch.tensor([[[300.0, 0, -300, 5]], [[-300.0, 300, 0, 0]], [[0.0, 0, 500, -500]]]).requires_grad_()
    value = losses.bat(*z, torch.tensor([3])).sum()
    (gradient,) = torch.autograd.grad(value, z)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_gradients_are_those_of_the_formula():
    torch.manual_seed(0)
    z = torch.randn(3, 2, C, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([1, 3])
    assert torch.autograd.gradcheck(lambda *v: losses.bat(*v, y, 2.0), tuple(z))


def test_label_smoothing_is_that_of_the_cross_entropy():
    torch.manual_seed(0)
    clean, first, last = torch.randn(3, 5, C)
    y = torch.tensor([0, 1, 2, 3, 0])
    plain, smoothed = (losses.bat_terms(clean, first, last, y, s) for s in (0.0, 0.2))
    difference = losses.cross_entropy(last, y, 0.2) - losses.cross_entropy(last, y)
    torch.testing.assert_close(smoothed[0] - plain[0], difference)
    torch.testing.assert_close(smoothed[1], plain[1])


# The search.


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, C)).eval()


def images(n=64):
    return torch.from_numpy(np.random.default_rng(0).uniform(0.2, 0.8, (n, 1, 4, 4)).astype(np.float32))


def half(*shape):
    """Not random: so that the start is the same wherever it is computed."""
    return torch.full(shape, 0.5)


def search(threat, steps=8, eps_step=None, kind=BoundarySearch):
    step = threat.eps / 4 if eps_step is None else eps_step
    return kind(threat, step, steps, torch.tensor(0.0), torch.tensor(1.0), start="gaussian", loss="kl")


def literal_iterates(model, x, radii, norm, steps=8):
    """All iterates of PGD on the KL divergence from the clean prediction, the start first. radii: (n, 1, 1, 1)."""
    p = model(x).softmax(1).detach()

    def project(z):
        delta = z.clamp(0, 1) - x
        if norm == "Linf":
            return x + delta.clamp(-radii, radii)
        size = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return x + delta * (radii / size).clamp(max=1)

    iterates = [project(x + 0.001 * math.sqrt(-2 * math.log(0.5)) * math.cos(math.pi))]
    for _ in range(steps):
        z = iterates[-1].requires_grad_()
        q = model(z).softmax(1)
        (gradient,) = torch.autograd.grad((p * (p.log() - q.log())).sum(), z)
        direction = gradient.sign() if norm == "Linf" else gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        iterates.append(project(z.detach() + radii / 4 * direction).detach())
    return iterates


def literal_pair(model, x, y, iterates):
    """Of each example the first misclassified iterate and the one before it; how it went."""
    pairs, courses = [], []
    for i in range(len(x)):
        wrong = [bool(model(z[i : i + 1]).argmax(1) != y[i]) for z in iterates]
        if True not in wrong:
            pairs.append((iterates[-1][i], iterates[-1][i]))
            courses.append("never")
        elif wrong[0]:
            pairs.append((iterates[0][i], x[i]))
            courses.append("at once")
        else:
            step = wrong.index(True)
            pairs.append((iterates[step][i], iterates[step - 1][i]))
            courses.append("last" if step == len(iterates) - 1 else "returns" if False in wrong[step:] else "crosses")
    return (torch.stack(side) for side in zip(*pairs, strict=True)), courses


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.2), ("L2", 1.2)])
@pytest.mark.parametrize("budgeted", [False, True])
def test_of_the_iterates_two_are_taken_one_on_each_side_of_the_boundary(norm, eps, budgeted):
    model, x = network(), images()
    y = model(x).argmax(1)
    y[:6] = (y[:6] + 1) % C  # misclassified to begin with
    scales = torch.tensor([0.25, 1.0, 2.0, 0.5])[torch.arange(len(x)) % 4] if budgeted else torch.ones(len(x))
    budgets = Budgets(scales, scales) if budgeted else None
    first, last = search(ThreatModel(norm, eps))(model, x, y, half, budgets).chunk(2)
    iterates = literal_iterates(model, x, eps * scales.view(-1, 1, 1, 1), norm)
    (expected_first, expected_last), courses = literal_pair(model, x, y, iterates)
    assert {"never", "at once", "crosses"} <= set(courses)
    # At the start p is all but q, so that in float32 the gradient's direction has few digits.
    tolerance = 1e-5 if norm == "Linf" else 3e-3
    torch.testing.assert_close(first, expected_first, rtol=0, atol=tolerance)
    torch.testing.assert_close(last, expected_last, rtol=0, atol=tolerance)


class Band(nn.Module):
    """Two classes of images of one pixel: 1 within a band of grey, 0 beside it.

    The darker the pixel the larger the logit of class 1, within the band and beside it: so that an attack that begins
    to darken goes on, and leaves the band again.
    """

    def __init__(self, low, high):
        super().__init__()
        self.low, self.high = low, high
        self.slope = nn.Parameter(torch.tensor(0.1))

    def forward(self, x):
        value = x.flatten(1)
        inside = ((value > self.low) & (value < self.high)).float()
        return torch.cat([torch.zeros_like(value), inside - 0.5 - self.slope * value], 1)


@pytest.mark.parametrize(
    ("low", "high", "first", "last"),
    [
        (0.1, 0.39, 0.35, 0.40),  # crossed by the third step
        (0.32, 0.39, 0.35, 0.40),  # and once more afterwards: the first crossing counts
        (0.1, 0.31, 0.30, 0.35),  # only by the last step, after which nothing is computed but this
        (0.1, 0.29, 0.30, 0.30),  # never: both are the last iterate
        (0.1, 0.9, 0.5, 0.5),  # misclassified before it began: the start, and the clean image
    ],
)
def test_the_first_crossing_counts(low, high, first, last):
    x = torch.full((2, 1, 1, 1), 0.5)
    found = search(ThreatModel("Linf", 0.2), steps=4)(Band(low, high), x, torch.tensor([0, 0]), half).flatten()
    assert found.tolist() == pytest.approx([first, first, last, last], abs=0.002)  # the start lies 0.0012 below 0.5
    if last == first == 0.5:
        assert found[2:].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.2), ("L2", 1.2), ("L1", 3.0)])
def test_both_sides_lie_within_each_examples_own_budget(norm, eps):
    model, x = network(), images()
    y, scales = model(x).argmax(1), torch.tensor([0.25, 1.0, 2.0, 0.5])[torch.arange(64) % 4]
    threat = ThreatModel(norm, eps)
    first, last = search(threat)(model, x, y, half, Budgets(scales, scales)).chunk(2)
    for view in (first, last):
        assert (threat.size(view - x) <= eps * scales * (1 + 1e-5)).all()
        assert ((view >= 0) & (view <= 1)).all()
    crossed = model(first).argmax(1) != y
    assert crossed.any()
    assert (model(last).argmax(1) == y).all()
    assert (first[~crossed] == last[~crossed]).all()
    free = ~crossed & ((first > 0) & (first < 1)).flatten(1).all(1)  # of those the budget alone holds back
    assert free.any()
    torch.testing.assert_close(threat.size(first - x)[free], (eps * scales)[free], rtol=1e-3, atol=0)


def test_steps_are_scaled_apart_from_radii():
    """Two steps of a quarter of the radius, half as long, or twice: the ball doesn't matter yet."""
    model, x = network(), images()
    y = model(x).argmax(1)
    scales = torch.where(torch.arange(64) % 2 == 0, 0.5, 2.0)
    x_adv = search(ThreatModel("Linf", 0.1), steps=1, kind=InnerSearch)(
        model, x, y, half, Budgets(torch.ones(64), scales)
    )
    moved = (x_adv - x).abs().flatten(1).amax(1)
    torch.testing.assert_close(moved, 0.025 * scales, rtol=0, atol=0.0013)  # the start lies 0.0012 beside x


def test_budgets_of_one_are_no_budgets():
    model, x = network(), images()
    y, ones = model(x).argmax(1), torch.ones(64)
    for norm, eps in (("Linf", 0.1), ("L2", 0.3), ("L1", 1.0)):
        for kind in (InnerSearch, BoundarySearch):
            made = search(ThreatModel(norm, eps), kind=kind)
            without, with_them = made(model, x, y, half), made(model, x, y, half, Budgets(ones, ones))
            torch.testing.assert_close(without, with_them, rtol=0, atol=1e-6)


def test_the_search_leaves_the_network_as_it_was():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, C), nn.BatchNorm1d(C), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    search(ThreatModel("Linf", 0.1))(model, images(), torch.zeros(64, dtype=torch.int64), half)
    assert all(m.training for m in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


# The training.


@pytest.fixture(scope="module")
def train_set():
    return acw.load_dataset("digits", "train").first(120)


@pytest.mark.parametrize("options", [{}, {"beta": 2.0, "label_smoothing": 0.2}, {"two_passes": True}])
def test_steps_are_those_of_the_formula(options, train_set):
    """Batch norm's statistics, too: of one batch of all views, or of three after each other, the clean one first."""
    classifier = trainable.make()
    trainer = BAT(classifier, **trainable.SMALL, **options)
    seen = trainable.Seen(trainer)
    history = trainer.fit(train_set.x, train_set.y, batch_size=40, nb_epochs=1)
    torch.manual_seed(0)
    model = trainable.Convolutional().train()
    stepper = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    beta, s, total, robust = options.get("beta", 6.0), options.get("label_smoothing", 0.0), [], []
    for x, y, found, _ in seen:
        assert len(found) == 2 * len(x)
        views = [x, *found.chunk(2)]
        if options.get("two_passes"):
            p, wrong, right = (model(view).double().softmax(1) for view in views)
        else:
            p, wrong, right = model(torch.cat(views)).double().softmax(1).chunk(3)
        values = (1 - s) * -right[range(len(y)), y].log() + s * -right.log().mean(1)
        values = (
            values + sum((q * (10 * q).log()).sum(1) for q in (wrong, right)) + beta * (p * (p / wrong).log()).sum(1)
        )
        stepper.zero_grad()
        values.mean().backward()
        stepper.step()
        total += values.tolist()
        robust += (wrong.argmax(1) == y).tolist()
    assert len(seen) == 3
    for name, value in classifier.model.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-4, atol=1e-5, msg=name)
    assert history.loc[0, "loss"] == pytest.approx(np.mean(total), rel=1e-5)
    assert history.loc[0, "robust"] == pytest.approx(np.mean(robust))  # of the first misclassified iterate


def test_it_trains(train_set):
    classifier = trainable.make(lr=0.05)
    history = BAT(classifier, beta=1.0, **trainable.SMALL).fit(train_set.x, train_set.y, batch_size=40, nb_epochs=6)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert history["clean"].iloc[-1] > 0.7


def test_what_it_refuses():
    from art.attacks.evasion import FastGradientMethod

    classifier = trainable.make()
    with pytest.raises(InputError, match="BAT needs the iterates of its own attack: leave `attack` out"):
        BAT(classifier, attack=FastGradientMethod(classifier))
    with pytest.raises(InputError, match="`beta` must be a number of at least 0, and finite, but got -1"):
        BAT(classifier, beta=-1)
    with pytest.raises(InputError, match="`beta`"):
        BAT(classifier, beta=math.nan)


def test_it_trains_without_excluded_classes(train_set):
    classifier = trainable.make()
    trainer = acw.AdversarialTrainerClassExcludedPyTorch(classifier, [3, 7], "bat", **trainable.SMALL)
    seen = trainable.Seen(trainer.trainer)
    history = trainer.fit(train_set.x, train_set.y, batch_size=40, nb_epochs=2)
    assert np.isfinite(history["loss"]).all()
    assert not {3, 7} & {k for _, y, *_ in seen for k in y.tolist()}
    assert not np.isin(classifier.predict(train_set.x).argmax(1), [3, 7]).any()


def test_it_trains_on_pseudo_labels_too(train_set):
    """Two views of each of the batch's examples: the labelled ones are measured, all are in the loss."""
    trainer = BAT(trainable.make(lr=0.0), **trainable.SMALL)
    seen = trainable.Seen(trainer)
    x, y = train_set.x, train_set.y
    history = trainer.fit(x[:60], y[:60], x_unlabeled=x[60:], y_pseudo=y[60:], batch_size=40, nb_epochs=1, gamma=0.5)
    torch.manual_seed(0)
    model = trainable.Convolutional().train()
    total, right = [], []
    for images, labels, found, _ in seen:
        n = len(images)
        clean, first, last = model(torch.cat([images, found])).detach().chunk(3)
        factors = torch.where(torch.arange(n) < n // 2, 1.0, 0.5)
        total += (factors * losses.bat(clean, first, last, labels)).tolist()
        right += (first.argmax(1) == labels)[: n // 2].tolist()
    assert history.loc[0, "loss"] == pytest.approx(np.mean(total), rel=1e-5)
    assert history.loc[0, "robust"] == pytest.approx(np.mean(right))
