"""Class policies in training: each step against a training written out here, on the same adversarial inputs.

The policies are transcribed once more, as plain loops over classes and examples. Run as a script this file trains under
``torchrun``, for the last tests here.
"""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from processes import alone_and_together
from torch import nn

import art_classwise as acw
from art_classwise import InputError
from art_classwise.trainers.engine.step import Step
from art_classwise.trainers.policies import CFA, CFOL, DAFA, FAAL, FRL, WAT, Fixed

STANDARD, TRADES, MART, BAT = METHODS = (
    acw.AdversarialTrainerStandardPyTorch,
    acw.AdversarialTrainerTRADESPyTorch,
    acw.AdversarialTrainerMARTPyTorch,
    acw.AdversarialTrainerBATPyTorch,
)
NATURAL = acw.NaturalTrainerPyTorch
C, BATCH, EPS = 5, 12, 0.06  # batches in which some class is often absent
LR = 0.3
SMALL = {"eps": EPS, "max_iter": 3, "verbose": False}


def make_images(n, seed, without=(), spread=0.1):
    """Return images that are a class's pattern under noise, away from the borders of the box."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(0).uniform(0.5 - spread, 0.5 + spread, (C, 1, 4, 4))
    y = rng.choice([k for k in range(C) if k not in without], n)
    return (patterns[y] + rng.uniform(-0.1, 0.1, (n, 1, 4, 4))).astype(np.float32), y


TRAIN = make_images(60, 1, without=[3])  # class 3 is in validation alone
VALIDATION = make_images(40, 2, without=[1])
EASY = make_images(96, 5, spread=0.38), make_images(60, 6, spread=0.38)  # whose worst class gets somewhere


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, C))


def make_classifier(lr=LR, module=network):
    model = module()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return acw.as_classifier(model, (1, 4, 4), C, optimizer=optimizer, device="cpu")


def state(classifier):
    return {name: value.clone() for name, value in classifier.model.state_dict().items()}


class Seen:
    """What a trainer's attacks were given and gave, in training and in validation."""

    def __init__(self, trainer):
        self.training, self.validation = [], []
        real = trainer._adversary

        def watched(**options):
            adversary, seen = real(**options), self.training if options else self.validation

            def attack(module, x, y, uniform, budgets=None):
                x_adv = adversary(module, x, y, uniform, budgets)
                seen.append((x.clone(), y.clone(), x_adv.clone(), budgets))
                return x_adv

            return attack

        trainer._adversary = watched


def train(method, policy, *, lr=LR, fit=None, data=TRAIN, **options):
    classifier = make_classifier(lr)
    trainer = method(classifier, class_policy=policy, **{**SMALL, **options})
    seen = Seen(trainer)
    history = trainer.fit(*data, **{"batch_size": BATCH, "nb_epochs": 3, "validation_data": VALIDATION, **(fit or {})})
    return classifier, history, seen


# A training and its policies, once more.


def literal_terms(method, p, q, y):
    """The two terms of each example's loss, of probabilities in double precision."""

    def cross_entropy(r, k):
        return -torch.log(r[k])

    def kl(r, s):
        return (r * torch.log(r / s)).sum()

    first, second = [], []
    for i, k in enumerate(y.tolist()):
        others = [j for j in range(C) if j != k]
        if method is STANDARD:
            first.append(cross_entropy(q[i], k))
        elif method is NATURAL:
            first.append(cross_entropy(p[i], k))
        elif method is TRADES:
            first.append(cross_entropy(p[i], k))
            second.append(kl(p[i], q[i]))
        elif method is MART:
            first.append(cross_entropy(q[i], k) - torch.log(1 - q[i][others].max()))
            second.append(kl(p[i], q[i]) * (1 - p[i][k]))
        else:
            wrong, right, uniform = q[i], q[i + len(y)], torch.full((C,), 1 / C, dtype=torch.float64)
            first.append(cross_entropy(right, k) + kl(right, uniform) + kl(wrong, uniform))
            second.append(kl(p[i], wrong))
    return first, second


BETA = {STANDARD: None, NATURAL: None, TRADES: 6.0, MART: 5.0, BAT: 6.0}


class Literal:
    """A policy as plain numbers by class."""

    def __init__(self, beta):
        self.beta, self.first, self.second = beta, [1.0] * C, [1.0] * C
        self.radii, self.steps = [1.0] * C, [1.0] * C

    def batch(self, q, y):
        """Before the loss: probabilities under attack, labels."""

    def end(self, epoch, row, losses):
        """After an epoch: its row, and validation losses by class."""

    def lengths(self, y):
        """How much longer the steps of a batch's attack are, by its labels."""
        return [self.steps[k] for k in y]


