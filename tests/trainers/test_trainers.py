from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest
import torch
from art.attacks.evasion import UniversalPerturbation
from art.data_generators import NumpyDataGenerator
from art.defences.trainer import Trainer
from art.estimators.classification import BlackBoxClassifier, PyTorchClassifier
from torch import nn
from trainable import MART, SMALL, STANDARD, TRADES, TRAINERS, Convolutional, make, weights

import art_classwise as acw
from art_classwise import InputError
from art_classwise._core.state import evaluating
from art_classwise.trainers.engine import adversary


def sequential():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))


@pytest.mark.parametrize("module", [Convolutional, sequential])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_fit_raises_clean_and_robust_accuracy(trainer, module, train_set, digits):
    classifier = make(module, lr=0.05)
    validation = digits.first(200)
    history = trainer(classifier, **SMALL).fit(
        train_set.x, train_set.y, validation_data=(validation.x, validation.y), batch_size=64, nb_epochs=14
    )
    assert history["epoch"].tolist() == list(range(1, 15))
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


@pytest.mark.parametrize(
    ("trainer", "options", "looks", "passes"),
    [(STANDARD, {}, 0, 1), (TRADES, {}, 1, 1), (MART, {}, 0, 1), (MART, {"exact": True}, 0, 2)],
)
def test_attack_runs_in_eval_mode_and_weights_train_in_train_mode(trainer, options, looks, passes, train_set):
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
    trainer(classifier, **SMALL, **options).fit(train_set.x[:32], train_set.y[:32], nb_epochs=1)
    look, attack, step = (False, False, True), (False, True, False), (True, False, True)
    tried = [look, look]  # are these logits, and what does it return?
    assert modes == tried + [look] * looks + [attack] * 2 + [step] * passes


def test_batchnorm_and_dropout_train(train_set):
    """The step is made in train mode: running statistics move."""
    classifier = make()
    STANDARD(classifier, **SMALL).fit(train_set.x[:64], train_set.y[:64], nb_epochs=1)
    assert int(classifier.model.norm.num_batches_tracked) == 1  # and not once per step of the attack
    assert not torch.equal(classifier.model.norm.running_mean, torch.zeros(8))


@pytest.mark.parametrize(("trainer", "largest"), [(STANDARD, 0.05), (TRADES, 0.01), (MART, 0.01)])
def test_the_attack_starts_where_the_papers_do(trainer, largest, train_set, monkeypatch):
    """Madry: uniform in the ball; TRADES and MART: x + 0.001 N(0, 1)."""
    starts = []

    def spy(module, x, y, *arguments, start, **options):
        starts.append((start - x).abs())
        return real(module, x, y, *arguments, start=start, **options)

    real = adversary.search
    monkeypatch.setattr(adversary, "search", spy)
    trainer(make(), **SMALL).fit(train_set.x[:64], train_set.y[:64], nb_epochs=1)
    assert 0.8 * largest > starts[0].mean() > 0.05 * largest
    assert starts[0].max() <= largest


def test_leaves_mode_flags_and_gradients(train_set):
    classifier = make()
    network = classifier.model
    network.eval()
    network.norm.train()
    network.features.bias.requires_grad_(False)
    frozen = network.features.bias.detach().clone()
    network.head.weight.grad = torch.ones_like(network.head.weight)
    modes = [m.training for m in network.modules()]
    STANDARD(classifier, **SMALL).fit(train_set.x[:64], train_set.y[:64], nb_epochs=1)
    assert [m.training for m in network.modules()] == modes
    assert not network.features.bias.requires_grad
    assert torch.equal(network.features.bias, frozen)
    assert torch.equal(network.head.weight.grad, torch.ones_like(network.head.weight))
    assert network.norm.weight.grad is None


def test_validation_does_not_change_training(train_set, digits):
    results = []
    for validation in (None, (digits.x[:50], digits.y[:50])):
        classifier = make(sequential)
        MART(classifier, **SMALL).fit(train_set.x, train_set.y, nb_epochs=2, validation_data=validation)
        results.append(weights(classifier))
    assert torch.equal(results[0], results[1])


def test_class_absent_from_validation_is_nan(train_set, digits):
    some = digits.of_classes(["0", "1"])
    history = STANDARD(make(), **SMALL).fit(
        train_set.x[:64], train_set.y[:64], nb_epochs=1, validation_data=(some.x, some.y)
    )
    assert history[[f"val_robust_{k}" for k in range(2, 10)]].isna().all(axis=None)
    assert history["val_worst"].notna().all()


