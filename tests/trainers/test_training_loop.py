"""The steps of training against their formulas, written out again here: objectives, averages, perturbed weights."""

from __future__ import annotations

import copy
import shutil
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import trainable
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from trainable import MART, SMALL, STANDARD, TRADES, TRAINERS, Convolutional

import art_classwise as acw
from art_classwise._core.state import evaluating
from art_classwise.attacks import fast_copy
from art_classwise.trainers.engine import adversary


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)


make = partial(trainable.make, optimizer=sgd)


def state(network):
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def assert_equal(got, expected, **tolerance):
    assert list(got) == list(expected)
    for name in got:
        torch.testing.assert_close(got[name], expected[name], **(tolerance or {"rtol": 0, "atol": 0}), msg=name)


@pytest.fixture(scope="module")
def train_set():
    return acw.load_dataset("digits", "train").first(160)


class Seen:
    """What a trainer's attacks were given and gave, in training and in validation."""

    def __init__(self, trainer):
        self.training, self.validation = [], []
        real = trainer._adversary

        def watched(**options):
            adversary, seen = real(**options), self.training if options else self.validation

            def attack(module, x, y, uniform, budgets=None):
                with torch.no_grad(), evaluating(module):
                    right = module(x).argmax(1) == y
                x_adv = adversary(module, x, y, uniform, budgets)
                seen.append((x.clone(), y, x_adv.clone(), right))
                return x_adv

            return attack

        trainer._adversary = watched


def trained(trainer_class, data, epochs=1, batch_size=40, module=Convolutional, optimizer=sgd, fit=None, **options):
    """Train, and return the classifier, what its attacks saw, and the history."""
    classifier = make(module, optimizer=optimizer)
    trainer = trainer_class(classifier, **{**SMALL, **options})
    seen = Seen(trainer)
    history = trainer.fit(data.x, data.y, batch_size=batch_size, nb_epochs=epochs, **(fit or {}))
    return classifier, seen, history


def literal_loss(method, z, z_adv, y, *, s=0.0, beta=None, boosted=True, on="adv", kl=True, weighted=True, exact=False):
    """The formulas, as they stand, in double precision."""
    rows = torch.arange(len(y))
    p, q = (None if v is None else v.double().softmax(1) for v in (z, z_adv))

    def cross_entropy(probabilities):
        return (1 - s) * -torch.log(probabilities[rows, y]) + s * -torch.log(probabilities).mean(1)

    if method is STANDARD:
        return cross_entropy(q).mean()
    if method is TRADES:
        return (cross_entropy(p) + (6.0 if beta is None else beta) * (p * torch.log(p / q)).sum(1)).mean()
    first_on = p if on == "clean" else q
    loss = cross_entropy(first_on)
    if boosted:
        others = first_on.clone()
        others[rows, y] = 0
        loss = loss - torch.log((1.0001 + 1e-12 if exact else 1) - others.max(1).values)
    if kl:
        divergence = (p * (torch.log(p) - torch.log(q + (1e-12 if exact else 0)))).sum(1)
        weight = (1.0000001 if exact else 1) - p[rows, y] if weighted else 1
        loss = loss + (5.0 if beta is None else beta) * divergence * weight
    return loss.mean()


def literal_training(method, seen, *, optimizer=sgd, passes="one", clip=None, gamma=0.0, warm_steps=0, **switches):
    """Train a network of the same beginning on the same adversarial inputs, step by step."""
    torch.manual_seed(0)
    network = Convolutional().train()
    stepper = optimizer(network.parameters())

    def backward(x, y, x_adv):
        stepper.zero_grad()
        if passes == "adversarial":
            z, z_adv = None, network(x_adv)
        elif passes == "two":
            z = network(x)
            z_adv = network(x_adv)
        else:
            z, z_adv = network(torch.cat([x, x_adv])).split(len(x))
        literal_loss(method, z, z_adv, y, **switches).backward()

    for number, (x, y, x_adv, _) in enumerate(seen):
        if gamma and number >= warm_steps:
            before = state(network)
            backward(x, y, x_adv)
            moved = {
                name: p + gamma * p.norm() * p.grad / p.grad.norm()
                for name, p in network.named_parameters()
                if p.dim() > 1
            }
            network.load_state_dict({**before, **moved})
            backward(x, y, x_adv)
            network.load_state_dict({n: before[n] if n in moved else v for n, v in network.state_dict().items()})
        else:
            backward(x, y, x_adv)
        if clip is not None:
            length = sum((p.grad**2).sum() for p in network.parameters()).sqrt()
            for p in network.parameters():
                p.grad *= min(1.0, clip / float(length))
        stepper.step()
    return state(network)