class LiteralFixed(Literal):
    weights, budgets = (0.5, 2.0, 1.0, 1.0, 0.0), (EPS, EPS / 2, 1.5 * EPS, EPS, EPS)

    def __init__(self, beta):
        super().__init__(beta)
        self.first = self.second = list(self.weights)
        self.radii = self.steps = [b / EPS for b in self.budgets]


class LiteralCFA(Literal):
    def __init__(self, beta):
        super().__init__(beta)
        self.robust = [math.nan] * C
        if beta is not None:
            self.first = self.second = [1 / (1 + beta)] * C

    def end(self, epoch, row, losses):
        for k in range(C):
            if not math.isnan(row[f"robust_{k}"]):
                self.robust[k] = row[f"robust_{k}"]
            if not math.isnan(self.robust[k]) and epoch >= 1:
                self.radii[k] = (0.5 if self.beta is None else 0.3) + self.robust[k]
                if self.beta is not None:
                    self.first, self.second = list(self.first), list(self.second)
                    beta = (0.5 + self.robust[k]) * self.beta
                    self.first[k] = 1 / (1 + beta)
                    self.second[k] = beta / (1 + beta) / self.beta


class LiteralDAFA(Literal):
    def __init__(self, beta):
        super().__init__(beta)
        self.seen = []

    def batch(self, q, y):
        self.seen.append((q, y))

    def end(self, epoch, row, losses):
        if epoch == 2:  # at the end of the warm-up
            mean = {}
            for i in range(C):
                mine = [p for q, y in self.seen for p, k in zip(q.tolist(), y.tolist(), strict=False) if k == i]
                if mine:
                    mean[i] = [sum(p[j] for p in mine) / len(mine) for j in range(C)]
            w = [1.0] * C
            for i in mean:
                for j in mean:
                    if mean[i][i] < mean[j][j]:
                        w[i] += 3.0 * mean[i][j] * mean[j][j]
                    elif i != j:
                        w[i] -= 3.0 * mean[j][i] * mean[i][i]
            self.first = self.radii = self.steps = w
        self.seen = []


class LiteralFRL(Literal):
    def __init__(self, beta):
        super().__init__(beta)
        self.natural, self.boundary, self.margin = [0.0] * C, [0.0] * C, [0.0] * C

    def end(self, epoch, row, losses):
        for k in range(C):
            clean, robust = row[f"val_clean_{k}"], row[f"val_robust_{k}"]
            if math.isnan(clean):
                continue
            natural = (1 - clean) - (1 - row["val_clean"]) - 0.02
            boundary = (clean - robust) - (row["val_clean"] - row["val_robust"]) - 0.02
            self.natural[k] = max(0.0, self.natural[k] + 0.2 * natural)
            self.boundary[k] = max(0.0, self.boundary[k] + 0.4 * boundary)
            self.margin[k] += 0.3 * boundary
        self.natural, self.boundary = (
            [v * min(1, 0.3 / max(sum(phi), 1e-9)) for v in phi] for phi in (self.natural, self.boundary)
        )
        there = set(TRAIN[1].tolist())  # a class without training examples takes no part
        first, second = [1.0] * C, [1.0] * C
        for phi, into in ((self.natural, first), (self.boundary, second)):
            for k in there:
                into[k] = 1 + len(there) * (phi[k] - sum(phi[j] for j in there) / len(there))
        if self.beta is None:
            first = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
        self.first, self.second = first, second
        self.radii = [min(3.0, max(0.98, math.exp(2 * v))) for v in self.margin]

    def lengths(self, y):
        return [max(self.radii[k] for k in y)] * len(y)


class LiteralWAT(Literal):
    def __init__(self, beta):
        super().__init__(beta)
        self.sums = [0.0] * (C + 1)
        self.first = self.second = [2.0] * C  # of the class and of the average

    def end(self, epoch, row, losses):
        for k, value in losses.items():
            self.sums[k] += value
        self.sums[C] += sum(losses.values()) / len(losses)
        odds = [math.exp(0.5 * self.sums[k]) if k in losses or k == C else 0.0 for k in range(C + 1)]
        w = [len(losses) * v / sum(odds) for v in odds]
        self.first = self.second = [w[k] + w[C] for k in range(C)]


