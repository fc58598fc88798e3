"""Semi-supervised training: a batch's two parts, pseudo-labels, and images wherever they come from."""

from __future__ import annotations

import copy
import itertools
import shutil
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import trainable
from torch import nn
from torch.nn import functional
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset
from trainable import MART, SMALL, STANDARD, TRADES, Convolutional, weights

import art_classwise as acw
from art_classwise import InputError, losses
from art_classwise._core.state import evaluating
from art_classwise.datasets import LazyImages
from art_classwise.trainers import make_pseudo_labels, pseudo_labels, trained_weights
from art_classwise.trainers.engine import arrays
from art_classwise.trainers.engine.arrays import check_images
from art_classwise.trainers.engine.batches import CyclicOrder, ShuffledOrder
from art_classwise.trainers.policies import Fixed
from art_classwise.trainers.pseudo_labels import PseudoLabels, read_pseudo_labels

# Most networks here learn too little to be confident.
pytestmark = pytest.mark.filterwarnings("ignore:The pseudo-labels have a mean confidence")


@pytest.fixture(autouse=True, scope="module")
def few_steps():
    """Pseudo-labels are made in the training's own number of epochs, however few steps these are."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pseudo_labels, "_LEAST_STEPS", 1)
        yield


NATURAL, BAT, EXCLUDED = (
    acw.NaturalTrainerPyTorch,
    acw.AdversarialTrainerBATPyTorch,
    acw.AdversarialTrainerClassExcludedPyTorch,
)
QUICK = {"eps": 0.05, "max_iter": 1, "verbose": False}


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)


make = partial(trainable.make, optimizer=sgd)


@pytest.fixture(scope="module")
def labelled():
    """Sixty-four examples, as (x, y)."""
    some = acw.load_dataset("digits", "train").first(64)
    return some.x, some.y


@pytest.fixture(scope="module")
def unlabelled():
    """Fifty images, and labels of which a fifth is wrong."""
    some = acw.load_dataset("digits", "test").first(50)
    return some.x, np.where(np.arange(50) % 5 == 0, (some.y + 1) % 10, some.y)


class Seen:
    """The batches of a training, in the order of its steps: images, labels, and what the attack made of them."""

    def __init__(self, trainer):
        self.batches = []
        real = trainer._adversary

        def watched(**options):
            adversary = real(**options)
            if not options:
                return adversary  # the validation's

            def attack(module, x, y, uniform, budgets=None):
                x_adv = adversary(module, x, y, uniform, budgets)
                self.batches.append((x.clone(), y.clone(), x_adv.clone()))
                return x_adv

            return attack

        trainer._adversary = watched

    def parts(self, x, u):
        """Return each batch's numbers of labelled and of unlabelled images, and check that the former come first."""
        place = {image.tobytes(): ("x", i) for i, image in enumerate(x)}
        place |= {image.tobytes(): ("u", i) for i, image in enumerate(u)}
        assert len(place) == len(x) + len(u)
        found = []
        for images, *_ in self.batches:
            kinds, numbers = zip(*(place[image.tobytes()] for image in images.numpy()), strict=True)
            first = kinds.count("x")
            assert kinds == ("x",) * first + ("u",) * (len(kinds) - first)
            found.append((list(numbers[:first]), list(numbers[first:])))
        return found


def trained(
    method, labelled, unlabelled, *, epochs=1, batch_size=64, module=linear, optimizer=sgd, fit=None, **options
):
    """Train with both, and return the classifier, what was seen, and the history."""
    classifier = make(module, optimizer=optimizer)
    trainer = method(classifier, **{**QUICK, **options})
    seen = Seen(trainer)
    given = {"x_unlabeled": unlabelled[0], "y_pseudo": unlabelled[1], **(fit or {})}
    history = trainer.fit(*labelled, batch_size=batch_size, nb_epochs=epochs, **given)
    return classifier, seen, history


# What a step descends.

VALUES = {
    STANDARD: lambda z, z_adv, y: losses.standard(z_adv, y),
    TRADES: lambda z, z_adv, y: losses.trades(z, z_adv, y, beta=6.0),
    MART: lambda z, z_adv, y: losses.mart(z, z_adv, y, beta=5.0),
}


def literal_training(method, batches, known, gamma, *, two_passes=False, awp=0.0, decay=None, class_weights=None):
    """The plain loop: l of every example, those of unlabelled ones times gamma, summed and divided by the batch."""
    torch.manual_seed(0)
    network = Convolutional().train()
    stepper, average, sums = sgd(network.parameters()), None, []

    def backward(x, y, x_adv):
        stepper.zero_grad()
        if two_passes:
            z = network(x)
            z_adv = network(x_adv)
        elif method is STANDARD:
            z, z_adv = None, network(x_adv)
        else:
            z, z_adv = network(torch.cat([x, x_adv])).split(len(x))
        values = VALUES[method](z, z_adv, y)
        total = 0.0
        for image, label, value in zip(x.numpy(), y.tolist(), values, strict=True):
            factor = 1.0 if image.tobytes() in known else gamma
            total = total + factor * (1.0 if class_weights is None else class_weights[label]) * value
        (total / len(x)).backward()
        return float(total.detach())

    for number, (x, y, x_adv) in enumerate(batches):
        if awp:
            before = copy.deepcopy(network.state_dict())
            backward(x, y, x_adv)
            with torch.no_grad():
                moved = {
                    name: p + awp * p.norm() * p.grad / p.grad.norm()
                    for name, p in network.named_parameters()
                    if p.dim() > 1
                }
            network.load_state_dict({**before, **moved})
            sums.append(backward(x, y, x_adv))
            network.load_state_dict({n: before[n] if n in moved else v for n, v in network.state_dict().items()})
        else:
            sums.append(backward(x, y, x_adv))
        stepper.step()
        if decay is not None:
            keep = min(decay, (1 + number) / (10 + number))
            now = {n: v.double() for n, v in network.state_dict().items()}
            average = now if average is None else {n: keep * average[n] + (1 - keep) * v for n, v in now.items()}
            average["norm.num_batches_tracked"] = now["norm.num_batches_tracked"]
    end = network.state_dict() if average is None else average
    return end, sum(sums) / sum(len(x) for x, *_ in batches)


BY_CLASS = [0.5, 1.0, 2.0, 1.0, 0.0, 1.0, 3.0, 1.0, 1.0, 0.25]
COMBINATIONS = {
    "alone": ({}, {}),
    "two passes": ({"two_passes": True}, {"two_passes": True}),
    "perturbed weights": ({"awp_gamma": 0.02}, {"awp": 0.02}),
    "averaged weights": ({"ema_decay": 0.5}, {"decay": 0.5}),
    "class weights": ({"class_policy": Fixed(weights=BY_CLASS)}, {"class_weights": BY_CLASS}),
    "all": (
        {"two_passes": True, "awp_gamma": 0.02, "ema_decay": 0.5, "class_policy": Fixed(weights=BY_CLASS)},
        {"two_passes": True, "awp": 0.02, "decay": 0.5, "class_weights": BY_CLASS},
    ),
}


