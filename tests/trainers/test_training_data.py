"""Where training's batches come from: order, augmentation, and what is held or read."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import trainable
from art.data_generators import NumpyDataGenerator, PyTorchDataGenerator
from art.estimators.classification import PyTorchClassifier
from torch import nn
from trainable import SMALL, STANDARD, TRAINERS, weights

import art_classwise as acw
from art_classwise import InputError
from art_classwise.datasets.dataset import LazyImages
from art_classwise.trainers.engine import arrays
from art_classwise.trainers.engine.arrays import array_source
from art_classwise.trainers.engine.batches import (
    ROUND,
    Augmentation,
    ClassBalancedOrder,
    DeviceSource,
    LoaderSource,
    ShuffledOrder,
)

CPU = torch.device("cpu")
NONE = Augmentation()


def network(*normalisation):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), *normalisation, nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 10))


def make(*normalisation):
    return trainable.make(partial(network, *normalisation))


def source(x, y=None, batch_size=8, seed=0, augment=NONE, num_workers=0):
    y = np.arange(len(x)) % 10 if y is None else y
    return array_source(x, y, ShuffledOrder(len(x), batch_size, seed), augment, CPU, num_workers)


@pytest.fixture(scope="module")
def train_set():
    return acw.load_dataset("digits", "train").first(200)


@pytest.fixture
def nothing_fits(monkeypatch):
    monkeypatch.setattr(arrays, "_fits", lambda n_bytes, device: False)


@pytest.fixture
def grey():
    """Images of all 256 levels, (100, 3, 8, 8), uint8."""
    return np.random.default_rng(0).integers(0, 256, (100, 3, 8, 8), dtype=np.uint8)


RANGES = {
    "0 to 1": (lambda grey: grey.astype(np.float32) / np.float32(255), torch.uint8),
    "0 to 255": (lambda grey: grey.astype(np.float32), torch.uint8),
    "black and white": (lambda grey: (grey > 127).astype(np.float32), torch.uint8),
    "sixteenths, as the digits": (lambda grey: (grey % 17).astype(np.float32) / np.float32(16), torch.float32),
    "multiplied, so rounded otherwise": (lambda grey: grey.astype(np.float32) * np.float32(1 / 255), torch.float32),
    "standardised": (lambda grey: (grey.astype(np.float32) / 255 - 0.5) * 4, torch.float32),
    "one pixel off": (
        lambda grey: np.where(np.arange(grey.size).reshape(grey.shape) == 9999, 0.5, grey).astype(np.float32) / 255,
        torch.float32,
    ),
}


@pytest.mark.parametrize("name", RANGES)
def test_images_are_held_as_uint8_only_where_that_loses_nothing(name, grey):
    convert, held = RANGES[name]
    x = convert(grey)
    resident = source(x)
    assert isinstance(resident, DeviceSource)
    assert resident._x.dtype == held
    for batch in resident.batches(0):
        assert batch.x.dtype == torch.float32
        assert np.array_equal(batch.x.numpy(), x[batch.ids])


def test_parts_of_images_that_are_held_are_all_looked_at(monkeypatch):
    """Whether they are whole levels is asked in parts."""
    x = np.zeros((9000, 1, 1, 1), np.float32)
    x[8999] = 0.5
    resident = source(x)
    assert resident._x.dtype == torch.float32
    assert torch.equal(resident._x[8999], torch.full((1, 1, 1), 0.5))


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [(20, 8, [8, 8, 4]), (17, 8, [8, 9]), (16, 8, [8, 8]), (1, 8, [1]), (5, 8, [5]), (3, 1, [1, 2]), (9, 8, [9])],
)
def test_each_example_comes_once_an_epoch_and_a_last_one_joins_the_batch_before(n, batch_size, sizes, held, grey):
    made = DeviceSource if held else LoaderSource
    x, y = grey[:n].astype(np.float32), np.arange(n) % 10
    order = ShuffledOrder(n, batch_size, 0)
    batches = source(x, y, batch_size) if held else LoaderSource(x, torch.from_numpy(y), order, NONE, CPU, 0)
    assert isinstance(batches, made)
    assert (batches.n_examples, batches.n_batches) == (n, len(sizes))
    for epoch in range(2):
        drawn = list(batches.batches(epoch))
        assert [len(b.x) for b in drawn] == [b.size for b in drawn] == [b.n_labelled for b in drawn] == sizes
        ids = torch.cat([b.ids for b in drawn])
        assert sorted(ids.tolist()) == list(range(n))
        assert torch.equal(torch.cat([b.x for b in drawn]), torch.from_numpy(x)[ids])
        assert torch.equal(torch.cat([b.y for b in drawn]), torch.from_numpy(y)[ids])


def test_order_is_by_seed_and_epoch_and_as_they_stand_without_a_seed(grey):
    def order(seed, epoch):
        return torch.cat([b.ids for b in source(grey.astype(np.float32), seed=seed).batches(epoch)]).tolist()

    assert order(0, 0) == order(0, 0)
    orders = [order(0, 0), order(0, 1), order(0, 2), order(1, 0), order(1, 1)]
    assert len({tuple(o) for o in orders}) == 5
    assert order(None, 0) == order(None, 3) == list(range(100))


def test_every_place_of_the_order_is_as_likely_for_every_example():
    x = np.zeros((6, 1, 1, 1), np.float32)
    batches = source(x, batch_size=6)
    counts = np.zeros((6, 6))
    for epoch in range(3000):
        (batch,) = batches.batches(epoch)
        counts[np.arange(6), batch.ids.numpy()] += 1
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500 * 5 / 6)


@pytest.mark.usefixtures("nothing_fits")
def test_images_in_memory_that_do_not_fit_are_streamed(grey):
    assert isinstance(source(grey.astype(np.float32)), LoaderSource)


AUGMENTED = {"crop_padding": 2, "flip": True}


@pytest.mark.parametrize("options", [{}, AUGMENTED])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_streamed_training_is_the_held_one_to_the_bit(trainer, options, train_set, monkeypatch):
    held, streamed = make(), make()
    x = np.round(train_set.x * 255) / np.float32(255)
    trainer(held, **SMALL, **options).fit(x, train_set.y, (x[:50], train_set.y[:50]), batch_size=33, nb_epochs=3)
    monkeypatch.setattr(arrays, "_fits", lambda n_bytes, device: False)
    trainer(streamed, **SMALL, **options).fit(x, train_set.y, (x[:50], train_set.y[:50]), batch_size=33, nb_epochs=3)
    assert torch.equal(weights(held), weights(streamed))


def lazy(train_set, read=None):
    def one(i):
        if read is not None:
            read.append(i)
        return train_set.x[i]

    return LazyImages(one, np.arange(len(train_set)), (1, 8, 8))


def test_lazy_images_are_read_batch_by_batch(train_set):
    read = []
    order = ShuffledOrder(len(train_set), 20, 0)
    batches = LoaderSource(lazy(train_set, read), torch.from_numpy(train_set.y), order, NONE, CPU, 0)
    for number, batch in enumerate(batches.batches(0), start=1):
        assert len(read) == 20 * number
        assert read[-20:] == batch.ids.tolist()
    classifier, held = make(), make()
    read.clear()
    options = {"batch_size": 40, "nb_epochs": 2}
    STANDARD(classifier, **SMALL, **AUGMENTED).fit(lazy(train_set, read), train_set.y, **options)
    assert 400 <= len(read) <= 470  # each once an epoch, a few to try the network on, up to 64 to know the data by
    STANDARD(held, **SMALL, **AUGMENTED).fit(train_set.x, train_set.y, **options)
    assert torch.equal(weights(classifier), weights(held))


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="forking a process that has threads warns there")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere what workers read must be picklable")
def test_processes_that_read_change_nothing(train_set):
    ends = []
    for num_workers in (0, 2):
        classifier = make()
        trainer = STANDARD(classifier, num_workers=num_workers, **SMALL, **AUGMENTED)
        trainer.fit(lazy(train_set), train_set.y, batch_size=40, nb_epochs=2)
        ends.append(weights(classifier))
    assert torch.equal(*ends)


def offsets(augmented, original, padding):
    """Return where an image was cropped and whether it was mirrored then, by trying all."""
    padded = np.pad(original, ((0, 0), (padding, padding), (padding, padding)))
    _, height, width = original.shape
    return [
        (top, left, flipped)
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
        for flipped in (False, True)
        if np.array_equal(padded[:, top : top + height, left : left + width][:, :, :: -1 if flipped else 1], augmented)
    ]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_augmentation_crops_after_zero_padding_and_mirrors(padding, flip):
    n = 4000
    x = torch.from_numpy(np.random.default_rng(0).random((20, 3, 5, 7), dtype=np.float32)).repeat(n // 20, 1, 1, 1)
    augmented = Augmentation(padding, flip, seed=3)(x, 0, torch.arange(n))
    assert (augmented.shape, augmented.dtype) == (x.shape, x.dtype)
    found = [offsets(a, o, padding) for a, o in zip(augmented.numpy(), x.numpy(), strict=True)]
    assert {len(f) for f in found} == {1}
    cells, counts = np.unique([f[0] for f in found], axis=0, return_counts=True)
    assert len(cells) == (2 * padding + 1) ** 2 * (2 if flip else 1)
    expected = n / len(cells)  # all of them are as likely
    assert ((counts - expected) ** 2 / expected).sum() < len(cells) + 5 * np.sqrt(2 * len(cells))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_augmentation_keeps_the_type_and_none_is_none(dtype, grey):
    x = torch.from_numpy(grey).to(dtype)
    ids = torch.arange(100)
    assert torch.equal(NONE(x, 0, ids), x)
    assert Augmentation(1, True)(x, 0, ids).dtype == dtype
    padded = Augmentation(20, False)(x, 0, ids)
    assert any(not image.any() for image in padded)  # nothing of them may be left


def test_augmentation_belongs_to_seed_epoch_and_example_and_not_to_the_batch(grey):
    x, ids = torch.from_numpy(grey), torch.arange(100)
    augment = Augmentation(2, True, seed=1)
    whole = augment(x, 3, ids)
    rows = torch.tensor([70, 3, 41])
    assert torch.equal(augment(x[rows], 3, rows), whole[rows])
    others = [augment(x, 4, ids), Augmentation(2, True, seed=2)(x, 3, ids), augment(x, 3, ids + 100)]
    assert all((other != whole).flatten(1).any(1).sum() > 80 for other in others)
    before = torch.get_rng_state()
    augment(x, 0, ids)
    assert torch.equal(torch.get_rng_state(), before)


def watched(trainer):
    """Return the images that the trainer's attacks will be given, in training (True) and in validation (False)."""
    seen, real = {True: [], False: []}, trainer._adversary

    def adversary(**options):
        attack = real(**options)
        return lambda module, x, *rest: (seen[bool(options)].append(x), attack(module, x, *rest))[1]

    trainer._adversary = adversary
    return seen