class LiteralFAAL(Literal):
    def __init__(self, beta):
        super().__init__(beta)
        self.margins = {}

    def batch(self, q, y):
        values = {}
        for p, k in zip(q.tolist(), y.tolist(), strict=False):
            values.setdefault(k, []).append(max(p[j] for j in range(C) if j != k) - p[k])
        self.margins |= {k: sum(v) / len(v) for k, v in values.items()}
        m = [self.margins[k] for k in sorted(self.margins)]
        low, high = max(m) + 1e-12, max(m) + 1e6  # 1 / (nu - m): the divergence falls with nu
        for _ in range(200):
            nu = (low + high) / 2
            odds = [1 / (nu - v) for v in m]
            p = [v / sum(odds) for v in odds]
            far = -math.log(len(m)) - sum(map(math.log, p)) / len(m) > 0.3
            low, high = (nu, high) if far else (low, nu)
        self.first = self.second = [1.0] * C
        for k, value in zip(sorted(self.margins), p, strict=True):
            self.first[k] = len(m) * value


class LiteralCFOL(Literal):
    def __init__(self, beta):
        super().__init__(beta)
        self.scores = dict.fromkeys(set(TRAIN[1].tolist()), 0.0)
        self.counts = {k: (TRAIN[1] == k).sum() for k in self.scores}

    def batch(self, q, y):
        n, total = len(self.scores), sum(math.exp(v) for v in self.scores.values())
        self.first = self.second = [
            n * (0.2 / n + 0.8 * math.exp(self.scores[k]) / total) if k in self.scores else 1.0 for k in range(C)
        ]
        for p, k in zip(q.tolist(), y.tolist(), strict=False):
            self.scores[k] += 0.02 * (max(p) != p[k]) / (self.counts[k] / len(TRAIN[1]))


POLICIES = {
    "Fixed": (lambda: Fixed(LiteralFixed.weights, LiteralFixed.budgets), LiteralFixed),
    "CFA": (lambda: CFA(begin_after=1, fawa=False), LiteralCFA),
    "DAFA": (lambda: DAFA(lamb=3.0, warmup=2), LiteralDAFA),
    "FRL": (lambda: FRL(alpha1=0.2, alpha2=0.3, tolerance=0.02, limit=0.3), LiteralFRL),
    "WAT": (lambda: WAT(eta=0.5), LiteralWAT),
    "FAAL": (lambda: FAAL(radius=0.3), LiteralFAAL),
    "CFOL": (lambda: CFOL(eta=0.02, gamma=0.2), LiteralCFOL),
}
SHOWN = {  # columns by policy
    **{name: {"weight", "beta", "eps"} for name in ("Fixed", "CFA", "FRL")},
    **{name: {"weight", "beta"} for name in ("WAT", "FAAL", "CFOL")},
    "DAFA": {"weight", "eps"},
}
SHOWN_OF_ONE_TERM = {name: names - {"beta"} for name, names in SHOWN.items()} | {"CFA": {"eps"}}


def literal_training(method, policy, seen, history):
    """Train a network of the same beginning on the same adversarial inputs; check what they are and the history."""
    model, beta = network().double(), BETA[method]
    assert isinstance(policy, Literal)
    batches, validations = iter(seen.training), iter(seen.validation)
    n_batches, n_validations = (math.ceil(len(y) / BATCH) for _, y in (TRAIN, VALIDATION))

    def weighted(x, y, x_adv, first, second):
        p, q = model(x.double()).softmax(1), model(x_adv.double()).softmax(1)
        terms = literal_terms(method, p, q, y)
        return [
            first[k] * terms[0][i] + (beta * second[k] * terms[1][i] if terms[1] else 0.0)
            for i, k in enumerate(y.tolist())
        ]

    for epoch, (_, row) in enumerate(history.iterrows(), 1):
        radii, total = list(policy.radii), []
        for x, y, x_adv, budgets in (next(batches) for _ in range(n_batches)):
            if budgets is not None:
                assert budgets.radii.tolist() == pytest.approx([policy.radii[k] for k in y.tolist()], rel=1e-5)
                assert budgets.steps.tolist() == pytest.approx(policy.lengths(y.tolist()), rel=1e-5)
            policy.batch(model(x_adv.double()).softmax(1).detach(), y)
            values = weighted(x, y, x_adv, policy.first, policy.second)
            gradients = torch.autograd.grad(sum(values) / len(y), list(model.parameters()))
            with torch.no_grad():
                for weight, gradient in zip(model.parameters(), gradients, strict=True):
                    weight -= LR * gradient
            total += [float(v.detach()) for v in values]
        assert row["loss"] == pytest.approx(sum(total) / len(total), rel=1e-4)
        in_force = {"weight": policy.first, "beta": policy.second, "eps": radii}
        for name, expected in in_force.items():
            if f"{name}_0" in history:
                shown = [row[f"{name}_{k}"] for k in range(C)]
                assert shown == pytest.approx(expected, rel=1e-4), (name, epoch)
        losses = {}
        for x, y, x_adv, _ in (next(validations) for _ in range(n_validations)):
            views = torch.cat([x_adv, x_adv]) if method is BAT else x_adv
            with torch.no_grad():
                for k, value in zip(y.tolist(), weighted(x, y, views, [1.0] * C, [1.0] * C), strict=True):
                    losses.setdefault(k, []).append(float(value))
        policy.end(epoch, row, {k: sum(v) / len(v) for k, v in losses.items()})
    assert not [*batches, *validations]
    return model.state_dict()