class Stepper:
    def step(self):
        """Any learning-rate scheduler."""


def test_last_small_batch_single_example_and_one_class_are_fine(train_set):
    classifier = make(sequential)
    trainer = MART(classifier, **SMALL)
    assert np.isfinite(trainer.fit(train_set.x[:65], train_set.y[:65], batch_size=64, nb_epochs=1)["loss"]).all()
    assert np.isfinite(trainer.fit(train_set.x[:1], train_set.y[:1], nb_epochs=1)["loss"]).all()
    zeros = train_set.of_classes([0])
    assert np.isfinite(trainer.fit(zeros.x, zeros.y, nb_epochs=1)["loss"]).all()


def test_is_an_art_trainer(train_set):
    classifier = make()
    trainer = MART(classifier, **SMALL)
    assert isinstance(trainer, Trainer)
    assert trainer.get_classifier() is classifier
    classifier.model.train()
    assert trainer.predict(train_set.x[:5]).shape == (5, 10)
    assert classifier.model.training
    history = trainer.fit(train_set.x[:64], train_set.y[:64], nb_epochs=1)
    assert isinstance(history, pd.DataFrame)


def standardising(classifier):
    """The same network behind a standardisation of ART's."""
    return PyTorchClassifier(
        classifier.model,
        nn.CrossEntropyLoss(),
        (1, 8, 8),
        10,
        optimizer=classifier.optimizer,
        clip_values=(0, 1),
        preprocessing=(0.5, 0.25),
        device_type="cpu",
    )


def test_arts_standardisation_is_part_of_training(train_set):
    plain, standardised = make(), standardising(make())
    for classifier in (plain, standardised):
        STANDARD(classifier, **SMALL).fit(train_set.x, train_set.y, nb_epochs=3)
    assert (standardised.predict(train_set.x).argmax(1) == train_set.y).mean() > 0.8
    assert not torch.equal(weights(plain), weights(standardised))


def test_a_loss_that_is_not_finite_stops_and_names_the_epoch(train_set):
    classifier = make(lr=1e30)
    before = weights(classifier)
    trainer = STANDARD(classifier, **SMALL)
    with pytest.raises(FloatingPointError, match="in epoch 1, batch 2: lower the learning rate.*it came with again"):
        trainer.fit(train_set.x, train_set.y, nb_epochs=2)
    assert all(p.requires_grad for p in classifier.model.parameters())
    assert torch.equal(weights(classifier), before)
    classifier.optimizer.param_groups[0]["lr"] = 0.1  # as it says
    assert np.isfinite(trainer.fit(train_set.x, train_set.y, nb_epochs=2)["loss"]).all()


def test_weights_of_the_epoch_before_come_back(train_set):
    classifier, ends = make(), []

    class Explode:
        def step(self):
            ends.append(weights(classifier))
            classifier.optimizer.param_groups[0]["lr"] = 1e30 if len(ends) == 2 else 0.1

    with pytest.raises(FloatingPointError, match=r"in epoch 3, batch \d.*weights from after epoch 2 again"):
        STANDARD(classifier, **SMALL).fit(train_set.x, train_set.y, nb_epochs=4, scheduler=Explode())
    assert torch.equal(weights(classifier), ends[1])


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
        (lambda: fit(x, y, scheduler=Stepper), "an object with a method step"),
        (lambda: fit(x, y, scheduler=Stepper(), scheduler_interval="batch"), "Unknown scheduler_interval 'batch'"),
        (lambda: fit(x, y, keep="best"), "keep weights by 'best'. Did you mean"),
        (lambda: fit(x, y, keep="robust"), '`keep="robust"` needs `validation_data`'),
        (lambda: fit(x, y, resume=True), "`resume=True` needs a `checkpoint_dir`"),
        (lambda: fit(x, y, validation_data=(x,)), "must be a pair"),
        (lambda: fit(x.transpose(0, 2, 3, 1), y), r"images of shape \(1, 8, 8\), but x holds"),
        (lambda: generator([(x, y)]), "must be an ART DataGenerator that knows its size"),
        (lambda: generator(NumpyDataGenerator(x * 255, np.eye(10)[y], batch_size=8)), "but goes from 0 to 255"),
        (lambda: fit(x, y, epochs=3), r"Unknown argument of fit\(\) 'epochs'. Did you mean nb_epochs"),
        (lambda: trainer(classifier, eps=8, verbose=False).fit(x, y), 'did you mean "Linf:8/255"'),
    ]:
        with pytest.raises(InputError, match=says):
            call()