def test_training_sees_augmented_images_and_validation_does_not(train_set):
    trainer = STANDARD(make(), **SMALL, **AUGMENTED)
    seen = watched(trainer)
    trainer.fit(train_set.x, train_set.y, (train_set.x, train_set.y), batch_size=200, nb_epochs=2)
    assert all(np.array_equal(x.numpy(), train_set.x) for x in seen[False])
    first, second = seen[True]
    assert not torch.equal(first.sort(0).values, second.sort(0).values)
    assert not np.isin(train_set.x.reshape(200, -1).sum(1), first.flatten(1).sum(1)).all()


@pytest.mark.parametrize("trainer", TRAINERS)
def test_clip_values_of_0_to_255(trainer, grey):
    """The same images in other units, with another radius: the same training, up to rounding."""
    rows = []
    for scale in (1, 255):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        classifier = PyTorchClassifier(
            module,
            nn.CrossEntropyLoss(),
            (3, 8, 8),
            10,
            optimizer=optimizer,
            clip_values=(0, scale),
            preprocessing=(0.0, float(scale)),
            device_type="cpu",
        )
        x = grey.astype(np.float32) / np.float32(255 // scale)
        # Of TRADES and MART the start is 0.001 N(0, 1) in these units: it is lost in steps that are longer.
        options = {"eps": 0.1 * scale, "eps_step": 0.1 * scale, "max_iter": 3, "verbose": False}
        history = trainer(classifier, **options).fit(x, np.arange(100) % 10, batch_size=25, nb_epochs=2)
        rows.append(history["loss"].tolist())
    assert rows[0] == pytest.approx(rows[1], rel=0.01)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_small_and_uneven_batches(trainer, train_set):
    """One example; one left over; classes absent, and batch norm, which needs two."""
    one, twenty_five = make(), make(nn.BatchNorm1d(16))
    history = trainer(one, **SMALL).fit(train_set.x[:1], train_set.y[:1], nb_epochs=2)
    absent = [k for k in range(10) if k != train_set.y[0]]
    assert history[[f"robust_{k}" for k in absent]].isna().all(axis=None)
    assert history["robust"].equals(history[f"robust_{train_set.y[0]}"].rename("robust"))
    assert np.isfinite(history["loss"]).all()
    history = trainer(twenty_five, **SMALL).fit(train_set.x[:25], train_set.y[:25], batch_size=8, nb_epochs=2)
    assert np.isfinite(history["loss"]).all()
    assert int(twenty_five.model[2].num_batches_tracked) == 6
    assert torch.isfinite(weights(twenty_five)).all()


@pytest.mark.parametrize("trainer", TRAINERS)
def test_generators_with_a_smaller_last_batch(trainer, train_set):
    x, y = train_set.x[:150], train_set.y[:150]
    one_hot = np.eye(10, dtype=np.float32)[y]
    tensors = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(one_hot))
    loader = torch.utils.data.DataLoader(tensors, batch_size=64, shuffle=True)
    generators = [
        NumpyDataGenerator(x, one_hot, batch_size=64, drop_remainder=False, shuffle=False),
        PyTorchDataGenerator(loader, 150, 64),
    ]
    for generator in generators:
        classifier = make(nn.BatchNorm1d(16))
        fitted = trainer(classifier, **SMALL, **AUGMENTED)
        seen = watched(fitted)
        history = fitted.fit_generator(generator, nb_epochs=3)
        assert [len(x) for x in seen[True]] == [64, 64, 22] * 3
        assert np.isfinite(history["loss"]).all()
        assert history["loss"].iloc[-1] < history["loss"].iloc[0]