@pytest.mark.parametrize("combination", COMBINATIONS)
@pytest.mark.parametrize("method", VALUES)
def test_steps_descend_the_labelled_sum_and_gamma_times_the_unlabelled_one(method, combination, labelled, unlabelled):
    """Two steps, so that momentum counts; pseudo-labels are taken as labels, and gamma is neither 0 nor 1."""
    options, literal = COMBINATIONS[combination]
    if method is STANDARD:  # it has one pass, of the adversarial images
        literal = {**literal, "two_passes": False}
    classifier, seen, history = trained(
        method, labelled, unlabelled, module=Convolutional, fit={"gamma": 0.3}, max_iter=2, **options
    )
    assert len(seen.batches) == 2
    label_of = {image.tobytes(): label for x, y in (labelled, unlabelled) for image, label in zip(x, y, strict=True)}
    for x, y, x_adv in seen.batches:
        assert y.tolist() == [label_of[image.tobytes()] for image in x.numpy()]
        assert ((x_adv != x).flatten(1).any(1)).all()  # unlabelled ones are attacked as well
    known = {image.tobytes() for image in labelled[0]}
    expected, loss = literal_training(method, seen.batches, known, 0.3, **literal)
    for name, value in classifier.model.state_dict().items():
        torch.testing.assert_close(value, expected[name].to(value.dtype), rtol=1e-4, atol=1e-5, msg=name)
    assert history["loss"].iloc[0] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("method", [NATURAL, BAT])
def test_natural_training_and_bat_weigh_unlabelled_examples_too(method, labelled, unlabelled):
    """One step over all there is, so that its order doesn't matter; BAT's inputs are caught as it made them."""
    u, pseudo = unlabelled[0], unlabelled[1]
    caught = []

    class Watched(Convolutional):
        def forward(self, x):
            if self.training:
                caught.append(x.clone())
            return super().forward(x)

    classifier, seen, _ = trained(
        method,
        labelled,
        (u, pseudo),
        batch_size=114,
        module=Watched,
        fit={"gamma": 0.3, "unlabeled_fraction": 50 / 114},
    )
    torch.manual_seed(0)
    network = Convolutional().train()
    stepper = sgd(network.parameters())
    (images,) = caught
    gamma = torch.tensor([1.0] * 64 + [0.3] * 50)
    if method is NATURAL:
        label_of = {
            image.tobytes(): label for x, y in (labelled, unlabelled) for image, label in zip(x, y, strict=True)
        }
        y = torch.tensor([label_of[image.tobytes()] for image in images.numpy()])
        values = functional.cross_entropy(network(images), y, reduction="none")
    else:
        ((x, y, x_adv),) = seen.batches
        assert torch.equal(images, torch.cat([x, x_adv]))
        values = losses.bat(*network(images).chunk(3), y, beta=6.0)
    ((gamma * values).sum() / 114).backward()
    stepper.step()
    for name, value in classifier.model.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("crop_padding", [0, 1])
def test_gamma_of_zero_is_training_without_unlabelled_images_at_a_lower_rate(crop_padding, labelled, unlabelled):
    """The sum is of the labelled examples alone, but divided by the number of all; they come in the same order."""
    plain = torch.optim.SGD
    options = {"crop_padding": crop_padding, "epochs": 2, "fit": {"gamma": 0.0}}
    half, _, _ = trained(TRADES, labelled, unlabelled, optimizer=partial(plain, lr=0.2), **options)
    other = unlabelled[0][::-1].copy() * 0.5, unlabelled[1]
    same, _, _ = trained(TRADES, labelled, other, optimizer=partial(plain, lr=0.2), **options)
    assert torch.equal(weights(half), weights(same))
    without = make(linear, optimizer=partial(plain, lr=0.1))
    TRADES(without, **QUICK, crop_padding=crop_padding).fit(*labelled, batch_size=32, nb_epochs=2)
    torch.testing.assert_close(weights(half), weights(without), rtol=1e-4, atol=1e-6)
    counted, _, _ = trained(TRADES, labelled, unlabelled, optimizer=partial(plain, lr=0.2), epochs=2)
    assert (weights(half) - weights(counted)).abs().max() > 1e-3


def test_class_budgets_of_unlabelled_examples_are_those_of_their_pseudo_labels(labelled, unlabelled):
    radii = np.linspace(0.01, 0.1, 10)
    _, seen, _ = trained(STANDARD, labelled, unlabelled, class_policy=Fixed(budgets=radii), max_iter=5)
    for x, y, x_adv in seen.batches:
        largest = (x_adv - x).abs().flatten(1).amax(1)
        np.testing.assert_allclose(largest, radii[y], rtol=1e-3)


def test_class_policies_judge_by_labelled_examples_alone(labelled, unlabelled):
    """What they are shown, and what they take the classes' shares to be."""
    shown, shares = [], []

    class Watching(Fixed):
        def begin(self, context):
            super().begin(context)
            shares.append(context.shares)

        def weigh(self, y, logits_adv):
            assert len(logits_adv) == len(y)
            shown.append(y)
            return super().weigh(y, logits_adv)

    x, y = labelled[0], labelled[1] % 9
    policy = Watching(weights=[1.0] * 10)
    trained(STANDARD, (x, y), (unlabelled[0], np.full(50, 9)), class_policy=policy)
    assert sorted(torch.cat(shown).tolist()) == sorted(y)
    np.testing.assert_allclose(shares[-1], np.bincount(y, minlength=10) / 64)  # of the training, after any trial


# Which examples come when.


@pytest.mark.parametrize(
    ("n", "batch_size", "fraction", "sizes"),
    [
        (64, 32, 0.5, [(16, 16)] * 4),
        (62, 32, 0.1, [(29, 3), (29, 3), (4, 1)]),  # 4 x 3 / 29 is less than one half, but each batch has one
        (20, 8, 0.25, [(6, 2), (6, 2), (6, 2), (2, 1)]),
        (19, 8, 0.25, [(6, 2), (6, 2), (7, 2)]),  # a last one joins the batch before
        (5, 2, 0.5, [(1, 1), (1, 1), (1, 1), (2, 2)]),
        (3, 10, 0.9, [(1, 9), (2, 18)]),
        (7, 128, 0.5, [(7, 7)]),
    ],
)
def test_each_batch_has_both_kinds_in_the_same_ratio(n, batch_size, fraction, sizes, labelled, unlabelled):
    x, y = (values[:n] for values in labelled)
    fit = {"unlabeled_fraction": fraction}
    _, seen, _ = trained(STANDARD, (x, y), unlabelled, epochs=2, batch_size=batch_size, fit=fit)
    parts = seen.parts(x, unlabelled[0])
    assert [(len(first), len(second)) for first, second in parts] == sizes * 2
    for epoch in (parts[: len(sizes)], parts[len(sizes) :]):  # an epoch is one pass over the labelled examples
        assert sorted(itertools.chain(*(first for first, _ in epoch))) == list(range(n))


