from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest
import torch
from art.data_generators import NumpyDataGenerator
from art.defences.trainer import Trainer
from art.estimators.classification import BlackBoxClassifier
from torch import nn
from torch.nn import functional

import art_classwise as acw
from art_classwise import InputError
from art_classwise._state import evaluating

TRAINERS = [acw.AdversarialTrainerStandardPyTorch, acw.AdversarialTrainerMARTPyTorch]
SMALL = {"eps": 0.05, "max_iter": 2, "verbose": False}


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(1, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 36, 10)

    def forward(self, x):
        return self.head(self.norm(self.features(x)).relu().flatten(1))


def sequential():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))


def make(module=Convolutional, lr=0.1):
    torch.manual_seed(0)
    network = module()
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    return acw.as_classifier(network, (1, 8, 8), 10, optimizer=optimizer, device="cpu")


def weights(classifier):
    return torch.cat([p.detach().flatten() for p in classifier.model.state_dict().values()])


@pytest.fixture(scope="module")
def train_set():
    return acw.load_dataset("digits", "train").first(400)


@pytest.mark.parametrize("module", [Convolutional, sequential])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_fit_raises_clean_and_robust_accuracy(trainer, module, train_set, digits):
    classifier = make(module, lr=0.05)
    validation = digits.first(200)
    history = trainer(classifier, **SMALL).fit(
        train_set.x, train_set.y, validation_data=(validation.x, validation.y), batch_size=64, nb_epochs=8
    )
    assert history["epoch"].tolist() == list(range(1, 9))
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert history["robust"].iloc[-1] > 0.6
    assert history["val_clean"].iloc[-1] > 0.8
    assert history["val_robust"].iloc[-1] > 0.5
    by_class = history[[f"val_robust_{k}" for k in range(10)]].iloc[-1]
    assert by_class.min() == history["val_worst"].iloc[-1]
    assert history["val_worst"].iloc[-1] <= history["val_robust"].iloc[-1] <= by_class.max()


@pytest.mark.parametrize("trainer", TRAINERS)
def test_fit_generator_raises_accuracy(trainer, train_set, digits):
    classifier = make()
    np.random.seed(0)
    one_hot = np.eye(10, dtype=np.float32)[train_set.y]
    generator = NumpyDataGenerator(train_set.x, one_hot, batch_size=64, drop_remainder=False, shuffle=True)
    history = trainer(classifier, **SMALL).fit_generator(generator, nb_epochs=5)
    assert len(history) == 5
    assert history["robust"].iloc[-1] > 0.6
    with evaluating(classifier.model):
        assert (classifier.predict(digits.x).argmax(1) == digits.y).mean() > 0.8


@pytest.mark.parametrize("trainer", TRAINERS)
def test_same_seed_same_bits_and_one_hot_labels_change_nothing(trainer, train_set):
    results, states = [], (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())
    for y in (train_set.y, train_set.y, np.eye(10)[train_set.y]):
        classifier = make(sequential)
        torch.set_rng_state(states[2])
        history = trainer(classifier, **SMALL).fit(train_set.x, y, nb_epochs=2)
        results.append((weights(classifier), history["loss"].tolist()))
        # Dropout and the starts drew from a state of their own.
        assert torch.equal(torch.get_rng_state(), states[2])
        assert np.array_equal(np.random.get_state()[1], states[1])
        assert random.getstate() == states[0]
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][0], results[2][0])
    assert results[0][1] == results[1][1] == results[2][1]
    other = make(sequential)
    trainer(other, **SMALL, seed=1).fit(train_set.x, train_set.y, nb_epochs=2)
    assert not torch.equal(weights(other), results[0][0])


def literal_step(network, optimizer, x, y, x_adv, beta):
    """MART's step as its formula stands, in double precision but for the network."""
    network.train()
    optimizer.zero_grad()
    logits, logits_adv = network(x).double(), network(x_adv).double()
    p, p_adv = functional.softmax(logits, 1), functional.softmax(logits_adv, 1)
    rows = torch.arange(len(x))
    others = p_adv.clone()
    others[rows, y] = 0
    bce = -torch.log(p_adv[rows, y]) - torch.log(1 - others.max(1).values)
    divergence = (p * (torch.log(p) - torch.log(p_adv))).sum(1)
    (bce + beta * divergence * (1 - p[rows, y])).mean().backward()
    optimizer.step()


def test_one_step_of_mart_is_the_papers(train_set):
    ours, theirs = make(), make()
    x, y = train_set.x[:32], train_set.y[:32]
    trainer = acw.AdversarialTrainerMARTPyTorch(ours, beta=5.0, **SMALL)
    seen = []
    inner = trainer.inner

    class Spy:
        threat = inner.threat

        def __call__(self, *args):
            seen.append((args[1].clone(), args[2].clone(), inner(*args)))
            return seen[-1][2]

    trainer.inner = Spy()
    trainer.fit(x, y, batch_size=32, nb_epochs=1)
    assert len(seen) == 1
    assert (seen[0][2] - seen[0][0]).abs().mean() > 0.005  # the attack did move
    literal_step(theirs.model, theirs.optimizer, *seen[0], 5.0)
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-5, atol=1e-6)