def shown_columns(history):
    return {c.rpartition("_")[0] for c in history if c.startswith(("weight_", "beta_", "eps_"))}


def in_turn():
    """Each policy with two methods in a row, so that each method meets half of the policies."""
    methods = list(METHODS)
    for i, name in enumerate(POLICIES):
        for k in (2 * i, 2 * i + 1):
            yield pytest.param(methods[k % len(methods)], name, id=f"{methods[k % len(methods)].__name__}-{name}")


@pytest.mark.parametrize(("method", "name"), [*in_turn()])
def test_training_is_that_of_the_weighted_objective(method, name):
    make, literal = POLICIES[name]
    classifier, history, seen = train(method, make())
    assert shown_columns(history) == (SHOWN_OF_ONE_TERM if BETA[method] is None else SHOWN)[name]
    expected = literal_training(method, literal(BETA[method]), seen, history)
    for key, value in classifier.model.state_dict().items():
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=2e-5, err_msg=key)
    changing = [c for c in history if c.startswith(("weight_", "beta_", "eps_"))]
    constant = [c for c in changing if history[c].nunique() == 1]
    assert (len(constant) == len(changing)) == (name == "Fixed")  # the others' do move


@pytest.mark.parametrize("policy", [WAT(0.5), FAAL(0.3), CFOL(0.02, 0.2)], ids=["WAT", "FAAL", "CFOL"])
def test_natural_training_is_weighted_by_what_is_seen_of_clean_images(policy):
    literal = POLICIES[type(policy).__name__][1](None)
    classifier = make_classifier()
    trainer = NATURAL(classifier, class_policy=policy, **SMALL)
    seen, batches = Seen(trainer), []
    step = Step.__call__

    def watched(self, batch, *rest):
        batches.append((batch.x.clone(), batch.y.clone(), batch.x.clone(), None))
        return step(self, batch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "__call__", watched)
        history = trainer.fit(*TRAIN, batch_size=BATCH, nb_epochs=3, validation_data=VALIDATION)
    assert not seen.training
    seen.training = batches
    expected = literal_training(NATURAL, literal, seen, history)
    for key, value in classifier.model.state_dict().items():
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=2e-5, err_msg=key)


# When a policy acts.


def test_dafa_trains_as_without_it_until_the_warm_up_is_over():
    plain, _, _ = train(TRADES, None, fit={"nb_epochs": 2})
    ends = []

    class Watch:
        def step(self):
            ends.append(state(classifier))

    classifier = make_classifier()
    trainer = TRADES(classifier, class_policy=DAFA(warmup=2), **SMALL)
    history = trainer.fit(*TRAIN, batch_size=BATCH, nb_epochs=4, scheduler=Watch())
    for key, value in plain.model.state_dict().items():
        torch.testing.assert_close(ends[1][key], value, rtol=0, atol=0)
    columns = history[[f"{name}_{k}" for name in ("weight", "eps") for k in range(C)]].to_numpy()
    assert (columns[:2] == 1).all()
    assert (columns[2] != 1).any()
    assert (columns[3] == columns[2]).all()  # once
    assert (history["weight_3"] == 1).all()  # a class without examples


def test_cfa_begins_after_so_many_epochs():
    _, history, _ = train(TRADES, CFA(begin_after=2, fawa=False), fit={"nb_epochs": 4})
    for k in (0, 1, 2, 4):
        eps, weight, beta = (history[f"{name}_{k}"].tolist() for name in ("eps", "weight", "beta"))
        robust = history[f"robust_{k}"].tolist()
        assert eps[:2] == [1, 1]
        assert eps[2:] == pytest.approx([0.3 + robust[1], 0.3 + robust[2]])  # t of the epoch before
        assert weight[:2] == beta[:2] == [1 / 7, 1 / 7]
        assert weight[2:] == pytest.approx([1 / (1 + 6 * (0.5 + t)) for t in robust[1:3]])
    assert history["robust_3"].isna().all()
    assert (history["eps_3"] == 1).all()