@pytest.mark.parametrize("m", [7, 50])
def test_an_unlabelled_image_comes_once_before_any_comes_twice(m, labelled, unlabelled):
    """An epoch takes 64 of them: of 50 all and some again, of 7 all nine times."""
    u, pseudo = (values[:m] for values in unlabelled)
    _, seen, _ = trained(STANDARD, labelled, (u, pseudo), epochs=3)
    drawn = [i for _, second in seen.parts(labelled[0], u) for i in second]
    assert len(drawn) == 3 * 64
    rounds = [tuple(drawn[begin : begin + m]) for begin in range(0, len(drawn), m)]
    assert all(sorted(r) == list(range(m)) for r in rounds[:-1])
    assert len(set(rounds[-1])) == len(rounds[-1])
    assert len(set(rounds)) == len(rounds)  # shuffled anew


def test_the_walk_goes_on_where_the_epoch_before_ended_for_all_sizes():
    for m in range(1, 12):
        for sizes in ([1], [3, 2], [4, 4, 4], [5] * 7):
            walked = CyclicOrder(m, sizes, 0)
            parts = [walked.shares(epoch) for epoch in range(8)]
            for order, slices in parts:
                assert [part.stop - part.start for part in slices] == sizes
                assert len(order) == sum(sizes)
            drawn = torch.cat([order for order, _ in parts]).tolist()
            for begin in range(0, len(drawn) - m + 1, m):
                assert sorted(drawn[begin : begin + m]) == list(range(m))
            late, _ = walked.shares(5)  # a function of the epoch's number: resuming asks for no other
            assert late.tolist() == drawn[5 * sum(sizes) : 6 * sum(sizes)]


def test_every_place_of_the_walk_is_as_likely_for_every_image():
    walked, counts = CyclicOrder(6, [6], 0), np.zeros((6, 6))
    for epoch in range(3000):
        counts[np.arange(6), walked.shares(epoch)[0].numpy()] += 1
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500 * 5 / 6)


def test_order_follows_from_the_seed_alone(labelled, unlabelled):
    def order(seed, epochs=3):
        torch.manual_seed(len(orders))  # whatever the global state is
        _, seen, _ = trained(STANDARD, labelled, unlabelled, epochs=epochs, seed=seed)
        return [i for both in seen.parts(labelled[0], unlabelled[0]) for part in both for i in part]

    orders = []
    for seed in (0, 0, 1):
        orders.append(order(seed))
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0][: 2 * 128] == order(0, epochs=2)  # nor does it matter how many epochs there will be


def test_labelled_examples_come_in_the_order_they_have_without_unlabelled_ones(labelled, unlabelled):
    _, seen, _ = trained(STANDARD, labelled, unlabelled, epochs=2)
    orders = [ShuffledOrder(64, 32, 0).shares(epoch)[0].tolist() for epoch in range(2)]
    first = [i for first, _ in seen.parts(labelled[0], unlabelled[0]) for i in first]
    assert first == list(itertools.chain(*orders))


def test_an_unlabelled_image_has_crops_and_starts_of_its_own(labelled):
    """The same images once more, as unlabelled ones: they aren't cropped, or started from, as the labelled are."""
    x, y = labelled[0][:8], labelled[1][:8]
    _, seen, _ = trained(STANDARD, (x, y), (x, y), batch_size=16, crop_padding=2, epochs=4)
    differ = 0
    for images, _, x_adv in seen.batches:
        (rows,) = np.nonzero([any(torch.equal(a, b) for b in images[8:]) for a in images[:8]])
        differ += 8 - len(rows)
        assert not any(torch.equal(a, b) for a in x_adv[:8] for b in x_adv[8:])
    assert differ > 20  # of 32


# Wherever images come from.


class Stored(torch.utils.data.Dataset):
    """A torch data set of images alone."""

    def __init__(self, x, read=None):
        self.x, self.read = x, [] if read is None else read

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        self.read.append(i)
        return torch.from_numpy(self.x[i])


def on_disk(x, folder):
    path = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(path, x)
    return np.load(path, mmap_mode="r")


def lazy(x):
    return LazyImages(lambda i: x[i], np.arange(len(x)), x.shape[1:])


def tensors(x):
    return TensorDataset(torch.from_numpy(x), torch.zeros(len(x)))


KINDS = {
    "tensor": lambda x, folder: torch.from_numpy(x),
    "float64": lambda x, folder: x.astype(np.float64),
    "read as needed": lambda x, folder: lazy(x),
    "Dataset": lambda x, folder: acw.Dataset(x, np.zeros(len(x), np.int64), ("a", "b")),
    "Dataset, read as needed": lambda x, folder: acw.Dataset(lazy(x), np.zeros(len(x), np.int64), ("a", "b")),
    "memory-mapped": on_disk,
    "torch images": lambda x, folder: Stored(x),
    "torch pairs": lambda x, folder: tensors(x),
    "torch subset": lambda x, folder: Subset(tensors(np.concatenate([x[:3], x])), range(3, 3 + len(x))),
    "torch, concatenated": lambda x, folder: ConcatDataset([tensors(x[:5]), tensors(x[5:])]),
}


@pytest.fixture(scope="module")
def from_arrays(labelled, unlabelled):
    return {levels: ends(labelled, unlabelled, levels) for levels in (16, 255)}


def ends(labelled, unlabelled, levels, convert=lambda x: x):
    """Return weights and pseudo-labels; images of 255 grey levels are held as uint8, the digits' of 16 aren't."""
    x, u = (
        (np.round(images * levels) / np.float32(levels)).astype(np.float32) for images in (labelled[0], unlabelled[0])
    )
    classifier = make(linear)
    trainer = TRADES(classifier, **QUICK, crop_padding=1, flip=True)
    trainer.fit(convert(x), labelled[1], batch_size=40, nb_epochs=2, x_unlabeled=convert(u), unlabeled_fraction=0.4)
    return weights(classifier), trainer.pseudo_labels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", [16, 255])
def test_training_is_the_same_to_the_bit_wherever_images_come_from(
    kind, levels, labelled, unlabelled, from_arrays, tmp_path
):
    """Labelled and unlabelled ones, while pseudo-labels are made and after."""
    expected, pseudo = from_arrays[levels]
    got, others = ends(labelled, unlabelled, levels, partial(KINDS[kind], folder=tmp_path))
    assert torch.equal(got, expected)
    assert np.array_equal(others.labels, pseudo.labels)
    assert np.array_equal(others.confidence, pseudo.confidence)