def test_a_generator_in_order_trains_as_its_array_in_order(train_set, monkeypatch):
    monkeypatch.setattr(arrays.torch, "randperm", lambda n, generator: torch.arange(n))
    one_hot = np.eye(10, dtype=np.float32)[train_set.y]
    generator = NumpyDataGenerator(train_set.x, one_hot, batch_size=50, drop_remainder=False, shuffle=False)
    ours, generated = make(), make()
    STANDARD(ours, **SMALL, **AUGMENTED).fit(train_set.x, train_set.y, batch_size=50, nb_epochs=2)
    STANDARD(generated, **SMALL, **AUGMENTED).fit_generator(generator, nb_epochs=2)
    assert torch.equal(weights(ours), weights(generated))


def test_what_is_given_is_left_as_it_is(train_set):
    """Read-only arrays too: memory-mapped files are."""
    x, y = train_set.x.copy(), train_set.y.copy()
    x.setflags(write=False)
    y.setflags(write=False)
    STANDARD(make(), **SMALL, **AUGMENTED).fit(x, y, (x, y), batch_size=64, nb_epochs=1)
    assert np.array_equal(x, train_set.x)
    assert np.array_equal(y, train_set.y)


FORMS = {
    "tensors": lambda x, y: (torch.from_numpy(x), torch.from_numpy(y)),
    "with gradient": lambda x, y: (torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)),
    "float64": lambda x, y: (x.astype(np.float64), y.astype(float)),
    "lists": lambda x, y: (x.tolist(), y.tolist()),
    "lists of tensors": lambda x, y: (list(torch.from_numpy(x)), list(torch.from_numpy(y))),
    "one-hot tensor": lambda x, y: (x, torch.nn.functional.one_hot(torch.from_numpy(y), 10)),
    "pandas": lambda x, y: (x, pd.Series(y, index=range(7, 7 + len(y)))),
}