def test_a_class_absent_from_an_epoch_keeps_its_statistic():
    """With crafted batches from a generator: class 0 is in the first epoch alone."""
    from art.data_generators import DataGenerator

    class Epochs(DataGenerator):
        def __init__(self):
            super().__init__(size=24, batch_size=12)
            self.calls = 0

        def get_batch(self):
            x, y = TRAIN
            rows = np.flatnonzero(y != 0) if self.calls >= 2 else np.argsort(y, kind="stable")
            self.calls += 1
            rows = rows[(self.calls % 2) * 12 :][:12]
            return x[rows], np.eye(C)[y[rows]]

    for policy in (CFA(begin_after=1, fawa=False), FAAL()):
        trainer = STANDARD(make_classifier(), class_policy=policy, **SMALL)
        history = trainer.fit_generator(Epochs(), nb_epochs=3)
        first, *later = history["robust_0"]
        assert not math.isnan(first)
        assert all(map(math.isnan, later))
        if isinstance(policy, CFA):
            assert history["eps_0"].tolist() == pytest.approx([1, 0.5 + first, 0.5 + first])
        else:
            assert (history["weight_0"] != 1).all()


def test_a_policy_is_not_changed_by_a_training_and_can_be_used_again():
    for make, _ in POLICIES.values():
        policy = make()
        before = copy.deepcopy(vars(policy))
        first, one, _ = train(TRADES, policy)
        assert vars(policy) == before
        second, two, _ = train(TRADES, policy)
        pd.testing.assert_frame_equal(*(h.drop(columns="images_per_second") for h in (one, two)), check_exact=True)
        for key, value in first.model.state_dict().items():
            assert torch.equal(value, second.model.state_dict()[key])


def test_a_trainer_begins_its_policy_anew_with_each_fit():
    classifier = make_classifier(lr=0.0)
    trainer = TRADES(classifier, class_policy=DAFA(warmup=1), **SMALL)
    one, two = (trainer.fit(*TRAIN, batch_size=BATCH, nb_epochs=2) for _ in range(2))
    assert (one.loc[0, [f"weight_{k}" for k in range(C)]] == 1).all()
    pd.testing.assert_frame_equal(*(h.drop(columns="images_per_second") for h in (one, two)), check_exact=True)


@pytest.mark.parametrize("name", ["FAAL", "CFOL", "DAFA"])
def test_weight_perturbation_asks_a_policy_once_per_step(name, monkeypatch):
    """The gradient to perturb along and that to descend have the same class weights."""
    policy = POLICIES[name][0]()
    asked, real = [], type(policy).weigh

    def weigh(self, y, logits_adv):
        asked.append((y.clone(), logits_adv.clone()))
        return real(self, y, logits_adv)

    monkeypatch.setattr(type(policy), "weigh", weigh)
    _, _, seen = train(TRADES, policy, lr=0.0, awp_gamma=0.1)
    assert len(asked) == len(seen.training) == 3 * 5
    model = network()
    for (y, logits), (_, labels, x_adv, _) in zip(asked, seen.training, strict=True):
        assert torch.equal(y, labels)
        torch.testing.assert_close(logits, model(x_adv))  # of the unperturbed weights


# Class budgets.


RADII = {0: 0.5, 1: 1.0, 2: 2.0, 3: 1.0, 4: 0.25}


@pytest.mark.parametrize(
    ("norm", "eps", "method"),
    [(np.inf, 0.04, STANDARD), (2, 0.12, STANDARD), (1, 0.3, STANDARD), (2, 0.12, TRADES), (np.inf, 0.04, BAT)],
)
def test_each_class_is_attacked_within_its_own_budget_and_up_to_it(norm, eps, method):
    data = make_images(60, 3)
    policy = Fixed(budgets={k: eps * scale for k, scale in RADII.items()})
    _, history, seen = train(method, policy, lr=0.05, data=data, norm=norm, eps=eps, max_iter=10, fit={"nb_epochs": 1})
    largest = dict.fromkeys(RADII, 0.0)
    for x, y, x_adv, budgets in seen.training:
        torch.testing.assert_close(budgets.radii, torch.tensor([RADII[k] for k in y.tolist()]))
        for view in x_adv.chunk(2) if method is BAT else [x_adv]:
            sizes = torch.linalg.vector_norm((view - x).flatten(1), ord=norm, dim=1)
            assert ((view >= 0) & (view <= 1)).all()
            for k, size in zip(y.tolist(), sizes.tolist(), strict=True):
                assert size <= eps * RADII[k] * (1 + 1e-5)
                largest[k] = max(largest[k], size)
    if method is not BAT:  # whose iterates stop at the boundary
        for k, size in largest.items():
            assert size == pytest.approx(eps * RADII[k], rel=1e-3)
    assert [history.loc[0, f"eps_{k}"] for k in range(C)] == pytest.approx(list(RADII.values()))


