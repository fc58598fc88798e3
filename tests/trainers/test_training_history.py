"""What is around the steps of training: schedules, the history, what is kept and shown, and attacks of ART."""

from __future__ import annotations

import re
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.data_generators import NumpyDataGenerator
from art.summary_writer import SummaryWriterDefault
from trainable import MART, SMALL, STANDARD, TRAINERS, make

import art_classwise as acw
from art_classwise import InputError
from art_classwise._core.state import evaluating
from art_classwise.trainers.engine import loop


class Counting:
    def __init__(self):
        self.calls = []

    def step(self):
        self.calls.append(())


class Plateau(Counting):
    def __init__(self, mode=None):
        super().__init__()
        if mode:
            self.mode = mode

    def step(self, metrics):
        self.calls.append(metrics)


def test_any_object_with_step_is_a_scheduler(train_set):
    x, y, options = train_set.x[:64], train_set.y[:64], {"nb_epochs": 3, "batch_size": 16}
    classifier = make()
    trainer = STANDARD(classifier, **SMALL)
    for interval, calls in (("epoch", 3), ("step", 12)):
        counting = Counting()
        trainer.fit(x, y, scheduler=counting, scheduler_interval=interval, **options)
        assert len(counting.calls) == calls
    for mode, name in ((None, "loss"), ("min", "loss"), ("max", "val_robust")):
        plateau = Plateau(mode)
        assert trainer.fit(x, y, (x, y), scheduler=plateau, **options)[name].tolist() == plateau.calls
    plateau = Plateau("max")
    assert trainer.fit(x, y, scheduler=plateau, **options)["robust"].tolist() == plateau.calls
    with pytest.raises(InputError, match="without arguments after each step, but that of Plateau needs metrics"):
        trainer.fit(x, y, scheduler=plateau, scheduler_interval="step", **options)


SCHEDULES = {
    "epoch": lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
    "step": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=12),
}


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("interval", SCHEDULES)
def test_learning_rate_is_that_of_the_last_step(interval, before, train_set):
    """The schedule may be made before the trainer, or after it."""
    classifier, rates = make(), []
    if before:
        schedule = SCHEDULES[interval](classifier.optimizer)
    trainer = STANDARD(classifier, **SMALL)
    if not before:
        schedule = SCHEDULES[interval](classifier.optimizer)
    classifier.optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    history = trainer.fit(
        train_set.x[:64], train_set.y[:64], None, 16, 3, scheduler=schedule, scheduler_interval=interval
    )
    expected = [0.1] * 4 + [0.05] * 4 + [0.025] * 4 if interval == "epoch" else one_cycle()
    assert rates == pytest.approx(expected)
    assert history["learning_rate"].tolist() == rates[3::4]


def one_cycle():
    """Up from a 25th for three tenths of 12 steps, down to a 10,000th of that, along cosines (torch's defaults)."""
    top = 0.3 * 12 - 1
    up = [0.008 + (0.2 - 0.008) * (1 - np.cos(np.pi * t / top)) / 2 for t in range(3)]
    return up + [8e-7 + (0.2 - 8e-7) * (1 + np.cos(np.pi * (t - top) / (11 - top))) / 2 for t in range(3, 12)]


def test_plateaus_of_torch_lower_the_learning_rate(train_set):
    classifier = make(lr=1e-4)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(classifier.optimizer, factor=0.1, patience=0, threshold=0.5)
    trainer = STANDARD(classifier, **SMALL)
    rates = trainer.fit(train_set.x[:64], train_set.y[:64], nb_epochs=3, scheduler=plateau)["learning_rate"]
    assert rates.tolist() == pytest.approx([1e-4, 1e-4, 1e-5])


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("generator", [False, True])
def test_history_is_what_the_batches_were(trainer, generator, train_set):
    """Count by hand from the logits that the loss was given; a class that is absent is NaN."""
    some = train_set.of_classes(range(9)).first(100)
    fitted, given = trainer(make(), **SMALL), []
    objective = fitted._objective

    def watched(adversary):
        made = objective(adversary)

        def terms(logits, logits_adv, y):
            first, second = made.terms(logits, logits_adv, y)
            values = first if second is None else first + made.beta * second
            guesses = [None if z is None else z.argmax(1) == y for z in (logits, logits_adv)]
            given.append((values.detach(), y, *guesses))
            return first, second

        return replace(made, terms=terms)

    fitted._objective = watched
    if generator:
        one_hot = np.eye(10)[some.y]
        history = fitted.fit_generator(
            NumpyDataGenerator(some.x, one_hot, batch_size=32, drop_remainder=False), nb_epochs=2
        )
    else:
        history = fitted.fit(some.x, some.y, batch_size=32, nb_epochs=2)
    by_class = [f"{name}_{k}" for name in ("clean", "robust") for k in range(10)]
    names = ["epoch", "loss", "clean", "robust", *by_class, "learning_rate", "images_per_second"]
    assert list(history) == names
    assert history["epoch"].tolist() == [1, 2]
    assert history["epoch"].dtype.kind == "i"
    assert history.attrs["kept_epoch"] == 2
    assert (history["images_per_second"] > 0).all()
    for epoch, batches in enumerate((given[:4], given[4:])):
        row = history.iloc[epoch]
        values, y, robust = (torch.cat([b[i] for b in batches]).double().numpy() for i in (0, 1, 3))
        assert len(y) == 100
        assert row["loss"] == pytest.approx(values.mean(), rel=1e-5)
        counted = {"robust": robust}
        if trainer is not STANDARD:
            counted["clean"] = torch.cat([b[2] for b in batches]).double().numpy()
        else:
            assert row[["clean", *by_class[:10]]].isna().all()
        for name, right in counted.items():
            assert row[name] == pytest.approx(right.mean())
            for k in range(9):
                assert row[f"{name}_{k}"] == pytest.approx(right[y == k].mean())
            assert np.isnan(row[f"{name}_9"])