@pytest.mark.parametrize("form", FORMS)
def test_data_of_any_form_train_the_same_network(form, train_set):
    data = train_set.first(40)

    def trained(x, y):
        classifier = make()
        acw.NaturalTrainerPyTorch(classifier, **SMALL).fit(x, y, batch_size=20, nb_epochs=1)
        return weights(classifier)

    assert torch.equal(trained(*FORMS[form](data.x, data.y)), trained(data.x, data.y))


def test_lazy_images_that_do_not_suit_are_named(train_set):
    fit = STANDARD(make(), **SMALL).fit
    nothing = lazy(train_set).take(np.arange(0))
    wide = LazyImages(lambda i: np.zeros((1, 8, 9), np.float32), np.arange(4), (1, 8, 9))
    bright = LazyImages(lambda i: np.full((1, 8, 8), 255, np.float32), np.arange(4), (1, 8, 8))
    for x, says in ((nothing, "x is empty"), (wide, "images of shape"), (bright, "clip_values")):
        with pytest.raises(InputError, match=says):
            fit(x, np.zeros(len(x), np.int64), nb_epochs=1)
    with pytest.raises(InputError, match="200 examples, but 3 labels"):
        fit(lazy(train_set), train_set.y[:3], nb_epochs=1)


def test_augmentation_is_for_images_only():
    flat = acw.as_classifier(
        (module := nn.Linear(64, 10)), (64,), 10, optimizer=torch.optim.SGD(module.parameters()), device="cpu"
    )
    for options in ({"flip": True}, {"crop_padding": 2}):
        with pytest.raises(InputError, match="`crop_padding` and `flip` are for images"):
            STANDARD(flat, **options)
    x = np.random.default_rng(0).random((20, 64), dtype=np.float32)
    assert len(STANDARD(flat, **SMALL).fit(x, np.arange(20) % 10, nb_epochs=1)) == 1