def test_validation_is_under_the_trainers_own_budget():
    _, _, seen = train(STANDARD, Fixed(budgets=dict.fromkeys(range(C), EPS / 3)), max_iter=10)
    assert all(budgets is None for *_, budgets in seen.validation)
    assert max((x_adv - x).abs().max() for x, _, x_adv, _ in seen.validation) == pytest.approx(EPS, rel=1e-4)


def test_budgets_that_reach_zero_stop_the_training_with_the_epochs_weights():
    classifier = make_classifier()
    ends = []

    class Watch:
        def step(self):
            ends.append(state(classifier))

    trainer = TRADES(classifier, class_policy=DAFA(lamb=100.0, warmup=2), **SMALL)
    with pytest.raises(
        InputError, match=r"DAFA sets the class budget of class \d to -?\d.* for epoch 3, .* after epoch"
    ):
        trainer.fit(*TRAIN, batch_size=BATCH, nb_epochs=4, scheduler=Watch())
    assert len(ends) == 2
    for key, value in classifier.model.state_dict().items():
        assert torch.equal(value, ends[1][key])


def test_a_budget_beyond_the_range_of_images_is_refused():
    trainer = STANDARD(
        make_classifier(), class_policy=CFA(lambda1=9.0, begin_after=1, fawa=False), **{**SMALL, "norm": 2, "eps": 0.6}
    )
    with pytest.raises(InputError, match=r"CFA sets the class budget of class \d to \d.* above 0 and at most at 4:"):
        trainer.fit(*TRAIN, batch_size=BATCH, nb_epochs=2)


@pytest.mark.parametrize("policy", [CFA(fawa_start=1), FRL(), WAT()], ids=["CFA", "FRL", "WAT"])
def test_policies_that_need_validation_ask_for_it(policy):
    trainer = STANDARD(make_classifier(), class_policy=policy, **SMALL)
    with pytest.raises(
        InputError, match=f"{type(policy).__name__} needs the class accuracies .* give `validation_data`"
    ):
        trainer.fit(*TRAIN, nb_epochs=20)


# FAWA.


class Schedule(torch.optim.lr_scheduler.StepLR):
    """A schedule that notes the weights after each epoch, and can stop a training.

    What it needs for that is the class's: an object's attributes are part of a recipe.
    """

    watched: nn.Module
    ends: list
    stop_after: int | None = None

    def step(self, *args):
        super().step(*args)
        if self.last_epoch:
            self.ends.append({key: value.clone() for key, value in self.watched.state_dict().items()})
        if self.last_epoch == self.stop_after:
            raise KeyboardInterrupt


def fit_scheduled(method, policy, folder=None, *, nb_epochs=6, keep="last", resume=False, stop_after=None, **options):
    classifier = make_classifier(lr=0.6)
    trainer = method(classifier, class_policy=policy, **SMALL, **options)
    Schedule.watched, Schedule.ends, Schedule.stop_after = classifier.model, [], stop_after
    fit = {"batch_size": BATCH, "nb_epochs": nb_epochs, "validation_data": EASY[1], "keep": keep}
    fit |= {"scheduler": Schedule(classifier.optimizer, 1, 1.0), "checkpoint_dir": folder, "resume": resume}
    history = None
    if stop_after is None:
        history = trainer.fit(*EASY[0], **fit)
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(*EASY[0], **fit)
    return classifier, history, Schedule.ends


def fawa(threshold, start=0, decay=0.6):
    return CFA(ccm=False, ccr=False, decay=decay, fawa_start=start, threshold=threshold)


@pytest.fixture(scope="module")
def unaveraged():
    """The worst validation class's robust accuracy after each epoch, and the weights then, of plain training."""
    _, history, ends = fit_scheduled(STANDARD, None)
    return history["val_worst"].tolist(), ends


def literal_fawa(worst, ends, threshold, start, decay):
    """Whether epochs are taken in, and the average after each of them; None before the first."""
    average, taken, averages = None, [], []
    for epoch, (w, now) in enumerate(zip(worst, ends, strict=True)):
        taken.append(epoch >= start and w >= threshold)
        if taken[-1]:
            average = now if average is None else {k: decay * average[k] + (1 - decay) * now[k] for k in now}
        averages.append(average)
    return taken, averages


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("decay", [0.0, 0.6])
def test_fawa_averages_the_epochs_that_are_fair_enough(unaveraged, start, decay):
    worst, ends = unaveraged
    threshold = next(w for w, after in pairwise(worst) if w > after)  # which an epoch misses after one that reached it
    taken, averages = literal_fawa(worst, ends, threshold, start, decay)
    assert sum(taken) > 1
    assert start or (True, False) in pairwise(taken)
    classifier, history, own = fit_scheduled(STANDARD, fawa(threshold, start, decay))
    for a, b in zip(own, ends, strict=True):  # the average doesn't act on the training
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert history["averaged"].tolist() == [float(t) for t in taken]
    for key, value in classifier.model.state_dict().items():
        torch.testing.assert_close(value, averages[-1][key], rtol=1e-5, atol=1e-6)
    probe = make_classifier()
    for (_, row), average, w in zip(history.iterrows(), averages, worst, strict=True):
        if average is None:
            assert row["val_worst"] == w
        else:
            probe.model.load_state_dict(average)
            assert row["val_clean"] == np.mean(probe.predict(EASY[1][0]).argmax(1) == EASY[1][1])


