"""Natural training against a plain loop of torch: no attack in it, and its validation attacked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from art.data_generators import NumpyDataGenerator
from torch import nn
from torch.nn import functional
from trainable import SMALL, STANDARD, Convolutional, make

import art_classwise as acw
from art_classwise import InputError
from art_classwise.trainers import METHODS, trained_weights, training_history
from art_classwise.trainers.engine import adversary


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)


def batches(data, batch_size):
    """ART's generator in the order given, so that a plain loop sees the same batches."""
    return NumpyDataGenerator(data.x, np.eye(10, dtype=np.float32)[data.y], batch_size, False, False)


def plain_loop(data, batch_size, epochs, smoothing=0.0, clip=None):
    """Natural training as anybody would write it."""
    torch.manual_seed(0)
    network = Convolutional().train()
    optimizer = sgd(network.parameters())
    losses, right = [], []
    for _ in range(epochs):
        for begin in range(0, len(data), batch_size):
            x = torch.from_numpy(data.x[begin : begin + batch_size])
            y = torch.from_numpy(data.y[begin : begin + batch_size])
            optimizer.zero_grad()
            logits = network(x)
            loss = functional.cross_entropy(logits, y, label_smoothing=smoothing)
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(network.parameters(), clip)
            optimizer.step()
            losses.append(loss.item() * len(x))
            right.append((logits.argmax(1) == y).numpy())
    shape = (epochs, len(data))
    return network, np.reshape(losses, (epochs, -1)).sum(1) / len(data), np.concatenate(right).reshape(shape)