def test_training_is_the_same_to_the_bit_where_images_do_not_fit(labelled, unlabelled, from_arrays, monkeypatch):
    monkeypatch.setattr(arrays, "_fits", lambda n_bytes, device: False)
    got, _ = ends(labelled, unlabelled, 255)
    assert torch.equal(got, from_arrays[255][0])


def test_unlabelled_images_are_read_as_they_are_needed(labelled):
    """Two to check them, up to 64 to know them by, and the 64 of an epoch, out of a thousand."""
    read = []
    stored = Stored(np.random.default_rng(0).random((1000, 1, 8, 8), dtype=np.float32), read)
    trained(STANDARD, labelled, (stored, np.arange(1000) % 10))
    assert 64 <= len(read) <= 64 + 64 + 4
    assert len(set(read[-64:])) == 64


class Mapped(np.memmap):
    """A memory-mapped array that notes how many images are read at once."""

    largest = 0

    def __getitem__(self, key):
        found = super().__getitem__(key)
        if getattr(found, "ndim", 0) == 4:
            Mapped.largest = max(Mapped.largest, len(found))
        return found


def test_memory_mapped_images_are_read_as_they_are_needed(labelled, tmp_path, monkeypatch):
    monkeypatch.setattr(Mapped, "largest", 0)
    written = np.memmap(tmp_path / "images", np.float32, "w+", shape=(1000, 1, 8, 8))
    written[:] = 0.5
    x = Mapped(tmp_path / "images", np.float32, "r", shape=(1000, 1, 8, 8))
    trained(STANDARD, labelled, (x, np.arange(1000) % 10))
    assert 32 <= Mapped.largest <= 64
    assert (np.asarray(x) == 0.5).all()


# What the history counts.


@pytest.mark.parametrize("method", [STANDARD, MART, BAT, NATURAL])
def test_the_historys_accuracies_are_of_labelled_examples_and_its_loss_of_all(method, labelled, unlabelled):
    """Pseudo-labels of the tenth class alone, which no labelled example is of: it counts as absent."""
    x, y = labelled[0], labelled[1] % 9
    classifier, rows = make(), []
    trainer = method(classifier, **QUICK)
    objective = trainer._objective

    def watched(adversary):
        made = objective(adversary)

        def terms(z, z_adv, y):
            first, second = made.terms(z, z_adv, y)
            values = first if second is None else first + made.beta * second
            right = [None if logits is None else (logits[: len(y)].argmax(1) == y)[:32] for logits in (z, z_adv)]
            gamma = torch.tensor([1.0] * 32 + [0.3] * 32)
            rows.append((gamma * values.detach(), y[:32], *right))
            assert y[32:].tolist() == [9] * 32
            return first, second

        return replace(made, terms=terms)

    trainer._objective = watched
    history = trainer.fit(
        x, y, batch_size=64, nb_epochs=1, x_unlabeled=unlabelled[0], y_pseudo=np.full(50, 9), gamma=0.3
    )
    row, counted = history.iloc[0], torch.cat([r[1] for r in rows]).numpy()
    assert sorted(counted) == sorted(y)
    assert row["loss"] == pytest.approx(float(torch.cat([r[0] for r in rows]).double().mean()), rel=1e-5)
    for place, name in ((2, "clean"), (3, "robust")):
        unmeasured = (method, name) in ((STANDARD, "clean"), (NATURAL, "robust"))
        if unmeasured:
            assert np.isnan(row[name])
            continue
        right = torch.cat([r[place] for r in rows]).double().numpy()
        assert row[name] == pytest.approx(right.mean())
        for k in range(9):
            assert row[f"{name}_{k}"] == pytest.approx(right[counted == k].mean())
    assert np.isnan(row[["clean_9", "robust_9"]].astype(float)).all()


def test_progress_counts_examples_of_both_kinds(labelled, unlabelled, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")  # in a log, too
    trained(STANDARD, labelled, unlabelled, epochs=2, verbose=True)
    told = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in told] == ["50%", "100%"]  # two epochs of 64 and 64


# Pseudo-labels.


def literal_pseudo_labels(x, y, u, epochs, batch_size, seed=0):
    """Natural training by a plain loop: SGD, momentum 0.9, weight decay 5e-4, the rate along a cosine, over epochs."""
    torch.manual_seed(0)
    network = Convolutional().train()
    stepper = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    for epoch in range(epochs):
        for group in stepper.param_groups:
            group["lr"] = 0.05 * (1 + np.cos(np.pi * epoch / epochs)) / 2
        order, _ = ShuffledOrder(len(x), batch_size, seed).shares(epoch)
        for rows in order.split(batch_size):
            stepper.zero_grad()
            functional.cross_entropy(network(torch.from_numpy(x)[rows]), torch.from_numpy(y)[rows]).backward()
            stepper.step()
    with torch.no_grad():
        confidence, labels = network.eval()(torch.from_numpy(u)).softmax(1).max(1)
    return labels.numpy(), confidence.numpy()


def test_pseudo_labels_are_what_a_naturally_trained_copy_predicts(labelled, unlabelled):
    classifier = make()
    classifier.model.norm.eval()
    before = copy.deepcopy(classifier.model.state_dict())
    modes = [module.training for module in classifier.model.modules()]
    torch.manual_seed(5)
    drawn = torch.get_rng_state()
    made = make_pseudo_labels(classifier, *labelled, unlabelled[0], nb_epochs=6, batch_size=16, verbose=False)
    # The classifier is as it was, and so is what else there is.
    assert all(torch.equal(value, before[name]) for name, value in classifier.model.state_dict().items())
    assert [module.training for module in classifier.model.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in classifier.model.parameters())
    assert not classifier.optimizer.state
    assert torch.equal(torch.get_rng_state(), drawn)
    labels, confidence = literal_pseudo_labels(*labelled, unlabelled[0], 6, 16)
    assert np.array_equal(made.labels, labels)
    np.testing.assert_allclose(made.confidence, confidence, rtol=1e-4)
    assert (made.labels.dtype, made.confidence.dtype, made.n_classes) == (np.int64, np.float32, 10)


