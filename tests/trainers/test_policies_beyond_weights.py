"""Policies that add a term, choose targets, shift logits, and several at once: formulas, and training step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trainable
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from torch.nn import functional
from trainable import SMALL, STANDARD, TRADES, Seen, Smooth, make

import art_classwise as acw
from art_classwise import InputError
from art_classwise._core.random_numbers import ExampleUniform, derive
from art_classwise.policies import (
    CFA,
    DAFA,
    FAAL,
    TRIX,
    WAT,
    BalancedSoftmax,
    Combined,
    FairTAT,
    Fixed,
    PolicyContext,
    Spectral,
    absld_temperatures,
    balanced_adjustment,
    confusional_norm,
    confusional_weights,
    draw_targets,
    fair_ard_weights,
    false_positive_scores,
    frl_multipliers,
)
from art_classwise.threat import ThreatModel
from art_classwise.trainers.engine.adversary import Budgets, InnerSearch

C = 10


@pytest.fixture(scope="module")
def data():
    return acw.load_dataset("digits", "train").first(120)


# The formulas.


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 7), st.integers(0, 2**32 - 1))
def test_weights_of_errors_are_the_derivative_of_the_spectral_norm(n, seed):
    confusion = np.random.default_rng(seed).dirichlet(np.ones(n), n)
    errors = torch.tensor(confusion - np.diag(np.diag(confusion)), requires_grad=True)
    norm = torch.linalg.matrix_norm(errors, 2)
    (derivative,) = torch.autograd.grad(norm, errors)
    assert confusional_norm(confusion) == pytest.approx(np.linalg.norm(errors.detach().numpy(), 2))
    assert confusional_norm(confusion) == pytest.approx(float(norm.detach()))
    low, high = derivative.min(), derivative.max()
    expected = 2 * (derivative - low) / (high - low) + 0.01
    np.testing.assert_allclose(confusional_weights(confusion), expected.numpy(), atol=1e-6)
    # What the norm bounds: the error of the worst class, and that of any mixture of classes.
    assert errors.sum(1).max() <= math.sqrt(n) * norm + 1e-12


def test_without_errors_nothing_is_weighted():
    assert (confusional_weights(np.eye(4)) == 0).all()
    assert confusional_norm(np.eye(4)) == 0
    np.testing.assert_allclose(false_positive_scores(np.eye(4)), 0.25)
    for call in (confusional_norm, confusional_weights, false_positive_scores):
        for bad in (np.ones((2, 3)), np.ones(4), np.ones((0, 0))):
            with pytest.raises(InputError, match="must have shape"):
                call(bad)


@pytest.mark.parametrize("call", [confusional_norm, confusional_weights, false_positive_scores])
def test_confusion_matrices_are_taken_as_metrics_return_them(call):
    """As a frame, in which the row of a class without examples is NaN; it is as one without errors."""
    y, predicted = [0, 0, 0, 2, 2, 2], [0, 1, 2, 2, 0, 0]
    table = acw.metrics.confusion(y, predicted, 3, classes=["ant", "bee", "cow"])
    assert table.loc["bee"].isna().all()
    array = np.array([[1 / 3, 1 / 3, 1 / 3], [0, 1, 0], [2 / 3, 0, 1 / 3]])
    np.testing.assert_allclose(call(table), call(array), rtol=1e-12)
    assert np.max(call(array)) > 0
    for bad in (
        [[math.nan, 1], [0, 1]],
        [[0.5, -0.5], [0, 1]],
        [[0, math.inf], [1, 0]],
        [[0, math.nan], [1, math.nan]],
    ):
        with pytest.raises(InputError, match="must hold shares or numbers of at least 0"):
            call(bad)
    for bad in ("ab", None, [["a"]]):
        with pytest.raises(InputError, match="confusion must be an array, a tensor or a list of numbers"):
            call(bad)


def test_arguments_that_do_not_fit_each_other_are_refused():
    calls = (
        lambda: draw_targets([0, 1], [0.5, 0.5], [0.1]),
        lambda: absld_temperatures([1.0, 1.0], [1.0, 2.0, 3.0]),
        lambda: frl_multipliers([0.0, 0.0], [0.1], 0.1, 0.05, 0.1),
    )
    for call in calls:
        with pytest.raises(InputError, match="must be of one shape"):
            call()
    for labels, p in (([[0, 1]], [0.5, 0.5]), ([0, 1], [[0.5, 0.5]])):
        with pytest.raises(InputError, match=r"Labels must have shape \(m,\) and probabilities \(C,\)"):
            draw_targets(labels, p, [0.1, 0.2])


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], [-1.0, 2.0], [math.inf, 1.0], 1.0])
def test_numbers_by_class_are_refused_where_the_formulas_mean_nothing(values):
    ones = np.ones(np.shape(values))
    calls = (
        lambda: balanced_adjustment(values),
        lambda: fair_ard_weights(values),
        lambda: absld_temperatures(values, ones),
        lambda: absld_temperatures(ones, values),
        lambda: draw_targets([0], values, [0.5]),
    )
    for call in calls:
        with pytest.raises(InputError, match=r"must be numbers \(C,\), one per class|must have shape \(m,\)"):
            call()


def test_what_is_drawn_from_and_for_is_checked():
    for labels in ([0, 2], [-1, 0], [0.5, 1]):
        with pytest.raises(InputError, match="labels must be numbers of the classes, from 0 to 1"):
            draw_targets(labels, [0.5, 0.5], [0.1, 0.2])
    for u in ([0.1, 1.5], [0.0, 0.5], [math.nan, 0.5]):
        with pytest.raises(InputError, match="must lie between 0 and 1"):
            draw_targets([0, 1], [0.5, 0.5], u)
    with pytest.raises(InputError, match="probabilities must be numbers"):
        draw_targets([0, 1], [math.nan, 0.5], [0.1, 0.2])
    for tau in (-1, math.inf, math.nan):
        with pytest.raises(InputError, match="`tau`"):
            balanced_adjustment([1, 2], tau)
    with pytest.raises(InputError, match="but all are 0"):
        balanced_adjustment([0, 0])


def test_without_an_error_fair_tat_aims_at_trained_classes_alone():
    policy, shares = FairTAT(smoothing=0.0), torch.tensor([0.5, 0.0, 0.5])
    policy.begin(PolicyContext(3, shares, None, 0.1, 2, torch.device("cpu")))
    y = torch.tensor([0, 2, 0, 2])
    policy.weigh(y, torch.eye(3)[y])
    policy.end_epoch(1, {})
    assert list(policy.columns().values()) == [0.5, 0.0, 0.5]
    assert policy.targets_of(y, lambda *shape: torch.full(shape, 0.4)).tolist() == [2, 0, 2, 0]


def test_false_positive_scores_by_hand():
    confusion = np.random.default_rng(0).dirichlet(np.ones(5), 5)
    sums = [sum(confusion[i][j] for i in range(5) if i != j) for j in range(5)]
    np.testing.assert_allclose(false_positive_scores(confusion), np.array(sums) / sum(sums))


def test_targets_are_drawn_as_often_as_they_are_probable():
    p, n = np.array([0.4, 0.0, 0.3, 0.2, 0.1]), 20_000
    u = (np.arange(n) + 0.5) / n
    for k in range(5):
        targets = draw_targets(np.full(n, k), p, u)
        others = np.where(np.arange(5) == k, 0, p)
        np.testing.assert_allclose(np.bincount(targets, minlength=5) / n, others / others.sum(), atol=2 / n)
    assert draw_targets([1, 1], [0.0, 1.0, 0.0], [0.1, 0.9]).tolist() == [-1, -1]
    assert draw_targets([0, 1], [0.0, 0.0], [0.5, 0.5]).tolist() == [-1, -1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(2**-25, 1 - 2**-25), st.integers(0, 5))
def test_no_example_is_its_own_target(p, u, k):
    k %= len(p)
    (target,) = draw_targets([k], p, [u]).tolist()
    assert target != k
    assert (target == -1) == (sum(p[:k] + p[k + 1 :]) == 0)
    assert target == -1 or p[target] > 0


def test_balanced_softmax_is_the_posterior_of_other_frequencies():
    """exp(z_y) n_y / sum_k exp(z_k) n_k, Ren et al. 2020, eq. 4."""
    rng = np.random.default_rng(0)
    z, n = rng.normal(size=4), rng.integers(1, 500, 4)
    expected = np.exp(z) * n / (np.exp(z) * n).sum()
    np.testing.assert_allclose(special.softmax(z + balanced_adjustment(n)), expected, rtol=1e-12)
    np.testing.assert_allclose(balanced_adjustment(7.0 * n, 2.0), 2 * balanced_adjustment(n / n.sum()), rtol=1e-12)
    assert np.isfinite(balanced_adjustment([5, 0, 1])).all()
    assert special.softmax(balanced_adjustment([5, 0, 1]))[1] < 1e-6
    for bad in ([0.0, 0.0], [-1.0, 2.0], [math.nan, 1.0], [math.inf, 1.0], np.ones((2, 2))):
        with pytest.raises(InputError, match="shares must be numbers"):
            balanced_adjustment(bad)


# The training.


def literal_training(seen, policy, method, n_batches, counts):
    """Batch after batch: the objective with a term of the confusion of the epoch before, or with shifted logits."""
    model = Smooth(0).double()
    model.load_state_dict(make(Smooth).model.state_dict())
    stepper = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pairs, confusion, losses, total, norms = None, np.zeros((C, C)), [], [], [math.nan]
    for number, (x, y, x_adv, _) in enumerate(seen, 1):
        z, z_adv = model(x.double()), model(x_adv.double())
        shift = torch.tensor(np.log(counts)) if isinstance(policy, BalancedSoftmax) else torch.zeros(C)
        values = []
        for i, k in enumerate(y.tolist()):
            seen_by_first = (z if method is TRADES else z_adv)[i]
            value = -(seen_by_first + shift).softmax(0)[k].log()
            if pairs is not None:
                value = 0.7 * value
            if method is TRADES:
                p, q = z[i].softmax(0), z_adv[i].softmax(0)
                value = value + 6.0 * (p * (p / q).log()).sum()
            logits = z_adv[i].detach().clone()
            if pairs is not None:
                value = value + 0.3 * pairs[k][int(logits.argmax())] * -z_adv[i].softmax(0)[k].log()
            values.append(value)
            logits[k] *= 0.9
            confusion[k][int(logits.argmax())] += 1
        stepper.zero_grad()
        (sum(values) / len(values)).backward()
        stepper.step()
        total += [float(v.detach()) for v in values]
        if number % n_batches == 0:
            losses.append(sum(total) / len(total))
            if isinstance(policy, Spectral):
                shares = confusion / confusion.sum(1, keepdims=True)
                u, s, v = np.linalg.svd(shares - np.diag(np.diag(shares)))
                outer = np.outer(u[:, 0], v[0])
                pairs = 2 * (outer - outer.min()) / (outer.max() - outer.min()) + 0.01
                norms.append(s[0])
            confusion, total = np.zeros((C, C)), []
    return model.state_dict(), losses, norms


@pytest.mark.parametrize("method", [STANDARD, TRADES])
@pytest.mark.parametrize("policy", [Spectral(), BalancedSoftmax()], ids=["spectral", "balanced"])
def test_training_is_that_of_the_formula(policy, method, data):
    if isinstance(policy, BalancedSoftmax):
        data = data.long_tailed(0.1)
    classifier = make(Smooth)
    trainer = method(classifier, class_policy=policy, **SMALL)
    seen = Seen(trainer)
    n_batches = math.ceil(len(data) / 40)
    history = trainer.fit(data.x, data.y, batch_size=40, nb_epochs=3)
    expected, losses, norms = literal_training(seen, policy, method, n_batches, np.bincount(data.y))
    for name, value in classifier.model.state_dict().items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=5e-5, err_msg=name)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-4)
    if isinstance(policy, Spectral):
        np.testing.assert_allclose(history["spectral_norm"], norms[:3], rtol=1e-9)
        assert history["weight_0"].tolist() == pytest.approx([1.0, 0.7, 0.7])


def half(*shape):
    return torch.full(shape, 0.5)


@pytest.mark.parametrize("loss", ["cross_entropy", "kl"])
def test_examples_with_targets_are_moved_towards_them(loss, data):
    model, x, y = Smooth(), torch.from_numpy(data.x), torch.from_numpy(data.y)
    targets = torch.where(torch.arange(len(y)) % 3 == 0, -1, (y + 1 + torch.arange(len(y)) % 4) % C)
    threat = ThreatModel("L2", 0.5)
    search = InnerSearch(threat, 0.1, 3, torch.tensor(0.0), torch.tensor(1.0), "gaussian", loss)
    found = search(model, x, y, half, Budgets(targets=targets))
    without = search(model, x, y, half)
    assert torch.equal(found[targets < 0], without[targets < 0])
    start = threat.project(x + 0.001 * math.sqrt(-2 * math.log(0.5)) * math.cos(math.pi), x, *torch.tensor([0.0, 1.0]))
    for i in (1, 2, 4, 5):
        z = start[i : i + 1]
        for _ in range(3):
            z = z.detach().requires_grad_()
            rise = model(z).log_softmax(1)[0, targets[i]]
            (gradient,) = torch.autograd.grad(rise, z)
            z = threat.project(z.detach() + 0.1 * gradient / gradient.norm(), x[i : i + 1], *torch.tensor([0.0, 1.0]))
        torch.testing.assert_close(found[i], z[0], rtol=0, atol=1e-4)


def test_trix_aims_at_others_where_classes_are_strong(data):
    trainer = TRADES(make(Smooth), class_policy=TRIX(warmup=2), **{**SMALL, "eps": 0.1})
    seen = Seen(trainer)
    history = trainer.fit(data.x, data.y, batch_size=40, nb_epochs=4)
    shown = history[[f"targeted_{k}" for k in range(C)]].to_numpy()
    robust = history[[f"robust_{k}" for k in range(C)]].to_numpy()
    assert (shown[:2] == 0).all()
    for epoch in (2, 3):
        assert (shown[epoch] == (robust[epoch - 1] >= robust[epoch - 1].mean())).all()
        assert 0 < shown[epoch].sum() < C
    targets = {epoch: [b.targets for *_, b in seen[3 * epoch : 3 * epoch + 3]] for epoch in range(4)}
    labels = [torch.cat([y for _, y, _, _ in seen[3 * e : 3 * e + 3]]) for e in range(4)]
    for epoch in range(4):
        aimed = torch.cat(targets[epoch])
        strong = torch.from_numpy(shown[epoch])[labels[epoch]] > 0
        assert torch.equal(aimed >= 0, strong)
        assert (aimed[strong] != labels[epoch][strong]).all()
    assert len({int(t) for t in torch.cat(targets[3])} - {-1}) == C  # drawn from all of them


def test_trix_goes_by_validation_where_there_is_any(data):
    held = acw.load_dataset("digits", "test").first(200)
    trainer = STANDARD(make(Smooth), class_policy=TRIX(), **{**SMALL, "eps": 0.1})
    history = trainer.fit(data.x, data.y, (held.x, held.y), batch_size=40, nb_epochs=2)
    robust = history[[f"val_robust_{k}" for k in range(C)]].to_numpy()[0]
    assert history.iloc[1][[f"targeted_{k}" for k in range(C)]].tolist() == (robust >= robust.mean()).tolist()


def test_fair_tat_aims_at_the_classes_that_others_are_mistaken_for(data):
    trainer = STANDARD(make(Smooth), class_policy=FairTAT(smoothing=0.2), **{**SMALL, "eps": 0.1})
    seen, predicted = Seen(trainer), []
    step = acw.trainers.engine.step.Step.__call__

    def watched(self, batch, *rest):
        result = step(self, batch, *rest)
        predicted.append((batch.y, result.logits_adv.argmax(1)))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acw.trainers.engine.step.Step, "__call__", watched)
        history = trainer.fit(data.x, data.y, batch_size=40, nb_epochs=2)
    assert all((b.targets == -1).all() for *_, b in seen[:3])
    confusion = np.zeros((C, C))
    for y, wrong in predicted[:3]:
        np.add.at(confusion, (y.numpy(), wrong.numpy()), 1)
    confusion /= confusion.sum(1, keepdims=True)
    sums = confusion.sum(0) - np.diag(confusion)
    expected = 0.8 * sums / sums.sum() + 0.2 / C
    np.testing.assert_allclose([history.iloc[1][f"target_{k}"] for k in range(C)], expected, rtol=1e-9)
    for x, y, x_adv, budgets in seen[3:]:
        assert ((budgets.targets >= 0) & (budgets.targets != y)).all()
        assert (x_adv != x).any()


@pytest.mark.parametrize("policy", [TRIX(), FairTAT()])
def test_targets_do_not_depend_on_the_batch(policy, data):
    """Draws belong to (seed, epoch, example)."""
    chosen = []
    for batch_size in (40, 60):
        trainer = STANDARD(make(Smooth, lr=1e-9), class_policy=policy, **SMALL)
        seen = Seen(trainer)
        trainer.fit(data.x, data.y, batch_size=batch_size, nb_epochs=2)
        half_of_them = seen[len(seen) // 2 :]
        images = torch.cat([x for x, *_ in half_of_them]).flatten(1)
        targets = torch.cat([b.targets for *_, b in half_of_them])
        order = np.lexsort(images.numpy().T)
        chosen.append(targets[order])
    assert (chosen[0] >= 0).any()
    assert torch.equal(*chosen)


def test_balanced_softmax_changes_nothing_where_classes_are_equally_frequent(data):
    even = data.take(np.concatenate([np.flatnonzero(data.y == k)[:6] for k in range(C)]))
    assert np.bincount(even.y).tolist() == [6] * C
    ends = []
    for policy in (None, BalancedSoftmax(), BalancedSoftmax(tau=0)):
        classifier = make()
        TRADES(classifier, class_policy=policy, **SMALL).fit(even.x, even.y, batch_size=40, nb_epochs=2)
        ends.append(trainable.weights(classifier))
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def test_balanced_softmax_helps_the_tail():
    data, test = acw.load_dataset("digits", "train", imbalance=0.05), acw.load_dataset("digits", "test")
    tail = np.isin(test.y, [7, 8, 9])
    found = []
    for policy in (None, BalancedSoftmax()):
        classifier = make()
        STANDARD(classifier, class_policy=policy, **SMALL).fit(data.x, data.y, batch_size=40, nb_epochs=5)
        found.append((classifier.predict(test.x).argmax(1) == test.y)[tail].mean())
    assert found[1] > found[0] + 0.05


# Several at once.


@pytest.mark.parametrize(
    ("policy", "method"),
    [
        (DAFA(lamb=0.5, warmup=1), TRADES),
        (CFA(begin_after=1, fawa_start=1, threshold=0.0), TRADES),
        (FAAL(), STANDARD),
        (Spectral(), STANDARD),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, type) else value.__name__,
)
def test_with_one_that_does_nothing_a_policy_does_what_it_does_alone(policy, method, data):
    ends = []
    for each in (policy, Combined([policy, BalancedSoftmax(tau=0)])):
        classifier = make()
        history = method(classifier, class_policy=each, **SMALL).fit(
            data.x, data.y, (data.x[:40], data.y[:40]), batch_size=40, nb_epochs=3
        )
        ends.append((trainable.weights(classifier), history.drop(columns="images_per_second")))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1].equals(ends[1][1])


def test_weights_and_budgets_are_multiplied(data):
    weights, budgets = Fixed(weights={0: 2.0}), DAFA(lamb=0.5, warmup=1)
    classifier = make()
    both = Combined([weights, budgets])
    history = TRADES(classifier, class_policy=both, **SMALL).fit(data.x, data.y, batch_size=40, nb_epochs=2)
    last = history.iloc[-1]
    assert last["weight_0"] == pytest.approx(2 * last["eps_0"])  # DAFA's weights and radii are the same
    assert last["weight_1"] == pytest.approx(last["eps_1"])
    assert last["beta_0"] == 2.0
    assert both.describe() == {"name": "Combined", "policies": [weights.describe(), budgets.describe()]}
    assert both.sets_budgets
    assert both.needs_own_attack
    assert not both.needs_validation
    assert Combined([weights, CFA()]).needs_validation
    assert Combined([weights, CFA()]).averaging == CFA().averaging


def test_policies_see_each_validation_example_once_an_epoch(data, monkeypatch):
    """Where CFA averages weights and validates both, those of the average, of which the history tells."""
    seen, see = [], WAT.see_validation
    monkeypatch.setattr(WAT, "see_validation", lambda self, *of: seen.append(of) or see(self, *of))
    held, options = (data.x[:60], data.y[:60]), {"batch_size": 40, "nb_epochs": 2}
    classifier = make()
    cfa = CFA(begin_after=1, ccm=False, fawa_start=1, threshold=0.0, decay=0.5)
    trainer = TRADES(classifier, class_policy=Combined([WAT(), cfa]), **SMALL)
    trainer.fit(data.x, data.y, held, **options)
    assert [len(y) for y, _ in seen] == [40, 20, 40, 20]
    # What the training ends with is the average, which was validated last.
    adversary, x, y = trainer._adversary(), torch.from_numpy(held[0]), torch.from_numpy(held[1])
    starts = ExampleUniform(derive(trainer.options["seed"], "validation"), 0, torch.arange(60))
    network = classifier.model.eval()
    with torch.no_grad():
        logits = network(x)
    logits_adv = network(adversary(network, x, y, starts)).detach()
    expected = acw.losses.trades(logits, logits_adv, y, trainer.beta)
    torch.testing.assert_close(torch.cat([values for _, values in seen[2:]]), expected, rtol=1e-3, atol=1e-5)


def test_a_combination_is_resumed(data, tmp_path):
    def trained(folder, resume=False, stop=None):
        class Schedule:
            epochs = 0

            def step(self):
                self.epochs += 1
                if self.epochs == stop:
                    raise KeyboardInterrupt

        classifier = make()
        policy = Combined([Spectral(), TRIX(), FAAL(), BalancedSoftmax()])
        history = TRADES(classifier, class_policy=policy, **SMALL).fit(
            *(data.x, data.y),
            batch_size=40,
            nb_epochs=4,
            scheduler=Schedule(),
            checkpoint_dir=tmp_path / folder,
            resume=resume,
        )
        return trainable.weights(classifier), history.drop(columns="images_per_second")

    whole, history = trained("whole")
    with pytest.raises(KeyboardInterrupt):
        trained("stopped", stop=3)
    again, resumed = trained("stopped", resume=True)
    assert torch.equal(again, whole)
    assert resumed.equals(history)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Spectral(share=1.5), "`share` must be a number from 0 to 1"),
        (lambda: Spectral(margin=1), "`margin`"),
        (lambda: TRIX(warmup=0), "`warmup` must be a whole number"),
        (lambda: TRIX(warmup=1.5), "`warmup`"),
        (lambda: FairTAT(smoothing=-0.1), "`smoothing`"),
        (lambda: BalancedSoftmax(tau=-1), "`tau`"),
        (lambda: BalancedSoftmax(tau="1"), "`tau`"),
        (lambda: Combined([TRIX()]), "`policies` must be two or more class policies"),
        (lambda: Combined(TRIX()), "`policies` must be two or more"),
        (lambda: Combined([TRIX(), "dafa"]), "`policies` must be two or more"),
        (lambda: Combined([TRIX(), TRIX(2)]), "each once, but TRIX is among TRIX, TRIX"),
        (lambda: Combined([TRIX(), Combined([DAFA(), FAAL()])]), "another Combined"),
    ],
)
def test_bad_parameters_are_refused(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_policies_that_choose_targets_need_the_built_in_attack(data):
    classifier = make()
    attack = acw.PGD(classifier, eps=0.1, verbose=False)
    for policy in (TRIX(), FairTAT(), Combined([TRIX(), FAAL()])):
        with pytest.raises(InputError, match="directs or counts the steps of the built-in attack"):
            STANDARD(classifier, attack=attack, class_policy=policy)
        with pytest.raises(InputError, match="has no effect"):
            acw.NaturalTrainerPyTorch(classifier, class_policy=policy)
    with pytest.raises(InputError, match="TRIX begins after 3 epochs, but there are 3"):
        STANDARD(classifier, class_policy=TRIX(3), **SMALL).fit(data.x, data.y, nb_epochs=3)
    for policy in (BalancedSoftmax(), Spectral()):  # these look at logits alone
        acw.NaturalTrainerPyTorch(classifier, class_policy=policy, **SMALL).fit(data.x, data.y, nb_epochs=1)
        STANDARD(classifier, attack=attack, class_policy=policy)


@pytest.mark.parametrize("trainer", [acw.AdversarialTrainerBATPyTorch, acw.AdversarialTrainerMARTPyTorch])
def test_all_go_with_other_objectives(trainer, data):
    policy = Combined([Spectral(), TRIX(), BalancedSoftmax(), Fixed(weights={1: 2.0}, budgets={2: 0.04})])
    history = trainer(make(), class_policy=policy, awp_gamma=1e-3, excluded=[5], **SMALL).fit(
        data.x, data.y, batch_size=40, nb_epochs=2
    )
    assert np.isfinite(history["loss"]).all()
    assert functional.relu(torch.tensor(history["spectral_norm"].iloc[1])) > 0