def test_fawa_that_finds_no_epoch_fair_leaves_the_models_own_weights(unaveraged):
    worst, ends = unaveraged
    classifier, history, _ = fit_scheduled(STANDARD, fawa(worst[0] + 0.01), nb_epochs=1)
    assert history["averaged"].tolist() == [0]
    assert history["val_worst"].tolist() == worst[:1]
    for key, value in classifier.model.state_dict().items():
        assert torch.equal(value, ends[0][key])


@pytest.mark.parametrize("keep", ["robust", "robust+worst"])
def test_what_is_kept_is_the_average_of_the_best_epoch(unaveraged, keep):
    worst, ends = unaveraged
    classifier, history, _ = fit_scheduled(STANDARD, fawa(0.0, 2), keep=keep)
    score = history["val_robust"] + (history["val_worst"] if keep == "robust+worst" else 0)
    kept = history.attrs["kept_epoch"]
    assert kept == int(score.idxmax()) + 1
    _, averages = literal_fawa(worst, ends, 0.0, 2, 0.6)
    expected = ends[kept - 1] if averages[kept - 1] is None else averages[kept - 1]
    for key, value in classifier.model.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6)


# Interruption.


def assert_same(first, second):
    """To the bit."""
    (one, history, _), (two, other, _) = first, second
    pd.testing.assert_frame_equal(*(h.drop(columns="images_per_second") for h in (history, other)), check_exact=True)
    assert history.attrs == other.attrs
    for key, value in one.model.state_dict().items():
        assert torch.equal(value, two.model.state_dict()[key]), key


RESUMED = {name: make for name, (make, _) in POLICIES.items()} | {
    "FAWA": lambda: CFA(begin_after=2, decay=0.6, fawa_start=1, threshold=0.0),
    "FAAL exact": lambda: FAAL(radius=0.3, exact=True),
    "FRL normalized": lambda: FRL(alpha1=0.2, alpha2=0.3, tolerance=0.02, limit=0.3, normalize=True),
}


@pytest.mark.parametrize(("name", "keep"), [*((name, "robust+worst") for name in RESUMED), ("FAWA", "last")])
def test_an_interrupted_training_goes_on_to_the_same_bits(name, keep, tmp_path):
    make, options = RESUMED[name], {"awp_gamma": 0.01, "nb_epochs": 5}
    whole = fit_scheduled(TRADES, make(), tmp_path / "whole", keep=keep, **options)
    for stop_after in (2, 4):
        folder = tmp_path / str(stop_after)
        fit_scheduled(TRADES, make(), folder, keep=keep, stop_after=stop_after, **options)
        resumed = fit_scheduled(TRADES, make(), folder, keep=keep, resume=True, **options)
        assert_same(whole, resumed)


def test_another_policy_is_another_recipe(tmp_path):
    fit_scheduled(TRADES, DAFA(warmup=2), tmp_path, stop_after=1)
    with pytest.raises(InputError, match="class_policy"):
        fit_scheduled(TRADES, DAFA(lamb=1.5, warmup=2), tmp_path, resume=True)
    with pytest.raises(InputError, match="class_policy"):
        fit_scheduled(TRADES, None, tmp_path, resume=True)


def test_a_policys_parameters_may_be_numpys_numbers(tmp_path):
    policy = DAFA(lamb=np.float32(1.5), warmup=np.int64(2))
    fit_scheduled(TRADES, policy, tmp_path, stop_after=1)
    fit_scheduled(TRADES, DAFA(1.5, 2), tmp_path, resume=True)


# Excluded classes, unlabelled data.