OBJECTIVES = {
    "standard": (STANDARD, {}, {"passes": "adversarial"}),
    "standard, smoothed": (STANDARD, {"label_smoothing": 0.2}, {"passes": "adversarial", "s": 0.2}),
    "TRADES": (TRADES, {}, {}),
    "TRADES, smoothed": (TRADES, {"beta": 2.0, "label_smoothing": 0.2}, {"beta": 2.0, "s": 0.2}),
    "MART": (MART, {}, {}),
    "MART, smoothed": (MART, {"beta": 2.0, "label_smoothing": 0.2}, {"beta": 2.0, "s": 0.2}),
    "MART, exact": (MART, {"exact": True}, {"passes": "two", "exact": True}),
    "MART, CE": (MART, {"boosted": False}, {"boosted": False}),
    "MART, on clean": (MART, {"on": "clean"}, {"on": "clean"}),
    "MART, on clean, no KL": (MART, {"on": "clean", "kl": False}, {"on": "clean", "kl": False}),
    "MART, no KL": (MART, {"kl": False}, {"kl": False, "passes": "adversarial"}),
    "MART, unweighted": (MART, {"weighted": False}, {"weighted": False}),
    "MART, correct ones": (MART, {"attacked": "correct"}, {}),
    "MART, misclassified ones": (MART, {"attacked": "misclassified"}, {}),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_steps_are_those_of_the_formula(name, train_set):
    """Three of them, so that momentum counts; batch norm's statistics are compared too."""
    method, options, literal = OBJECTIVES[name]
    classifier, seen, _ = trained(method, train_set.first(120), **options)
    assert len(seen.training) == 3
    for x, _, x_adv, right in seen.training:
        changed = (x_adv != x).flatten(1).any(1)
        attacked = {"correct": right, "misclassified": ~right}.get(options.get("attacked"), right | True)
        assert torch.equal(changed, attacked)
        assert (x_adv - x)[attacked].abs().mean() > 0.01
    assert any(right.any() and not right.all() for *_, right in seen.training)
    expected = literal_training(method, seen.training, **literal)
    assert_equal(state(classifier.model), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [TRADES, MART])
def test_the_inner_search_ascends_what_the_papers_say(method, train_set, monkeypatch):
    """TRADES: KL from the clean prediction; MART: cross-entropy. From x + 0.001 N(0, 1), in eval mode."""
    real, checked = adversary.search, []

    def spy(module, x, compared, *arguments, start, **options):
        x_adv, y = start.clamp(x - 0.05, x + 0.05).clamp(0, 1), labels[0]
        model = copy.deepcopy(module).eval()
        p = model(x).softmax(1).detach()
        for _ in range(3):
            x_adv = x_adv.detach().requires_grad_()
            q = model(x_adv).softmax(1)
            risen = (p * (p / q).log()).sum() if method is TRADES else -q[torch.arange(len(y)), y].log().sum()
            (gradient,) = torch.autograd.grad(risen, x_adv)
            x_adv = (x_adv + 0.02 * gradient.sign()).clamp(x - 0.05, x + 0.05).clamp(0, 1).detach()
        result = real(module, x, compared, *arguments, start=start, **options)
        checked.append(torch.isclose(result.x_adv, x_adv, atol=1e-6).float().mean())
        return result

    def network():
        return nn.Sequential(Convolutional(), nn.Dropout(0.5))

    labels = [torch.from_numpy(train_set.y)]
    monkeypatch.setattr(adversary, "search", spy)
    classifier = make(network)
    trainer = method(classifier, eps=0.05, eps_step=0.02, max_iter=3, verbose=False)
    objective = trainer._adversary

    def with_labels(**options):
        adversary = objective(**options)
        return lambda module, x, y, *rest: (labels.__setitem__(0, y), adversary(module, x, y, *rest))[1]

    trainer._adversary = with_labels
    trainer.fit(train_set.x, train_set.y, batch_size=80, nb_epochs=2)
    assert len(checked) == 4
    assert min(checked) > 0.995  # signs of gradients that are almost zero may differ


@pytest.mark.parametrize("method", [STANDARD, TRADES, MART])  # those that literal_training writes out
@pytest.mark.parametrize("warmup", [0, 1])
def test_weights_are_perturbed_as_the_paper_says(method, warmup, train_set):
    classifier, seen, _ = trained(method, train_set, 2, 80, awp_gamma=0.02, awp_warmup=warmup)
    assert int(classifier.model.norm.num_batches_tracked) == 4  # each batch is seen once
    passes = "adversarial" if method is STANDARD else "one"
    literal = {"passes": passes, "warm_steps": 2 * warmup}
    expected = literal_training(method, seen.training, gamma=0.02, **literal)
    assert_equal(state(classifier.model), expected, rtol=1e-4, atol=1e-5)
    unperturbed = literal_training(method, seen.training, passes=passes)
    assert (unperturbed["head.weight"] - expected["head.weight"]).abs().max() > 1e-3


def test_perturbed_weights_are_put_back_to_the_bit(train_set):
    classifier = make(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    before = copy.deepcopy(list(classifier.model.parameters()))
    MART(classifier, awp_gamma=0.3, **SMALL).fit(train_set.x, train_set.y, nb_epochs=1, batch_size=40)
    for p, q in zip(classifier.model.parameters(), before, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("clip", [0.05, 1e6])
def test_gradients_are_clipped_by_the_norm_of_all_weights(clip, train_set):
    classifier, seen, _ = trained(STANDARD, train_set, gradient_clip=clip)
    expected = literal_training(STANDARD, seen.training, passes="adversarial", clip=clip)
    assert_equal(state(classifier.model), expected, rtol=1e-4, atol=1e-5)


OPTIMIZERS = {  # a large eps: where gradients are zero but for rounding, they'd divide noise by noise
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2, eps=1e-3),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, eps=1e-3),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, eps=1e-3),
    "two groups": lambda p: (lambda q: torch.optim.SGD([{"params": q[:2]}, {"params": q[2:], "lr": 0.01}], lr=0.1))(
        [*p]
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_trains(name, train_set):
    classifier, seen, _ = trained(TRADES, train_set, optimizer=OPTIMIZERS[name])
    expected = literal_training(TRADES, seen.training, optimizer=OPTIMIZERS[name])
    assert_equal(state(classifier.model), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{"gradient_clip": 0.05}, {"awp_gamma": 0.1}])
def test_weights_the_optimizer_does_not_hold_are_as_frozen_ones(options, train_set):
    """Their gradients, which no step clears, must not grow into the clipped norm."""
    ends = []
    for frozen in (False, True):
        torch.manual_seed(0)
        network = Convolutional()
        network.features.requires_grad_(not frozen)
        held = [*network.norm.parameters(), *network.head.parameters()]
        classifier = acw.as_classifier(network, (1, 8, 8), 10, optimizer=sgd(held), device="cpu")
        STANDARD(classifier, **SMALL, **options).fit(train_set.x, train_set.y, nb_epochs=2, batch_size=40)
        ends.append(state(network))
    assert_equal(*ends)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_the_average_is_what_is_validated_and_kept(decay, train_set, digits):
    """The warm-up: in step t the decay is at most (1 + t) / (10 + t); the first step replaces what was there."""
    validation = digits.first(60)
    runs = {}
    for option in (None, decay):
        classifier = make()
        states = []
        classifier.optimizer.register_step_post_hook(lambda *_, c=classifier, s=states: s.append(state(c.model)))
        trainer = MART(classifier, ema_decay=option, **SMALL)
        seen = Seen(trainer)
        history = trainer.fit(train_set.x, train_set.y, (validation.x, validation.y), batch_size=40, nb_epochs=3)
        runs[option] = (classifier, states, history, seen)
    classifier, states, history, seen = runs[decay]
    for with_, without in zip(states, runs[None][1], strict=True):  # what is trained doesn't know of the average
        assert_equal(with_, without)
    average = {name: value.double() for name, value in states[0].items()}
    for t, now in enumerate(states[1:], start=1):
        keep = min(decay, (1 + t) / (10 + t))
        for name, value in now.items():
            average[name] = keep * average[name] + (1 - keep) * value if value.is_floating_point() else value
    end = state(classifier.model)
    assert_equal(end, {n: v.to(end[n].dtype) for n, v in average.items()}, rtol=1e-5, atol=1e-6)
    check_validation(classifier, history, seen, validation)
    assert int(classifier.model.norm.num_batches_tracked) == 12


def check_validation(classifier, history, seen, validation):
    """Count again, with the weights that the classifier ended with, on what the last epoch's validation saw."""
    batches = seen.validation[-(len(seen.validation) // len(history)) :]
    with evaluating(classifier.model), torch.no_grad():
        right, withstood = (
            torch.cat([(classifier.model(b[i]).argmax(1) == b[1]) for b in batches]).numpy() for i in (0, 2)
        )
    withstood &= right
    assert np.array_equal(torch.cat([b[1] for b in batches]).numpy(), validation.y)
    assert np.abs(torch.cat([b[2] - b[0] for b in batches]).numpy()).max() <= 0.05 + 1e-6
    row = history.iloc[-1]
    assert row["val_clean"] == pytest.approx(right.mean())
    assert row["val_robust"] == pytest.approx(withstood.mean())
    by_class = {k: withstood[validation.y == k].mean() for k in np.unique(validation.y)}
    for k in range(10):
        assert row[f"val_robust_{k}"] == pytest.approx(by_class.get(k, np.nan), nan_ok=True)
        clean = right[validation.y == k]
        assert row[f"val_clean_{k}"] == pytest.approx(clean.mean() if len(clean) else np.nan, nan_ok=True)
    assert row["val_worst"] == pytest.approx(min(by_class.values()))


def test_bf16_computes_the_step_in_bf16_and_keeps_float32_weights(train_set):
    types = set()

    class Watched(Convolutional):
        def forward(self, x):
            x = self.features(x)
            types.add((self.training, x.dtype))
            return self.head(self.norm(x).relu().flatten(1))

    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        types.clear()
        classifier, _, history = trained(MART, train_set, 6, module=Watched, precision=precision)
        assert (True, dtype) in types
        assert {p.dtype for p in classifier.model.parameters()} == {torch.float32}
        assert {p.dtype for s in classifier.optimizer.state.values() for p in s.values()} == {torch.float32}
        assert history["loss"].iloc[-1] < 0.8 * history["loss"].iloc[0]
        assert history["robust"].iloc[-1] > 0.6


def test_a_copy_for_searching_follows_the_training(train_set, monkeypatch):
    """The attack works on a copy with folded batch norms, made once: each step must bring it the new weights."""
    _, on_network, plain = trained(MART, train_set, 3)
    monkeypatch.setattr(fast_copy, "_LARGE", 0)
    _, on_copy, history = trained(MART, train_set, 3, precision="fp32")
    for a, b in zip(on_network.training, on_copy.training, strict=True):
        assert torch.isclose(a[2], b[2], atol=1e-5).float().mean() > 0.97
    assert history["loss"].tolist() == pytest.approx(plain["loss"].tolist(), rel=0.02)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_large_networks_train_channels_last_and_are_put_back(layout, train_set):
    layouts = []

    class Large(nn.Sequential):
        def __init__(self):
            head = [nn.Flatten(), nn.Linear(256, 4000), nn.ReLU(), nn.Linear(4000, 10)]
            super().__init__(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), *head)
            self.to(memory_format=layout)

        def forward(self, x):
            if self.training:
                layouts.append(self[2].weight.is_contiguous(memory_format=torch.channels_last))
            return super().forward(x)

    classifier, _, _ = trained(STANDARD, train_set.first(40), module=Large, precision="fp32", max_iter=1, ema_decay=0.9)
    assert layouts == ([True, True] if layout == torch.contiguous_format else [True])  # tried, if it is changed
    assert classifier.model[2].weight.is_contiguous(memory_format=layout)
    assert not classifier.model[2].weight.is_contiguous() or layout == torch.contiguous_format


@pytest.mark.parametrize("how", [True, "reduce-overhead"])
def test_both_attack_and_step_are_compiled(how, train_set, monkeypatch):
    compile_, compiled = torch.compile, []

    def compile_for_tests(network, mode=None, **options):
        compiled.append((network, mode))
        return compile_(network, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", compile_for_tests)
    ours, seen, _ = trained(STANDARD, train_set, compile=how)
    assert [mode for _, mode in compiled] == [None if how is True else how] * 2
    assert any(getattr(network, "model", None) is ours.model for network, _ in compiled)
    assert_equal(
        state(ours.model), literal_training(STANDARD, seen.training, passes="adversarial"), rtol=1e-4, atol=1e-5
    )


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU with a C++ compiler")
def test_compiled_training_is_training(train_set):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        classifier, seen, _ = trained(STANDARD, train_set.first(80), compile=True)
    assert len(seen.training) == 2
    expected = literal_training(STANDARD, seen.training, passes="adversarial")
    assert_equal(state(classifier.model), expected, rtol=1e-3, atol=1e-4)


class Reads(TorchDispatchMode):
    """Counts where the host reads what tensors hold."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        words = ("_local_scalar_dense", "nonzero", "aten.equal", "masked_select", "unique")
        self.n += any(word in str(function) for word in words)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", TRAINERS)
def test_no_step_waits_for_what_it_computes(method, train_set, monkeypatch):
    """The loss is looked at every 50 batches only: else a GPU would idle at each step."""
    for module in ("attacks._iterates", "threat"):
        monkeypatch.setattr(f"art_classwise.{module}.is_asked_freely", lambda device: False)  # as if it were one
    counts = []
    for n_batches in (5, 45, 55):
        options = {"awp_gamma": 0.01, "gradient_clip": 1.0, "flip": True, "crop_padding": 1, "max_iter": 1}
        trainer = method(make(linear), **{**SMALL, **options})
        with Reads() as reads:
            trainer.fit(train_set.x[: 2 * n_batches], train_set.y[: 2 * n_batches], batch_size=2, nb_epochs=1)
        counts.append(reads.n)
    assert counts[0] == counts[1]
    assert counts[2] == counts[1] + 1


def test_a_network_that_draws_in_proportion_to_the_image_goes_on_drawing(train_set, monkeypatch):
    """On black images no draw shows: a copy that froze one would pass for the network."""

    class Noisy(Convolutional):
        def forward(self, x):
            return super().forward(x * (1 + torch.randn(1, 1, 8, 8)))

    monkeypatch.setattr(fast_copy, "_LARGE", 0)
    differences = []
    trainer = STANDARD(make(Noisy), precision="fp32", **SMALL)

    def attack(module, x, y, uniform, budgets=None):
        with torch.no_grad():
            differences.append((module(x) - module(x)).abs().max())
        return x

    trainer._adversary = lambda **_: attack
    trainer.fit(train_set.x, train_set.y, nb_epochs=1)
    assert min(differences) > 0.01