SCORES = [(0.5, 0.1), (0.6, 0.05), (0.55, 0.3), (0.6, 0.25), (0.2, 0.1)]


@pytest.mark.parametrize("decay", [None, 0.5])
@pytest.mark.parametrize(("keep", "epoch"), [("last", 5), ("robust", 2), ("robust+worst", 3)])
def test_keep_chooses_the_epoch(keep, epoch, decay, train_set, monkeypatch):
    """Of two epochs with 0.6, and two with 0.85, the first."""
    after = []

    def validate(training, validation, *, averaged):
        after.append({k: v.clone() for k, v in training._evaluated().state_dict().items()})
        robust, worst = SCORES[len(after) - 1]
        return {"val_robust": robust, "val_worst": worst}

    monkeypatch.setattr(loop.Training, "_validate", validate)
    x, y, classifier = train_set.x[:64], train_set.y[:64], make()
    history = MART(classifier, ema_decay=decay, **SMALL).fit(x, y, (x, y), nb_epochs=5, keep=keep)
    assert history.attrs["kept_epoch"] == epoch
    for name, value in classifier.model.state_dict().items():
        assert torch.equal(value, after[epoch - 1][name])


def test_kept_weights_have_the_accuracy_in_their_row(train_set):
    """A learning rate that ruins the third epoch."""
    classifier, x, y = make(), train_set.x, train_set.y
    ruin = torch.optim.lr_scheduler.LambdaLR(classifier.optimizer, lambda epoch: 1 if epoch < 2 else 300)
    history = STANDARD(classifier, gradient_clip=1.0, **SMALL).fit(
        x, y, (x, y), batch_size=64, nb_epochs=4, scheduler=ruin, keep="robust+worst"
    )
    assert history.attrs["kept_epoch"] == 2
    assert history["val_robust"].iloc[2] < history["val_robust"].iloc[1] - 0.1
    with evaluating(classifier.model):
        assert (classifier.predict(x).argmax(1) == y).mean() == pytest.approx(history["val_clean"].iloc[1])


def test_an_attack_that_puts_right_what_was_wrong_does_not_count(train_set):
    classifier = make(lr=1e-9)
    trainer = STANDARD(classifier, **SMALL)
    trainer._adversary = lambda **_: lambda module, x, y, uniform, budgets=None: x.roll(1, 0)
    y = train_set.y[:100]
    row = trainer.fit(train_set.x[:100], y, (train_set.x[:100], y), nb_epochs=1).iloc[0]
    with evaluating(classifier.model):
        guesses = classifier.predict(train_set.x[:100]).argmax(1)
    right, right_adv = guesses == y, np.roll(guesses, 1) == y
    assert (right_adv & ~right).any()
    assert row["val_robust"] == pytest.approx((right & right_adv).mean())


class Writer:
    def __init__(self):
        self.values = {}

    def add_scalar(self, name, value, step):
        self.values[name, step] = value


def written(folder):
    """Read TensorBoard's files: length (8 bytes), its checksum (4), an event, its checksum (4), and so on."""
    from tensorboardX.proto.event_pb2 import Event

    values = {}
    for path in folder.rglob("*tfevents*"):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack("<Q", content[at : at + 8])
            event = Event.FromString(content[at + 12 : at + 12 + length])
            values |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
            at += 16 + length
    return values