OPTIONS = {
    "crop_padding": [-1, 1.5, True],
    "flip": ["yes", 1],
    "label_smoothing": [1, -0.1, float("nan"), "a"],
    "gradient_clip": [0, -1, float("nan"), "a"],
    "ema_decay": [1, -0.1, float("nan"), "a"],
    "awp_gamma": [-1, float("inf"), float("nan"), "a"],
    "awp_warmup": [-1, 0.5],
    "precision": ["fp16", None, 16],
    "compile": ["yes", 1],
    "num_workers": [-1, 0.5],
    "verbose": ["yes"],
    "seed": [-1, 2**63, 0.5],
    "attack": ["pgd", UniversalPerturbation],
}
OWN = {
    TRADES: {"beta": [-1, float("nan"), float("inf"), "a", True]},
    MART: {
        "beta": [-1, float("nan"), float("inf"), "a", True],
        "on": ["both", None],
        "attacked": ["none", None],
        **{key: ["yes", 1] for key in ("boosted", "kl", "weighted", "exact")},
    },
}


@pytest.mark.parametrize(
    ("trainer", "option"), [(t, o) for t in TRAINERS for o in ({**OPTIONS, **OWN[t]} if t in OWN else OPTIONS)]
)
def test_options_out_of_range_are_named(trainer, option):
    classifier = make()
    for value in {**OPTIONS, **OWN.get(trainer, {})}[option]:
        with pytest.raises(InputError, match=f"`{option}`") as raised:
            trainer(classifier, **{option: value})
        message = str(raised.value)
        assert message.endswith((".", "?"))
        assert "\n" not in message
        assert ",," not in message


@pytest.mark.parametrize("trainer", TRAINERS)
def test_optimizers_that_cannot_train_are_refused(trainer):
    network, other = Convolutional(), Convolutional()
    for optimizer, says in [
        (torch.optim.LBFGS(network.parameters()), "The step of the optimizer LBFGS needs closure"),
        (torch.optim.SGD(other.parameters(), lr=0.1), "holds none of the classifier's weights"),
    ]:
        classifier = acw.as_classifier(network, (1, 8, 8), 10, optimizer=optimizer, device="cpu")
        with pytest.raises(InputError, match=says):
            trainer(classifier)


def test_what_would_train_nothing_or_something_else_is_refused(train_set):
    from art.attacks.evasion import ProjectedGradientDescent
    from art.defences.preprocessor import GaussianAugmentation

    classifier, x, y = make(), train_set.x[:8], train_set.y[:8]
    stale = torch.optim.lr_scheduler.StepLR(make().optimizer, 1)
    half = make()
    half.model.half()
    noisy = PyTorchClassifier(
        make().model,
        nn.CrossEntropyLoss(),
        (1, 8, 8),
        10,
        optimizer=classifier.optimizer,
        preprocessing_defences=GaussianAugmentation(augmentation=False),
        device_type="cpu",
    )

    class Both(Convolutional):
        def forward(self, x):
            logits = super().forward(x)
            return logits if len(x) == 1 else (logits, x)

    for call, says in [
        (lambda: STANDARD(classifier, **SMALL).fit(x, y, scheduler=stale), "StepLR is of another optimizer"),
        (lambda: STANDARD(half), "weights of torch.float16: trainers keep them in float32"),
        (lambda: STANDARD(noisy), "GaussianAugmentation of the classifier is for training only"),
        (lambda: MART(classifier, beta=ProjectedGradientDescent(classifier)), "give an attack as `attack="),
        (lambda: STANDARD(make(Both), **SMALL).fit(x, y), "must return a tensor of logits, but returned tuple"),
    ]:
        with pytest.raises(InputError, match=says):
            call()


def test_fast_copies_leave_arts_classifiers_alone(train_set, monkeypatch):
    """ART's estimators, copied, write files and move to the first GPU: the network alone is copied."""
    classifier = standardising(make())
    monkeypatch.setattr(type(classifier), "save", lambda *_: pytest.fail("ART wrote a file"))
    STANDARD(classifier, **SMALL, precision="bf16").fit(train_set.x, train_set.y, nb_epochs=4)
    assert (classifier.predict(train_set.x).argmax(1) == train_set.y).mean() > 0.5