def test_attack_runs_in_eval_mode_and_weights_train_in_train_mode(train_set):
    modes = []

    class Watch(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            modes.append((self.training, torch.is_grad_enabled() and x.requires_grad, self.head.weight.requires_grad))
            return self.head(x.flatten(1))

    classifier = make(Watch)
    modes.clear()
    acw.AdversarialTrainerMARTPyTorch(classifier, **SMALL).fit(train_set.x[:32], train_set.y[:32], nb_epochs=1)
    attack, step = (False, True, False), (True, False, True)
    assert modes == [attack, attack, step, step]


def test_batchnorm_and_dropout_train(train_set):
    """The step is made in train mode: running statistics move."""
    classifier = make()
    acw.AdversarialTrainerStandardPyTorch(classifier, **SMALL).fit(train_set.x[:64], train_set.y[:64], nb_epochs=1)
    assert int(classifier.model.norm.num_batches_tracked) == 1  # and not once per step of the attack
    assert not torch.equal(classifier.model.norm.running_mean, torch.zeros(8))


@pytest.mark.parametrize(("trainer", "largest"), [(TRAINERS[0], 0.05), (TRAINERS[1], 0.01)])
def test_the_attack_starts_where_the_papers_do(trainer, largest, train_set, monkeypatch):
    """Madry: uniform in the ball; MART's implementation: x + 0.001 N(0, 1)."""
    from art_classwise.trainers import _loop

    starts = []

    def spy(module, x, y, *arguments, start, **options):
        starts.append((start - x).abs())
        return real(module, x, y, *arguments, start=start, **options)

    real = _loop.search
    monkeypatch.setattr(_loop, "search", spy)
    trainer(make(), **SMALL).fit(train_set.x[:64], train_set.y[:64], nb_epochs=1)
    assert 0.8 * largest > starts[0].mean() > 0.05 * largest
    assert starts[0].max() <= largest


def test_each_epoch_has_an_order_of_its_own(train_set):
    from art_classwise.trainers._loop import shuffled

    x = torch.arange(50)
    orders = [
        torch.cat([b for b, _ in shuffled(x, x, 8, seed)(epoch)]).tolist() for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    ]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


def test_leaves_mode_flags_and_gradients(train_set):
    classifier = make()
    network = classifier.model
    network.eval()
    network.norm.train()
    network.features.bias.requires_grad_(False)
    frozen = network.features.bias.detach().clone()
    network.head.weight.grad = torch.ones_like(network.head.weight)
    modes = [m.training for m in network.modules()]
    acw.AdversarialTrainerStandardPyTorch(classifier, **SMALL).fit(train_set.x[:64], train_set.y[:64], nb_epochs=1)
    assert [m.training for m in network.modules()] == modes
    assert not network.features.bias.requires_grad
    assert torch.equal(network.features.bias, frozen)
    assert torch.equal(network.head.weight.grad, torch.ones_like(network.head.weight))
    assert network.norm.weight.grad is None


def test_validation_does_not_change_training(train_set, digits):
    results = []
    for validation in (None, (digits.x[:50], digits.y[:50])):
        classifier = make(sequential)
        acw.AdversarialTrainerMARTPyTorch(classifier, **SMALL).fit(
            train_set.x, train_set.y, nb_epochs=2, validation_data=validation
        )
        results.append(weights(classifier))
    assert torch.equal(results[0], results[1])


def test_class_absent_from_validation_is_nan(train_set, digits):
    some = digits.of_classes(["0", "1"])
    history = acw.AdversarialTrainerStandardPyTorch(make(), **SMALL).fit(
        train_set.x[:64], train_set.y[:64], nb_epochs=1, validation_data=(some.x, some.y)
    )
    assert history[[f"val_robust_{k}" for k in range(2, 10)]].isna().all(axis=None)
    assert history["val_worst"].notna().all()


class Counting:
    def __init__(self):
        self.steps = 0

    def step(self):
        self.steps += 1


def test_any_object_with_step_is_a_scheduler(train_set):
    counting, classifier = Counting(), make()
    trainer = acw.AdversarialTrainerStandardPyTorch(classifier, **SMALL)
    trainer.fit(train_set.x[:64], train_set.y[:64], nb_epochs=3, scheduler=counting)
    assert counting.steps == 3
    schedule = torch.optim.lr_scheduler.ExponentialLR(classifier.optimizer, 0.5)
    history = trainer.fit(train_set.x[:64], train_set.y[:64], nb_epochs=3, scheduler=schedule)
    assert history["learning_rate"].tolist() == pytest.approx([0.1, 0.05, 0.025])


def test_last_small_batch_single_example_and_one_class_are_fine(train_set):
    classifier = make(sequential)
    trainer = acw.AdversarialTrainerMARTPyTorch(classifier, **SMALL)
    assert np.isfinite(trainer.fit(train_set.x[:65], train_set.y[:65], batch_size=64, nb_epochs=1)["loss"]).all()
    assert np.isfinite(trainer.fit(train_set.x[:1], train_set.y[:1], nb_epochs=1)["loss"]).all()
    zeros = train_set.of_classes([0])
    assert np.isfinite(trainer.fit(zeros.x, zeros.y, nb_epochs=1)["loss"]).all()


def test_is_an_art_trainer(train_set):
    classifier = make()
    trainer = acw.AdversarialTrainerMARTPyTorch(classifier, **SMALL)
    assert isinstance(trainer, Trainer)
    assert trainer.get_classifier() is classifier
    classifier.model.train()
    assert trainer.predict(train_set.x[:5]).shape == (5, 10)
    assert classifier.model.training
    history = trainer.fit(train_set.x[:64], train_set.y[:64], nb_epochs=1)
    assert isinstance(history, pd.DataFrame)


def test_arts_standardisation_is_part_of_training(train_set):
    from art.estimators.classification import PyTorchClassifier

    plain, standardised = make(), make()
    standardised = PyTorchClassifier(
        standardised.model,
        nn.CrossEntropyLoss(),
        (1, 8, 8),
        10,
        optimizer=standardised.optimizer,
        clip_values=(0, 1),
        preprocessing=(0.5, 0.25),
        device_type="cpu",
    )
    for classifier in (plain, standardised):
        acw.AdversarialTrainerStandardPyTorch(classifier, **SMALL).fit(train_set.x, train_set.y, nb_epochs=3)
    assert (standardised.predict(train_set.x).argmax(1) == train_set.y).mean() > 0.8
    assert not torch.equal(weights(plain), weights(standardised))


def test_a_loss_that_is_not_finite_stops_and_names_the_epoch(train_set):
    classifier = make(lr=1e30)
    with pytest.raises(FloatingPointError, match="in epoch [12]: lower the learning rate"):
        acw.AdversarialTrainerStandardPyTorch(classifier, **SMALL).fit(train_set.x, train_set.y, nb_epochs=2)
    assert all(p.requires_grad for p in classifier.model.parameters())


@pytest.mark.parametrize("trainer", TRAINERS)
def test_bad_input_is_named(trainer, train_set):
    classifier = make()
    x, y = train_set.x[:8], train_set.y[:8]
    no_optimizer = acw.as_classifier(Convolutional(), (1, 8, 8), 10, device="cpu")
    blackbox = BlackBoxClassifier(lambda x: np.ones((len(x), 10)), (1, 8, 8), 10)
    fit, generator = trainer(classifier, **SMALL).fit, trainer(classifier, **SMALL).fit_generator
    for call, says in [
        (lambda: trainer(no_optimizer), "has no optimizer: make it with one"),
        (lambda: trainer(blackbox), "must be an ART PyTorchClassifier, but is a BlackBoxClassifier"),
        (lambda: trainer(classifier, eps=0), "above 0"),
        (lambda: trainer(classifier, norm=3), "`norm`"),
        (lambda: trainer(classifier, eps_step=-1), "`eps_step`"),
        (lambda: trainer(classifier, max_iter=0), "`max_iter`"),
        (lambda: trainer(classifier, seed=-1), "`seed`"),
        (lambda: fit(x, y[:3]), "8 examples, but 3 labels"),
        (lambda: fit(x, y + 10), "outside the 10 classes"),
        (lambda: fit(x[:0], y[:0]), "x is empty"),
        (lambda: fit(x * 255, y), r"clip_values \[0, 1\], but goes from 0 to 255"),
        (lambda: fit(x * np.nan, y), "must be finite"),
        (lambda: fit(x, y, batch_size=0), "`batch_size`"),
        (lambda: fit(x, y, nb_epochs=0), "`nb_epochs`"),
        (lambda: fit(x, y, scheduler=3), "an object with a method step"),
        (lambda: fit(x, y, scheduler=Counting), "an object with a method step"),
        (
            lambda: fit(x, y, scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau(classifier.optimizer)),
            "needs metrics",
        ),
        (lambda: fit(x, y, validation_data=(x,)), "must be a pair"),
        (lambda: fit(x.transpose(0, 2, 3, 1), y), r"images of shape \(1, 8, 8\), but x holds"),
        (lambda: generator([(x, y)]), "must be an ART DataGenerator that knows its size"),
        (lambda: generator(NumpyDataGenerator(x * 255, np.eye(10)[y], batch_size=8)), "but goes from 0 to 255"),
        (lambda: fit(x, y, epochs=3), "Unknown argument epochs"),
        (lambda: trainer(classifier, eps=8, verbose=False).fit(x, y), 'did you mean "Linf:8/255"'),
    ]:
        with pytest.raises(InputError, match=says):
            call()


@pytest.mark.parametrize("beta", [-1, float("nan"), float("inf")])
def test_mart_refuses_beta(beta):
    with pytest.raises(InputError, match="`beta` must be a finite number of at least 0"):
        acw.AdversarialTrainerMARTPyTorch(make(), beta=beta)