@pytest.mark.parametrize("name", POLICIES)
def test_policies_train_without_excluded_classes(name):
    classifier = make_classifier()
    data = make_images(60, 3)
    trainer = acw.AdversarialTrainerClassExcludedPyTorch(
        classifier, [2], "trades", class_policy=POLICIES[name][0](), **SMALL
    )
    with pytest.warns(UserWarning, match="validation examples are of the excluded classes"):
        history = trainer.fit(*data, batch_size=BATCH, nb_epochs=4, validation_data=make_images(40, 4))
    assert np.isfinite(history["loss"]).all()
    shown = history[[c for c in history if c.startswith(("weight_", "beta_", "eps_"))]]
    assert np.isfinite(shown).all(axis=None)
    assert history["robust_2"].isna().all()
    if name not in ("Fixed", "WAT", "FRL", "CFA"):  # a class that isn't there shifts nothing
        assert (history["weight_2"] == 1).all()
    if name == "CFA":
        assert (history["eps_2"] == 1).all()
    assert 2 not in classifier.predict(data[0]).argmax(1)


@pytest.mark.parametrize("name", POLICIES)
def test_pseudo_labels_are_weighted_and_budgeted_but_policies_learn_from_true_ones_alone(name, monkeypatch):
    """With rate 0: what a policy sets depends on the labelled half alone; the loss on both."""
    policy = POLICIES[name][0]()
    unlabeled, pseudo = make_images(60, 9)
    asked, real = [], type(policy).weigh

    def weigh(self, y, logits_adv):
        weights = real(self, y, logits_adv)
        asked.append((y.clone(), [None if w is None else w.tolist() for w in weights]))
        return weights

    monkeypatch.setattr(type(policy), "weigh", weigh)
    fit = {"x_unlabeled": unlabeled, "y_pseudo": pseudo, "gamma": 0.3, "batch_size": 2 * BATCH}
    _, history, seen = train(TRADES, policy, lr=0.0, fit=fit)
    assert sorted(k for y, _ in asked[:5] for k in y.tolist()) == sorted(TRAIN[1].tolist())
    model, total = network().double(), []
    for (labels, (first, second)), (x, y, x_adv, budgets) in zip(asked, seen.training, strict=True):
        assert len(y) == 2 * BATCH
        assert torch.equal(y[:BATCH], labels)
        if budgets is not None:
            assert len(budgets.radii) == 2 * BATCH
        terms = literal_terms(TRADES, model(x.double()).softmax(1), model(x_adv.double()).softmax(1), y)
        for i, k in enumerate(y.tolist()):
            factors = (1 if first is None else first[k], 6 * (1 if second is None else second[k]))
            value = factors[0] * terms[0][i] + factors[1] * terms[1][i]
            total.append((1 if i < BATCH else 0.3) * float(value.detach()))
    by_epoch = np.reshape(total, (3, -1)).mean(1)
    np.testing.assert_allclose(history["loss"], by_epoch, rtol=1e-4)


# Two processes.


TOGETHER = ("FAAL", "FAAL exact", "CFOL", "DAFA", "FAWA", "WAT", "FRL normalized")


def methods(folder):
    """What a process ended with, by policy."""
    results = {}
    for name in TOGETHER:
        classifier = make_classifier()
        # In L2 a step is a continuous function of the gradient: rounding stays rounding.
        options = SMALL | {"norm": 2, "eps": 4 * EPS, "passes": "cac|c" if name == "FAWA" else None}
        trainer = TRADES(classifier, class_policy=RESUMED[name](), **options)
        fit = {"batch_size": 13, "nb_epochs": 4, "validation_data": VALIDATION}
        history = trainer.fit(*TRAIN, **fit, checkpoint_dir=folder / name)
        weights = {key: value.numpy().copy() for key, value in classifier.model.state_dict().items()}
        results[name] = history.drop(columns="images_per_second").to_dict("list"), weights
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What one process ended with, and what each of two did."""
    return alone_and_together(__file__, "methods", tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", TOGETHER)
def test_two_processes_set_the_weights_of_one(ranks, name):
    (one,), (two, other) = ranks
    history, weights = two[name]
    pd.testing.assert_frame_equal(*(pd.DataFrame(result[name][0]) for result in (two, other)), check_exact=True)
    for key, value in weights.items():
        np.testing.assert_array_equal(value, other[name][1][key])
    expected, expected_weights = one[name]
    assert list(history) == list(expected)
    near = (
        5e-3 if name.startswith("FAAL") else 1e-4
    )  # its weights are steep functions of margins that are close to each other
    for column in history:
        tolerance = near if column == "loss" or column.startswith(("weight_", "beta_", "eps_")) else 0.1  # an example
        np.testing.assert_allclose(history[column], expected[column], rtol=0, atol=tolerance, err_msg=column)
    for key, value in weights.items():
        np.testing.assert_allclose(value, expected_weights[key], rtol=0, atol=near, err_msg=key)
    moved = [c for c in history if c.startswith(("weight_", "eps_")) and any(a != b for a, b in pairwise(history[c]))]
    assert moved