COUNTS = [3, 0, 40, 1, 156]


def test_class_balanced_order_draws_each_class_alike():
    """By a chi-squared test over 20 epochs; each example of a class comes before one of them comes again."""
    y = torch.from_numpy(np.random.default_rng(0).permutation(np.repeat(np.arange(5), COUNTS)))
    order = ClassBalancedOrder(y, 32, seed=0)
    assert order.sizes == ShuffledOrder(200, 32, 0).sizes
    drawn = torch.zeros(5)
    for epoch in range(20):
        numbers, parts = order.shares(epoch)
        assert torch.equal(numbers, ClassBalancedOrder(y, 32, seed=0).shares(epoch)[0])
        assert [p.stop - p.start for p in parts] == order.sizes
        assert len(numbers.unique()) == 200  # an example and how often it came
        rows = numbers % ROUND
        for k, n in enumerate(COUNTS):
            times = rows[y[rows] == k].bincount(minlength=200)[y == k]
            assert n == 0 or times.max() - times.min() <= 1
        drawn += y[rows].bincount(minlength=5)
    assert drawn[1] == 0
    statistic = ((drawn[[0, 2, 3, 4]] - 1000) ** 2 / 1000).sum()
    assert statistic < 16.3  # 0.1 % of chi-squared with 3 degrees of freedom
    others = (ClassBalancedOrder(y, 32, seed=1).shares(0)[0], order.shares(1)[0])
    assert not any(torch.equal(order.shares(0)[0], other) for other in others)


def test_an_example_that_comes_again_is_cropped_anew():
    x = np.random.default_rng(0).random((12, 1, 8, 8), dtype=np.float32)
    y = np.repeat([0, 1], [1, 11])
    order, labels = ClassBalancedOrder(torch.from_numpy(y), 4, 0), torch.from_numpy(y)
    for source in (
        DeviceSource(torch.from_numpy(x), labels, None, order, Augmentation(3), CPU),
        LoaderSource(x, labels, order, Augmentation(3), CPU, 0),
    ):
        crops, ids = [], []
        for batch in source.batches(0):
            assert torch.equal(batch.y, labels[batch.ids % ROUND])
            crops += list(batch.x[batch.y == 0])
            ids += batch.ids.tolist()
        assert len(set(ids)) == 12
        assert len(crops) > 2
        assert len({c.numpy().tobytes() for c in crops}) > 1


def test_class_balance_needs_the_labels_beforehand(train_set):
    from art.data_generators import NumpyDataGenerator

    trainer = STANDARD(make(), **SMALL, class_balanced=True)
    generator = NumpyDataGenerator(train_set.x, np.eye(10)[train_set.y], batch_size=64)
    with pytest.raises(InputError, match="`class_balanced` draws from examples by their labels"):
        trainer.fit_generator(generator)