def test_fit_makes_the_pseudo_labels_it_is_not_given(labelled, unlabelled):
    """With the training's epochs, batches and seed; then it trains as if they had been given."""
    x, y, u = *labelled, unlabelled[0]
    classifier, given = make(), make()
    trainer = TRADES(classifier, **SMALL, seed=3)
    history = trainer.fit(x, y, batch_size=32, nb_epochs=3, x_unlabeled=u)
    labels, confidence = literal_pseudo_labels(x, y, u, 3, 32, seed=3)
    assert np.array_equal(trainer.pseudo_labels.labels, labels)
    np.testing.assert_allclose(trainer.pseudo_labels.confidence, confidence, rtol=1e-4)
    TRADES(given, **SMALL, seed=3).fit(x, y, batch_size=32, nb_epochs=3, x_unlabeled=u, y_pseudo=labels)
    assert torch.equal(weights(classifier), weights(given))
    assert history.attrs["pseudo_labels"] == trainer.pseudo_labels.summary()
    assert history.attrs["pseudo_labels"] == {
        "n": 50,
        "mean_confidence": pytest.approx(confidence.mean(), rel=1e-4),
        "confident": pytest.approx((confidence >= 0.9).mean()),
    }


def test_few_labels_are_passed_over_until_there_were_a_thousand_steps(monkeypatch, labelled, unlabelled):
    """A pass over 40 labels in batches of 32 is two steps, and a network learns nothing in six."""
    asked = []

    def refuse(*_, **options):
        asked.append(options["nb_epochs"])
        raise InputError("enough")

    monkeypatch.setattr(pseudo_labels, "_LEAST_STEPS", 1000)
    monkeypatch.setattr(pseudo_labels, "make_pseudo_labels", refuse)
    x, y = (values[:40] for values in labelled)
    for epochs in (3, 700):
        with pytest.raises(InputError, match="enough"):
            TRADES(make(), **SMALL).fit(x, y, batch_size=32, nb_epochs=epochs, x_unlabeled=unlabelled[0])
    assert asked == [500, 700]


def test_labels_that_will_be_wrong_are_warned_of(monkeypatch, labelled, unlabelled):
    x, y = labelled
    for confidence, said in ((0.49, True), (0.51, False)):
        made = PseudoLabels(unlabelled[1], np.full(len(unlabelled[1]), confidence, np.float32), 10)
        monkeypatch.setattr(pseudo_labels, "make_pseudo_labels", lambda *_, made=made, **__: made)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            TRADES(make(), **SMALL).fit(x, y, nb_epochs=1, x_unlabeled=unlabelled[0])
        assert [str(w.message)[:51] for w in caught] == ["The pseudo-labels have a mean confidence of 49% onl"] * said


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"classifier": 3}, "must be an ART PyTorchClassifier, but is a int"),
        ({"x": np.zeros((4, 1, 9, 9), np.float32)}, r"shape \(1, 8, 8\), but x holds images of shape \(1, 9, 9\)"),
        ({"x_unlabeled": np.zeros((4, 8, 8), np.float32)}, r"but x_unlabeled holds images of shape \(8, 8\)"),
        ({"lr": -1.0}, "`lr` must be a finite number above 0, but got -1.0"),
        ({"excluded": (8,), "y": np.array([1, 8, 2, 3])}, r"`y` has labels of the excluded classes \[8\]"),
    ],
)
def test_what_can_not_be_labelled_is_named(changed, says):
    image = np.zeros((4, 1, 8, 8), np.float32)
    given = {"classifier": make(), "x": image, "y": np.arange(4), "x_unlabeled": image, "verbose": False, **changed}
    with pytest.raises(InputError, match=says):
        make_pseudo_labels(**given)


def test_pseudo_labels_are_told_by_class():
    labels, confidence = np.array([2, 0, 2, 2, 0]), np.array([0.5, 0.9, 0.75, 1.0, 0.95], np.float32)
    made = PseudoLabels(labels, confidence, 4)
    expected = pd.DataFrame(
        {"n": [2, 0, 3, 0], "confidence": [0.925, np.nan, 0.75, np.nan]}, index=pd.RangeIndex(4, name="class")
    )
    pd.testing.assert_frame_equal(made.by_class(), expected)
    assert made.summary() == {"n": 5, "mean_confidence": pytest.approx(0.82), "confident": pytest.approx(0.6)}


def test_confidence_is_higher_where_pseudo_labels_are_right(train_set, digits):
    made = make_pseudo_labels(make(), train_set.x, train_set.y, digits.x, nb_epochs=8, batch_size=32, verbose=False)
    right = made.labels == digits.y
    assert right.mean() > 0.9
    assert made.confidence[right].mean() > made.confidence[~right].mean() + 0.1
    assert ((made.confidence > 0.1) & (made.confidence <= 1)).all()


@pytest.mark.parametrize("form", ["indices", "one-hot", "a column"])
def test_pseudo_labels_that_are_given_have_no_confidence(form, labelled, unlabelled):
    u, pseudo = unlabelled
    given = {"indices": pseudo, "one-hot": np.eye(10)[pseudo], "a column": pseudo[:, None]}[form]
    trainer = STANDARD(make(linear), **QUICK)
    history = trainer.fit(*labelled, nb_epochs=1, x_unlabeled=u, y_pseudo=given)
    assert "pseudo_labels" not in history.attrs
    assert np.array_equal(trainer.pseudo_labels.labels, pseudo)
    assert np.isnan(trainer.pseudo_labels.confidence).all()
    by_class = trainer.pseudo_labels.by_class()
    assert by_class["n"].tolist() == np.bincount(pseudo, minlength=10).tolist()
    assert by_class["confidence"].isna().all()
    trainer.fit(*labelled, nb_epochs=1)
    assert trainer.pseudo_labels is None  # those of the last training


def test_excluded_classes_are_no_pseudo_labels(labelled, unlabelled):
    """None is made of them; given ones are left out, with their images."""
    x, y, u, pseudo = *labelled, *unlabelled
    trainer = EXCLUDED(make(), excluded=[0, 3], objective="standard", **QUICK)
    seen = Seen(trainer.trainer)
    trainer.fit(x, y, batch_size=32, nb_epochs=3, x_unlabeled=u)
    assert not np.isin(trainer.trainer.pseudo_labels.labels, [0, 3]).any()
    assert len(np.unique(trainer.trainer.pseudo_labels.labels)) > 1
    biased, others = make(), ~np.isin(y, [0, 3])  # a network that would predict the one for everything
    biased.model.head.bias.data[3] = 100
    options = {"nb_epochs": 1, "lr": 1e-6, "verbose": False}
    assert set(make_pseudo_labels(biased, x[others], y[others], u, **options).labels) == {3}
    made = make_pseudo_labels(biased, x[others], y[others], u, excluded=(0, 3), **options)
    assert not np.isin(made.labels, [0, 3]).any()
    trainer = EXCLUDED(make(), excluded=[0, 3], objective="standard", **QUICK)
    seen = Seen(trainer.trainer)
    trainer.fit(x, y, batch_size=32, nb_epochs=3, x_unlabeled=u, y_pseudo=pseudo)
    assert not np.isin(torch.cat([labels for _, labels, _ in seen.batches]), [0, 3]).any()
    drawn = {i for _, second in seen.parts(x, u) for i in second}
    assert drawn == set(np.flatnonzero(~np.isin(pseudo, [0, 3])))