@pytest.mark.parametrize(
    ("options", "plain"),
    [({}, {}), ({"label_smoothing": 0.1, "gradient_clip": 0.5}, {"smoothing": 0.1, "clip": 0.5})],
    ids=["plain", "smoothed and clipped"],
)
def test_it_is_the_plain_loop(options, plain, train_set):
    data = train_set.first(100)
    classifier = make(optimizer=sgd)
    history = acw.NaturalTrainerPyTorch(classifier, **SMALL, **options).fit_generator(batches(data, 25), nb_epochs=2)
    network, losses, right = plain_loop(data, 25, 2, **plain)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(classifier.model.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(history["clean"], right.mean(1), atol=1e-12)
    for k in range(10):
        np.testing.assert_allclose(history[f"clean_{k}"], right[:, data.y == k].mean(1), atol=1e-12)


def test_it_is_standard_training_whose_attack_does_nothing(train_set):
    """With the same seed the same orders and crops: to the bit, whatever the attack's options."""

    class Nothing(adversary.InnerSearch):
        def __call__(self, module, x, y, uniform, budgets=None):
            return x

    trained = []
    for trainer in (acw.NaturalTrainerPyTorch, STANDARD):
        classifier = make(optimizer=sgd)
        made = trainer(classifier, **SMALL, crop_padding=1, flip=True, ema_decay=0.9, awp_gamma=5e-3)
        if trainer is STANDARD:
            made._search = Nothing
        history = made.fit(train_set.x, train_set.y, nb_epochs=2, batch_size=64)
        trained.append((classifier.model.state_dict(), history))
    (natural, of_natural), (standard, of_standard) = trained
    assert all(torch.equal(natural[name], standard[name]) for name in natural)
    assert of_natural["loss"].tolist() == of_standard["loss"].tolist()
    assert of_natural["clean"].tolist() == of_standard["robust"].tolist()


def test_nothing_is_attacked_while_training(train_set, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("natural training attacks nothing")

    monkeypatch.setattr(adversary, "search", forbidden)
    history = acw.NaturalTrainerPyTorch(make(), **SMALL).fit(train_set.x, train_set.y, nb_epochs=2)
    assert history.filter(regex=r"^robust").isna().all(axis=None)
    assert list(history.filter(regex=r"^robust")) == ["robust", *(f"robust_{k}" for k in range(10))]
    assert history.filter(regex=r"^clean").notna().all(axis=None)
    assert not any(name.startswith("val_") for name in history)


def test_validation_is_attacked_with_the_options_of_the_attack(train_set, digits):
    """It is the PGD that all trainers validate with; a larger radius leaves less standing."""
    validation = (digits.x[:120], digits.y[:120])
    found = {}
    for eps in (1e-6, 0.05, 0.3):
        classifier = make(lr=0.05)
        trainer = acw.NaturalTrainerPyTorch(classifier, eps=eps, max_iter=10, verbose=False)
        history = trainer.fit(train_set.x, train_set.y, validation_data=validation, nb_epochs=3, batch_size=64)
        found[eps] = history.iloc[-1]
    clean = found[0.05]["val_clean"]
    assert clean > 0.6
    assert found[1e-6]["val_robust"] == clean
    assert found[0.3]["val_robust"] < found[0.05]["val_robust"] < clean
    for row in found.values():
        assert row["val_worst"] == min(row[f"val_robust_{k}"] for k in range(10))
        assert row["loss"] == found[0.05]["loss"]  # the radius is of validation alone
    attacked = acw.PGD(classifier, eps=0.3, max_iter=10, verbose=False).generate(*validation)
    withstood = (classifier.predict(attacked).argmax(1) == validation[1]).mean()
    assert found[0.3]["val_robust"] == pytest.approx(withstood, abs=0.05)


def test_validation_is_attacked_by_the_attack_that_is_given(train_set, digits):
    seen = []

    class Recorder(acw.PGD):
        def generate(self, x, y=None, **kwargs):
            seen.append(len(x))
            return np.zeros_like(x)

    classifier = make()
    trainer = acw.NaturalTrainerPyTorch(classifier, attack=Recorder(classifier, verbose=False), verbose=False)
    history = trainer.fit(train_set.x, train_set.y, validation_data=(digits.x[:50], digits.y[:50]), nb_epochs=2)
    assert sum(seen) == 2 * 50  # none of the training's
    assert history["val_robust"].iloc[-1] < history["val_clean"].iloc[-1]


def test_it_keeps_the_most_robust_epoch_and_goes_on_where_it_stopped(train_set, digits, tmp_path):
    def train(folder, scheduler=None, **fit):
        classifier = make(lr=0.05)
        schedule = None if scheduler is None else scheduler(classifier.optimizer)
        trainer = acw.NaturalTrainerPyTorch(classifier, **SMALL, ema_decay=0.9)
        history = trainer.fit(
            *(train_set.x[:200], train_set.y[:200], (digits.x[:50], digits.y[:50])),
            **{"nb_epochs": 3, "keep": "robust+worst", "checkpoint_dir": folder, "scheduler": schedule, **fit},
        )
        return classifier.model.state_dict(), history

    class Killed(torch.optim.lr_scheduler.StepLR):
        stops = True

        def step(self, *args):
            super().step(*args)
            if self.last_epoch == 2 and Killed.stops:
                raise KeyboardInterrupt

    def schedule(optimizer):
        return Killed(optimizer, 1, 0.5)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", schedule)
    Killed.stops = False
    assert len(training_history(tmp_path / "stopped")) == 1
    whole, history = train(tmp_path / "whole", schedule)
    again, resumed = train(tmp_path / "stopped", schedule, resume=True)
    assert history.attrs["kept_epoch"] == 1 + int(np.argmax(history["val_robust"] + history["val_worst"]))
    kept = trained_weights(tmp_path / "stopped")
    assert all(torch.equal(whole[name], again[name]) and torch.equal(again[name], kept[name]) for name in whole)
    unequal = ["images_per_second"]
    assert history.drop(columns=unequal).equals(resumed.drop(columns=unequal))


def test_it_is_a_method_by_name_and_refuses_what_all_trainers_refuse(train_set):
    assert METHODS["natural"].trainer is acw.NaturalTrainerPyTorch
    with pytest.raises(InputError, match="`max_iter` must be a whole number of at least 1"):
        acw.NaturalTrainerPyTorch(make(), max_iter=0)
    with pytest.raises(InputError, match='`keep="robust"` needs `validation_data` to choose the epoch'):
        acw.NaturalTrainerPyTorch(make(), **SMALL).fit(train_set.x, train_set.y, keep="robust")
    with pytest.raises(InputError, match="Unknown option 'beta'"):
        acw.NaturalTrainerPyTorch(make(), beta=6.0)


@pytest.mark.parametrize(("validated", "column"), [(True, "val_robust"), (False, "clean")])
def test_a_schedule_on_a_plateau_is_never_told_nan(validated, column, train_set, digits):
    """``robust`` is NaN, by which it would think that nothing becomes better, and lower the rate."""
    classifier, told = make(), []

    class Plateau(torch.optim.lr_scheduler.ReduceLROnPlateau):
        def step(self, metrics, epoch=None):
            told.append(metrics)
            super().step(metrics, epoch)

    history = acw.NaturalTrainerPyTorch(classifier, **SMALL).fit(
        *(train_set.x[:100], train_set.y[:100]),
        validation_data=(digits.x[:50], digits.y[:50]) if validated else None,
        nb_epochs=2,
        scheduler=Plateau(classifier.optimizer, mode="max"),
    )
    assert told == history[column].tolist()