@pytest.mark.parametrize("kind", ["object", "folder", "path", "ART", True])
def test_values_are_written_for_tensorboard(kind, train_set, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = {"object": Writer(), "folder": str(tmp_path / "log"), "path": tmp_path / "log", True: True}.get(kind)
    if kind == "ART":
        writer = SummaryWriterDefault(str(tmp_path / "log"))
    x, y = train_set.x[:64], train_set.y[:64]
    history = STANDARD(make(), summary_writer=writer, **SMALL).fit(x, y, (x, y), nb_epochs=2)
    if kind == "ART":
        writer.summary_writer.close()  # only its owner closes it
    values = writer.values if kind == "object" else written(tmp_path)
    rows = history.set_index("epoch").stack()
    expected = {(name, epoch): value for (epoch, name), value in rows.items() if np.isfinite(value)}
    assert values.keys() == expected.keys()
    assert all(values[key] == pytest.approx(value, rel=1e-5) for key, value in expected.items())


def test_progress_is_shown_where_asked_for(train_set, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")  # in a log, too
    x, y = train_set.x[:64], train_set.y[:64]
    for verbose in (True, False):
        MART(make(), **{**SMALL, "verbose": verbose}).fit(x, y, (x, y), batch_size=32, nb_epochs=2)
        out, err = capsys.readouterr()
        assert out == ""
        if verbose:
            first, second = err.splitlines()  # one per epoch
            assert first.startswith("MART   50%  epoch 1/2  ") and second.startswith("MART  100%  epoch 2/2  ")  # noqa: PT018
            for line in first, second:
                assert re.search(r"loss \d+\.\d\d, robust \d+%, val \d+%, worst \d+%$", line)
        else:
            assert err == ""


@pytest.mark.parametrize("value", [3, Counting(), Writer])
def test_summary_writers_that_write_nothing_are_refused(value, train_set):
    with pytest.raises(InputError, match="`summary_writer` must be True, False, a folder"):
        STANDARD(make(), summary_writer=value, **SMALL).fit(train_set.x[:8], train_set.y[:8], nb_epochs=1)


ATTACKS = {
    "ART's PGD": lambda c: ProjectedGradientDescent(c, eps=0.05, eps_step=0.02, max_iter=2, verbose=False),
    "ART's FGSM": lambda c: FastGradientMethod(c, eps=0.05),
    "PGD": lambda c: acw.PGD(c, eps=0.05, eps_step=0.02, max_iter=2, verbose=False),
    "Temperature-PGD": lambda c: acw.TemperaturePGD(c, eps=0.05, eps_step=0.02, max_iter=2, verbose=False),
}


@pytest.mark.parametrize(("name", "options"), [*((n, {}) for n in ATTACKS), ("ART's PGD", {"ema_decay": 0.5})])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_any_attack_of_art_trains(trainer, name, options, train_set):
    classifier, sizes, modes = make(), [], []
    classifier.model.eval()
    classifier.model.norm.train()
    attack = ATTACKS[name](classifier)
    real = attack.generate

    def generate(x, y, **extra):
        assert set(extra) == ({"example_ids"} if isinstance(attack, (acw.PGD, acw.TemperaturePGD)) else set())
        sizes.append(len(x))
        modes.append([m.training for m in classifier.model.modules()])
        np.testing.assert_array_equal(y.sum(1), 1)
        return real(x, y, **extra)

    attack.generate = generate
    x, y = train_set.x, train_set.y
    history = trainer(classifier, attack=attack, verbose=False, **options).fit(
        x, y, (x[:80], y[:80]), batch_size=80, nb_epochs=3
    )
    assert sizes == [80] * 5 * 3 + [80] * 3
    assert not any(map(any, modes))
    assert [m.training for m in classifier.model.modules()] == [False, False, True, False]
    assert all(p.requires_grad and p.grad is None for p in classifier.model.parameters())
    assert int(classifier.model.norm.num_batches_tracked) == 15
    assert history["robust"].iloc[-1] > history["robust"].iloc[0]
    # What was validated is what the weights are now: a deterministic attack finds the same again.
    if name == "ART's FGSM":
        with evaluating(classifier.model):
            right = classifier.predict(real(x[:80], np.eye(10)[y[:80]])).argmax(1) == y[:80]
            right &= classifier.predict(x[:80]).argmax(1) == y[:80]
        assert history["val_robust"].iloc[-1] == pytest.approx(right.mean())


def test_attacks_that_cannot_train_are_refused(train_set):
    classifier, other = make(), make()
    x, y = train_set.x[:8], train_set.y[:8]
    for attack, says in [
        (3, "must be an evasion attack of ART, but is a int"),
        (FastGradientMethod, "must be an evasion attack of ART"),
        (FastGradientMethod(other, eps=0.05), "must attack the classifier that is trained"),
        (FastGradientMethod(classifier, eps=0.05, targeted=True), "is targeted"),
    ]:
        with pytest.raises(InputError, match=says):
            STANDARD(classifier, attack=attack)
    attack = ATTACKS["ART's FGSM"](classifier)
    with pytest.raises(InputError, match="can't be combined with `attack`"):
        MART(classifier, attack=attack, attacked="correct")
    attack.generate = lambda x, y: x[:3]
    with pytest.raises(InputError, match="one adversarial input for each"):
        STANDARD(classifier, attack=attack, verbose=False).fit(x, y, nb_epochs=1)


def test_a_scheduler_that_wants_the_epoch_gets_it(train_set):
    """As timm's do."""

    class Timms(Counting):
        def step(self, epoch, metric=None):
            self.calls.append(epoch)

    scheduler = Timms()
    STANDARD(make(), **SMALL).fit(train_set.x[:64], train_set.y[:64], nb_epochs=3, scheduler=scheduler)
    assert scheduler.calls == [1, 2, 3]