# Interrupted and resumed.


class Stop(torch.optim.lr_scheduler.StepLR):
    """Ends the process after an epoch, as Ctrl-C would in the next one."""

    after = None

    def step(self, *args):
        super().step(*args)
        if self.last_epoch == self.after:
            raise KeyboardInterrupt


def run(labelled, unlabelled, folder, *, resume=True, **fit):
    """Train for four epochs of which each takes 64 of 50 unlabelled images, with all that has a state."""
    classifier = make()
    options = {"ema_decay": 0.9, "awp_gamma": 5e-3, "crop_padding": 1, "flip": True, **QUICK}
    trainer = MART(classifier, **options, class_policy=Fixed(weights=BY_CLASS))
    history = trainer.fit(
        *labelled,
        (unlabelled[0][:20], unlabelled[1][:20]),
        batch_size=64,
        nb_epochs=4,
        scheduler=Stop(classifier.optimizer, 1, 0.7),
        keep="robust",
        checkpoint_dir=folder,
        resume=resume,
        **{"x_unlabeled": unlabelled[0], "gamma": 0.5, **fit},
    )
    return weights(classifier), history, trainer.pseudo_labels


@pytest.fixture(scope="module")
def whole(labelled, unlabelled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return run(labelled, unlabelled, folder, resume=False), folder


def check_same(got, expected):
    assert torch.equal(got[0], expected[0])
    pd.testing.assert_frame_equal(
        got[1].drop(columns="images_per_second"), expected[1].drop(columns="images_per_second"), check_exact=True
    )
    assert got[1].attrs == expected[1].attrs
    assert np.array_equal(got[2].labels, expected[2].labels)
    assert np.array_equal(got[2].confidence, expected[2].confidence, equal_nan=True)


def refuse(*args, **kwargs):
    raise AssertionError("pseudo-labels are made again")


@pytest.mark.parametrize("after", [1, 3])
def test_a_killed_training_goes_on_to_the_same_bits_with_the_pseudo_labels_it_had(
    after, labelled, unlabelled, whole, tmp_path, monkeypatch
):
    monkeypatch.setattr(Stop, "after", after)
    with pytest.raises(KeyboardInterrupt):
        run(labelled, unlabelled, tmp_path, resume=False)
    assert {path.name for path in tmp_path.glob("*.npz")} == {"pseudo_labels.npz"}
    assert (tmp_path / "training.pt").exists()
    monkeypatch.setattr(Stop, "after", None)
    monkeypatch.setattr(pseudo_labels, "make_pseudo_labels", refuse)
    check_same(run(labelled, unlabelled, tmp_path), whole[0])
    for name, value in trained_weights(tmp_path).items():
        assert torch.equal(value, trained_weights(whole[1])[name])


def test_a_training_with_given_pseudo_labels_goes_on_to_the_same_bits(labelled, unlabelled, tmp_path, monkeypatch):
    given = {"y_pseudo": unlabelled[1]}
    expected = run(labelled, unlabelled, tmp_path / "whole", **given)
    monkeypatch.setattr(Stop, "after", 2)
    with pytest.raises(KeyboardInterrupt):
        run(labelled, unlabelled, tmp_path / "killed", **given)
    monkeypatch.setattr(Stop, "after", None)
    check_same(run(labelled, unlabelled, tmp_path / "killed", **given), expected)
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {"training.previous.pt", "training.pt"}


def test_a_training_killed_before_its_first_step_has_its_pseudo_labels(
    labelled, unlabelled, whole, tmp_path, monkeypatch
):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(arrays.MixedSource, "batches", killed)
        with pytest.raises(KeyboardInterrupt):
            run(labelled, unlabelled, tmp_path)
    monkeypatch.setattr(pseudo_labels, "make_pseudo_labels", refuse)
    check_same(run(labelled, unlabelled, tmp_path), whole[0])


def test_pseudo_labels_without_a_training_beside_them_may_be_another_networks(labelled, unlabelled, whole, tmp_path):
    """Nothing tells whose they are: they are made again."""
    run(labelled, unlabelled, tmp_path)
    (tmp_path / "training.pt").unlink()
    with np.load(tmp_path / "pseudo_labels.npz") as held:
        others = dict(held)
    others["labels"] = (others["labels"] + 1) % 10
    np.savez(tmp_path / "pseudo_labels.npz", **others)
    check_same(run(labelled, unlabelled, tmp_path), whole[0])


def damage(name):
    def cut(path):
        path.write_bytes(path.read_bytes()[:300])

    def flip(path):
        content = bytearray(path.read_bytes())
        content[200] ^= 255
        path.write_bytes(bytes(content))

    def array(path):
        with path.open("wb") as file:
            np.save(file, np.zeros(3))

    def lacking(path):
        with np.load(path) as held, path.with_name("other").open("wb") as file:
            np.savez(file, key=held["key"], labels=held["labels"])
        path.with_name("other").replace(path)

    return {
        "missing": lambda path: path.unlink(),
        "empty": lambda path: path.write_bytes(b""),
        "text": lambda path: path.write_bytes(b"hello"),
        "cut": cut,
        "a flipped bit": flip,
        "an array": array,
        "lacking": lacking,
    }[name]


@pytest.mark.parametrize("how", ["missing", "empty", "text", "cut", "a flipped bit", "an array", "lacking"])
def test_pseudo_labels_whose_file_is_damaged_are_made_again(how, labelled, unlabelled, whole, tmp_path, monkeypatch):
    """In the first epoch: by the network that the training begins with, so that they are the same."""
    monkeypatch.setattr(Stop, "after", 1)
    with pytest.raises(KeyboardInterrupt):
        run(labelled, unlabelled, tmp_path)
    monkeypatch.setattr(Stop, "after", None)
    damage(how)(tmp_path / "pseudo_labels.npz")
    check_same(run(labelled, unlabelled, tmp_path), whole[0])


@pytest.mark.parametrize("how", ["missing", "empty", "cut"])
def test_a_training_that_is_under_way_is_not_given_other_pseudo_labels(how, labelled, unlabelled, whole, tmp_path):
    shutil.copytree(whole[1], tmp_path / "copy")
    damage(how)(tmp_path / "copy" / "pseudo_labels.npz")
    with pytest.raises(InputError, match="pseudo_labels.npz is missing, damaged, or of other images"):
        run(labelled, unlabelled, tmp_path / "copy")


def test_pseudo_labels_of_other_data_are_not_taken(labelled, unlabelled, tmp_path):
    made = PseudoLabels(np.array([1, 0]), np.array([0.5, 0.25], np.float32), 3)
    made.write(tmp_path / "labels.npz", "these")
    read = read_pseudo_labels(tmp_path / "labels.npz", "these")
    assert np.array_equal(read.labels, made.labels)
    assert np.array_equal(read.confidence, made.confidence)
    assert (read.labels.dtype, read.confidence.dtype, read.n_classes) == (np.int64, np.float32, 3)
    assert read_pseudo_labels(tmp_path / "labels.npz", "others") is None
    assert read_pseudo_labels(tmp_path / "none.npz", "these") is None
    assert [path.name for path in tmp_path.iterdir()] == ["labels.npz"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"gamma": 0.25}, "data.gamma was 0.5, but is 0.25"),
        ({"unlabeled_fraction": 0.25}, "data.unlabeled_fraction was 0.5, but is 0.25"),
        ({"y_pseudo": np.arange(50) % 10}, "data.unlabeled was"),
        ({"x_unlabeled": None}, "data.unlabeled was .*, but is None"),
    ],
)
def test_a_training_of_another_recipe_is_named(changed, says, labelled, unlabelled, whole):
    with pytest.raises(InputError, match=f"is of another recipe and can't be resumed with this one: {says}"):
        run(labelled, unlabelled, whole[1], **changed)


def test_a_refused_training_leaves_the_pseudo_labels_of_the_one_that_is_there(labelled, unlabelled, tmp_path):
    """A network that has been trained makes others; written, they'd be of no use to the training in the folder."""
    fit = {"x_unlabeled": unlabelled[0], "nb_epochs": 2, "checkpoint_dir": tmp_path}
    classifier = make()
    trainer = STANDARD(classifier, **QUICK)
    trainer.fit(*labelled, **fit)
    held = (tmp_path / "pseudo_labels.npz").read_bytes()
    other = np.random.default_rng(0).random((50, 1, 8, 8), dtype=np.float32)
    for change, says in (({}, "holds a training after epoch 2"), ({"x_unlabeled": other, "resume": True}, "of other")):
        with pytest.raises(InputError, match=says):
            trainer.fit(*labelled, **{**fit, **change})
        assert (tmp_path / "pseudo_labels.npz").read_bytes() == held
    STANDARD(make(), **QUICK).fit(*labelled, **fit, resume=True)


# What can't be trained on.


BAD = [
    ({"y_pseudo": np.zeros(50)}, "`y_pseudo` needs `x_unlabeled`"),
    ({"x_unlabeled": np.zeros((5, 1, 8, 9))}, r"shape \(1, 8, 8\), but x_unlabeled holds images of shape \(1, 8, 9\)"),
    ({"x_unlabeled": np.zeros((5, 8, 8))}, r"but x_unlabeled holds images of shape \(8, 8\)"),
    ({"x_unlabeled": np.full((5, 1, 8, 8), 200)}, "x_unlabeled must lie within the classifier's clip_values"),
    ({"x_unlabeled": np.full((5, 1, 8, 8), np.nan)}, "x_unlabeled must be finite"),
    ({"x_unlabeled": np.zeros((0, 1, 8, 8))}, "no example: x_unlabeled is empty"),
    ({"x_unlabeled": [], "y_pseudo": []}, "no example: x_unlabeled is empty"),
    ({"x_unlabeled": Stored([])}, "no example: x_unlabeled is empty"),
    ({"x_unlabeled": Stored(np.zeros((5, 1, 8, 9)))}, r"x_unlabeled holds images of shape \(1, 8, 9\)"),
    ({"x_unlabeled": Stored(np.full((5, 1, 8, 8), 200.0))}, "x_unlabeled must lie within"),
    ({"y_pseudo": np.zeros(3)}, "x_unlabeled and y_pseudo differ in length: 50 examples, but 3 labels"),
    ({"y_pseudo": np.full(50, 10)}, "Pseudo-label 10 of example 0 is outside the 10 classes 0 to 9"),
    ({"y_pseudo": np.arange(50) % 10 - 1}, "Pseudo-label -1 of example 0 is outside"),
    ({"y_pseudo": np.full(50, 0.5)}, "Pseudo-labels must be whole numbers"),
    ({"y_pseudo": 3}, r"Pseudo-labels must be indices \(n,\) or one-hot \(n, 10\), but got 3"),
    ({"y_pseudo": np.zeros((50, 3))}, r"Pseudo-labels must be indices \(n,\) or one-hot \(n, 10\)"),
    ({"gamma": -0.1}, "`gamma` must be a number of at least 0, and finite, but got -0.1"),
    ({"gamma": np.inf}, "`gamma` must be a number of at least 0, and finite"),
    ({"gamma": np.nan}, "`gamma` must be a number of at least 0"),
    ({"gamma": "1"}, "`gamma` must be a number of at least 0, and finite, but got '1'"),
    *(
        ({"unlabeled_fraction": fraction}, "`unlabeled_fraction` must be a number .*, but got")
        for fraction in (-0.5, 1.5, np.nan, True, "0.5", None)
    ),
    ({"unlabeled_fraction": 0.0}, "`unlabeled_fraction`"),
    ({"unlabeled_fraction": 1.0}, "`unlabeled_fraction`"),
    ({"unlabeled_fraction": 0.001}, "a batch of 32 would have 0 unlabelled examples, but it needs one of each kind"),
    ({"unlabeled_fraction": 0.999}, "a batch of 32 would have 32 unlabelled examples, but it needs one of each kind"),
    ({"batch_size": 1}, "take another fraction, or a larger `batch_size`"),
    ({"x_unlabelled": 1}, "Unknown argument of fit\\(\\) 'x_unlabelled'. Did you mean x_unlabeled"),
    ({"keep": "best"}, "rule to keep weights by"),
    ({"keep": "robust"}, "needs `validation_data`"),
    ({"resume": True}, "needs a `checkpoint_dir`"),
    ({"scheduler": 3}, "`scheduler` must be an object with a method step"),
    ({"validation_data": np.zeros(3)}, r"`validation_data` must be a pair \(x, y\)"),
]


@pytest.mark.parametrize(("changed", "says"), BAD)
def test_bad_input_is_named_before_pseudo_labels_are_made(changed, says, labelled, unlabelled, monkeypatch):
    """They may take hours."""
    monkeypatch.setattr(pseudo_labels, "make_pseudo_labels", refuse)
    classifier = make(linear)
    before = weights(classifier)
    given = {"batch_size": 32, "nb_epochs": 1, "x_unlabeled": unlabelled[0]}
    if set(changed) == {"y_pseudo"} and "x_unlabeled" in says and "needs" in says:
        del given["x_unlabeled"]
    with pytest.raises(InputError, match=says):
        STANDARD(classifier, **QUICK).fit(*labelled, **{**given, **changed})
    assert torch.equal(weights(classifier), before)


def test_a_network_that_cannot_be_copied_needs_pseudo_labels(labelled, unlabelled):
    class Single(Convolutional):
        def __deepcopy__(self, memo):
            raise TypeError("there is one only")

    trainer = STANDARD(make(Single), **QUICK)
    with pytest.raises(InputError, match=r"can't be copied \(there is one only\): give `y_pseudo`"):
        trainer.fit(*labelled, nb_epochs=1, x_unlabeled=unlabelled[0])
    assert len(trainer.fit(*labelled, nb_epochs=1, x_unlabeled=unlabelled[0], y_pseudo=unlabelled[1])) == 1


def test_excluding_all_pseudo_labels_is_named(labelled, unlabelled):
    trainer = EXCLUDED(make(), excluded=[0, 3], **QUICK)
    with pytest.raises(InputError, match=r"All 50 pseudo-labelled examples are of the excluded classes \[0, 3\]"):
        trainer.fit(*labelled, nb_epochs=1, x_unlabeled=unlabelled[0], y_pseudo=np.full(50, 3))


def test_pseudo_labels_that_cannot_be_written_are_named(tmp_path):
    made = PseudoLabels(np.zeros(3, np.int64), np.ones(3, np.float32), 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written"):
        made.write(tmp_path / "file" / "pseudo_labels.npz", "key")
    (tmp_path / "labels.npz").mkdir()
    with pytest.raises(InputError, match="pseudo-labels can't be written to .*labels.npz"):
        made.write(tmp_path / "labels.npz", "key")


# Images as trainers take them.

LINF = acw.ThreatModel("Linf", 0.05)


def checked(x, name="x"):
    return check_images(x, make(linear), LINF, name)


@pytest.mark.parametrize("kind", KINDS)
def test_images_give_rows_whatever_they_are(kind, unlabelled, tmp_path):
    """By slices, by arrays of rows, in any order and more than once, as float32."""
    x = unlabelled[0][:20]
    images = checked(KINDS[kind](x, tmp_path))
    held = kind in ("tensor", "float64", "Dataset")
    assert isinstance(images, np.ndarray) == held
    assert len(images) == 20
    assert tuple(images.shape) == (20, 1, 8, 8)
    for key in (slice(None, 2), slice(3, None, 4), np.array([19, 0, 7, 7]), np.arange(0), np.array([5])):
        rows = images[key]
        assert type(rows) is np.ndarray
        assert rows.dtype == np.float32
        assert np.array_equal(rows, x[key])


def test_arrays_that_suit_are_not_copied(unlabelled):
    x = unlabelled[0].copy()
    assert checked(x) is x
    assert np.shares_memory(checked(torch.from_numpy(x)), x)
    stored = lazy(x)
    assert checked(stored) is stored
    backwards = checked(x[::-1, :, ::-1])
    assert backwards.flags.c_contiguous
    assert np.array_equal(backwards, x[::-1, :, ::-1])


def test_images_of_torch_may_need_gradients_or_be_whole_numbers():
    wanted = torch.rand(3, 1, 8, 8, requires_grad=True)
    assert np.array_equal(checked(wanted), wanted.detach().numpy())
    whole = torch.ones(3, 1, 8, 8, dtype=torch.uint8)
    assert checked(whole).dtype == np.float32
    assert checked(TensorDataset(whole))[:1].dtype == np.float32
    graded = checked([torch.ones(1, 8, 8)] * 2)
    assert graded.shape == (2, 1, 8, 8)


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(1, 8, 8)


class Endless(torch.utils.data.Dataset):
    def __getitem__(self, i):
        return torch.zeros(1, 8, 8)


class Pictures(Stored):
    """Items that aren't arrays, as torchvision gives without a transform."""

    def __getitem__(self, i):
        return "picture", 3


NO_IMAGES = [
    (Pictures(np.zeros((3, 1, 8, 8))), "Item 0 of u must be an image, .* but is a str: give the data set a transform"),
    (Stored(np.zeros((3, 8, 8), np.float32)), r"u holds images of shape \(8, 8\)"),
    (TensorDataset(torch.zeros(0, 1, 8, 8)), "no example: u is empty"),
    (TensorDataset(torch.full((3, 1, 8, 8), 255.0)), "u must lie within the classifier's clip_values"),
    ((), "no example: u is empty"),
    (Stream(), "u must be"),
    (Endless(), "u must be"),
    (DataLoader(TensorDataset(torch.zeros(3, 1, 8, 8))), "u must be"),
    ((np.zeros((3, 1, 8, 8)), np.zeros(3)), "u must be"),
    ({"x": np.zeros((3, 1, 8, 8))}, "u must be"),
    ("images.npy", "u must be"),
    (np.array(["a", "b"]), "u must be"),
    (3, "u must be"),
    (None, "u must be"),
]


@pytest.mark.parametrize(("x", "says"), NO_IMAGES)
def test_what_is_no_images_is_named(x, says):
    with pytest.raises(InputError, match=says):
        checked(x, "u")


def test_a_memory_mapped_array_that_does_not_suit_is_named(tmp_path):
    for x, says in ((np.full((3, 1, 8, 8), 255.0), "clip_values"), (np.zeros((3, 8, 8)), "images of shape")):
        with pytest.raises(InputError, match=says):
            checked(on_disk(x, tmp_path))


def test_an_item_that_does_not_suit_is_named_where_it_is_read():
    """Of images read as needed the first two are looked at; a later one is met in training."""

    class Uneven(Stored):
        def __getitem__(self, i):
            return torch.zeros(1, 8, 8 if i < 3 else 9) if i < 4 else "no image"

    images = checked(Uneven(np.zeros(5)), "u")
    assert images[:3].shape == (3, 1, 8, 8)
    with pytest.raises(InputError, match=r"Item 3 of u .*\(1, 8, 9\)"):
        images[:4]
    with pytest.raises(InputError, match="Item 4 of u must be an image, .* but is a str"):
        images[np.array([4])]


def test_evaluation_sees_validation_as_images_from_anywhere(labelled, unlabelled, tmp_path):
    """Validation images may be read as needed, too."""
    rows = []
    for convert in (lambda x: x, partial(on_disk, folder=tmp_path), Stored):
        classifier = make(linear)
        x, y = labelled
        history = STANDARD(classifier, **QUICK).fit(
            x, y, (convert(x[:30]), y[:30]), nb_epochs=1, x_unlabeled=unlabelled[0], y_pseudo=unlabelled[1]
        )
        rows.append(history.drop(columns="images_per_second"))
        with evaluating(classifier.model):
            right = classifier.predict(x[:30]).argmax(1) == y[:30]
        assert history["val_clean"].iloc[0] == pytest.approx(right.mean())
    pd.testing.assert_frame_equal(rows[0], rows[1], check_exact=True)
    pd.testing.assert_frame_equal(rows[0], rows[2], check_exact=True)
