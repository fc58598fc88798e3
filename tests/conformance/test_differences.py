"""Whoever swaps a class name finds no difference that docs/how-to/from-art.md doesn't name."""

from __future__ import annotations

import inspect

import art.attacks.evasion as evasion
import art.defences.trainer as defences
import numpy as np
import pytest
import torch
from art.attacks.evasion import BoundaryAttack, HopSkipJump, ProjectedGradientDescent
from art.defences.preprocessor import FeatureSqueezing, JpegCompression
from art.estimators.classification import PyTorchClassifier
from art.exceptions import EstimatorError
from places import ROOT
from torch import nn

import art_classwise as acw
from art_classwise import InputError

PAGE = (ROOT / "docs" / "how-to" / "from-art.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE[PAGE.index("## What differs") :].splitlines() if line.startswith("| ")]

PAIRS = [
    (acw.PGD, evasion.ProjectedGradientDescent),
    (acw.PGD, evasion.FastGradientMethod),
    (acw.PGD, evasion.BasicIterativeMethod),
    (acw.AutoAttack, evasion.AutoAttack),
    (acw.AdversarialTrainerTRADESPyTorch, defences.AdversarialTrainerTRADESPyTorch),
    (acw.AdversarialTrainerAWPPyTorch, defences.AdversarialTrainerAWPPyTorch),
    (acw.AdversarialTrainerStandardPyTorch, defences.AdversarialTrainerMadryPGD),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda kind: kind.__name__)
def test_parameters_that_differ_stand_in_the_table(ours, theirs):
    here = inspect.signature(ours.__init__).parameters
    kind = "Madry" if theirs is defences.AdversarialTrainerMadryPGD else ""
    for name, parameter in inspect.signature(theirs.__init__).parameters.items():
        if name == "self" or (name in here and here[name].default == parameter.default):
            continue
        rows = [row for row in ROWS if f"`{name}`" in row and kind in row]
        assert rows, f"{theirs.__name__}: {name}"
        if isinstance(parameter.default, (int, float)) and not isinstance(parameter.default, bool):
            assert any(f"{parameter.default:g}" in row for row in rows) or name not in here, f"{name}: {rows}"


def test_the_first_arguments_by_position_are_arts_and_the_others_are_refused(classifier, images, own):
    """Never taken for another parameter."""
    args = (np.inf, 0.1, 0.03)
    options = {"max_iter": 5, "num_random_init": 0, "verbose": False}
    expected = ProjectedGradientDescent(classifier, *args, **options).generate(images, own)
    np.testing.assert_allclose(acw.PGD(classifier, *args, **options).generate(images, own), expected, atol=1e-5)
    for theirs in (
        (*args, None, 40),  # PGD: decay, max_iter
        (*args, 1.0, 40),  # momentum iterative
        (*args, True),  # FGSM: targeted
        (0.3, 0.1, 40),  # basic iterative: eps, eps_step, max_iter
    ):
        with pytest.raises((InputError, TypeError), match="`max_iter` must be|`norm` must be|positional arguments"):
            acw.PGD(classifier, *theirs)
    with pytest.raises(InputError, match="`attacks` must be"):
        acw.AutoAttack(classifier, *args)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("size", [(), (16, 3, 6, 6), (3, 6, 6), (6, 6), (6,), (1,), (3, 1, 1), (16, 1, 1, 1)])
def test_arrays_of_radii_and_steps_are_arts(size, targeted, classifier, images, own):
    y = (own + 1) % 4 if targeted else own
    eps = np.asarray(np.random.default_rng(4).uniform(0.02, 0.1, size))
    shared = {"eps": eps, "eps_step": np.asarray(eps / 3), "max_iter": 4, "targeted": targeted, "verbose": False}
    # ART's sees a batch's part of arrays by example in the PyTorch version only.
    expected = ProjectedGradientDescent(classifier, num_random_init=0, **shared).generate(images, y)
    ours = acw.PGD(classifier, num_random_init=0, batch_size=7, **shared)
    np.testing.assert_allclose(ours.generate(images, y), expected, atol=1e-5)
    np.testing.assert_allclose(ours.generate(images, np.eye(4)[y]), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["random", "one of the channels", "by example"])
def test_masks_are_arts(kind, classifier, images, own):
    rng = np.random.default_rng(6)
    mask = {
        "random": rng.random((3, 6, 6)) < 0.5,
        "one of the channels": np.arange(3)[:, None, None] * np.ones((3, 6, 6)) == 1,
        "by example": (rng.random((16, 3, 6, 6)) < 0.5).astype(np.float32),
    }[kind]
    options = {"eps": 0.1, "eps_step": 0.03, "max_iter": 4, "num_random_init": 0, "verbose": False}
    expected = ProjectedGradientDescent(classifier, **options).generate(images, own, mask=mask)
    np.testing.assert_allclose(acw.PGD(classifier, **options).generate(images, own, mask=mask), expected, atol=1e-5)


@pytest.mark.parametrize("bounds", [(0.1, 0.9), (np.full((3, 6, 6), 0.1), np.linspace(0.8, 1, 108).reshape(3, 6, 6))])
def test_clip_values_as_numbers_and_as_arrays_are_arts(bounds, network, images):
    low, high = (np.asarray(b, dtype=np.float32) for b in bounds)
    bounds = bounds if isinstance(bounds[0], float) else (low, high)
    options = {"clip_values": bounds, "device_type": "cpu"}
    classifier = PyTorchClassifier(network, nn.CrossEntropyLoss(), (3, 6, 6), 4, **options)
    x = images.clip(low, high)
    y = classifier.predict(x).argmax(1)
    options = {"eps": 0.2, "eps_step": 0.07, "max_iter": 4, "num_random_init": 0, "verbose": False}
    expected = ProjectedGradientDescent(classifier, **options).generate(x, y)
    assert (expected == high).any()
    np.testing.assert_allclose(acw.PGD(classifier, **options).generate(x, y), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # ART makes arrays of tensors
@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_three_random_starts_are_about_as_strong_as_arts(norm, classifier, images, own):
    """Where the numbers drawn differ, and for L1 the steps, too, success is what can be compared."""
    eps = {np.inf: 0.05, 2: 0.4, 1: 2.5}[norm]
    options = {"norm": norm, "eps": eps, "eps_step": eps / 4, "max_iter": 8, "num_random_init": 3, "verbose": False}
    np.random.seed(0)
    broken = []
    for kind in (ProjectedGradientDescent, acw.PGD):
        x_adv = kind(classifier, **options).generate(images, own)
        assert np.linalg.norm((x_adv - images).reshape(16, -1), norm, axis=1).max() <= eps * (1 + 1e-5)
        broken.append((classifier.predict(x_adv).argmax(1) != own).sum())
    assert broken[1] >= broken[0] - 1
    assert broken[1] >= 3


DEFENCES = {
    "JPEG": lambda: JpegCompression((0, 1), quality=90, channels_first=True),
    "feature squeezing": lambda: FeatureSqueezing((0, 1), bit_depth=4),
}


@pytest.mark.parametrize("name", DEFENCES)
@pytest.mark.parametrize("fgsm", [False, True], ids=["PGD", "FGSM"])
def test_defences_in_numpy_are_arts(name, fgsm, network, images):
    """With NumPy 2, ART's feature squeezing breaks ``predict`` of its own classifier; ours casts."""
    from art_classwise.zoo.art_classifier import Classifier

    options = {"preprocessing_defences": DEFENCES[name](), "clip_values": (0, 1), "device_type": "cpu"}
    classifier = Classifier(network, nn.CrossEntropyLoss(), (3, 6, 6), 4, **options)
    y = classifier.predict(images).argmax(1)
    steps = {"eps_step": 0.1, "max_iter": 1} if fgsm else {"eps_step": 0.03, "max_iter": 4}
    shared = {"eps": 0.1, "num_random_init": 0, "verbose": False, **steps}
    expected = ProjectedGradientDescent(classifier, **shared).generate(images, y)
    same = np.isclose(acw.PGD(classifier, **shared).generate(images, y), expected, atol=1e-5)
    assert same.mean() > 0.97  # roundings of a defence may fall otherwise
    x_adv = acw.PGD(classifier, **shared).generate(images, y)
    assert (classifier.predict(x_adv).argmax(1) != y).mean() >= (
        classifier.predict(expected).argmax(1) != y
    ).mean() - 0.1


@pytest.mark.parametrize("kind", [HopSkipJump, BoundaryAttack])
def test_arts_black_box_attacks_run_on_classifiers_of_ours(kind, network, images, own):
    """They hand float64 images to the network, which raises on classifiers of ART's own with NumPy 2."""
    classifier = acw.as_classifier(network, (3, 6, 6), 4, device="cpu")
    options = {"max_iter": 2, "targeted": False, "verbose": False}
    options |= {"max_eval": 50, "init_eval": 20} if kind is HopSkipJump else {"num_trial": 5, "sample_size": 5}
    np.random.seed(0), torch.manual_seed(0)
    x_adv = kind(classifier, **options).generate(images[:4].copy(), np.eye(4)[own[:4]])
    assert x_adv.shape == images[:4].shape
    assert (classifier.predict(x_adv).argmax(1) != own[:4]).mean() >= 0.5
    assert classifier.predict(images.astype(np.float64)).dtype == np.float32


def test_wrong_estimators_are_arts_error(classifier):
    for kind in (acw.PGD, acw.TemperaturePGD, acw.ClassWiseAttack, acw.AutoAttack):
        for estimator in (None, object(), "clf"):
            with pytest.raises(EstimatorError):
                kind(estimator)
        with pytest.raises(InputError, match="takes an ART classifier, not a Sequential: give as_classifier"):
            kind(classifier.model)


def test_unknown_keywords_of_generate_are_refused_and_arts_ignored(classifier, images, own):
    ProjectedGradientDescent(classifier, eps=0.1, max_iter=1, verbose=False).generate(images, own, x_init=images)
    for kind in (acw.PGD, acw.TemperaturePGD, acw.ClassWiseAttack, acw.AutoAttack):
        with pytest.raises(InputError, match=r"generate\(\) got x_init"):
            kind(classifier, verbose=False).generate(images, own, x_init=images)


@pytest.fixture(scope="module")
def digits():
    train = acw.load_dataset("digits", split="train")
    return train.x[:300], train.y[:300]


@pytest.mark.parametrize("generator", [False, True], ids=["fit", "fit_generator"])
@pytest.mark.parametrize("name", ["TRADES", "AWP", "AWP of TRADES", "Madry"])
def test_arts_calls_of_trainers_raise_accuracy(name, generator, digits):
    """fit and fit_generator, labels one-hot, an attack of ART's, arguments in ART's order."""
    from art.data_generators import NumpyDataGenerator

    x, y = digits
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    classifier = PyTorchClassifier(
        network, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1), device_type="cpu"
    )
    attack = ProjectedGradientDescent(classifier, eps=0.05, eps_step=0.03, max_iter=2, verbose=False)
    trainer = {
        "TRADES": lambda: acw.AdversarialTrainerTRADESPyTorch(classifier, attack, 1.0, verbose=False),
        "AWP": lambda: acw.AdversarialTrainerAWPPyTorch(classifier, None, attack, "PGD", 0.005, 1.0, 1, verbose=False),
        "AWP of TRADES": lambda: acw.AdversarialTrainerAWPPyTorch(
            classifier, classifier, attack, "TRADES", 0.005, 1.0, 0, verbose=False
        ),
        "Madry": lambda: acw.AdversarialTrainerStandardPyTorch(classifier, 4, 50, 0.05, 0.03, 2, 1, verbose=False),
    }[name]()
    before = (classifier.predict(x).argmax(1) == y).mean()
    one_hot, kept = np.eye(10, dtype=np.float32)[y], x.copy()
    if generator:
        trainer.fit_generator(NumpyDataGenerator(x, one_hot, batch_size=50), nb_epochs=4)
    else:
        trainer.fit(x, one_hot, validation_data=(x[:50], one_hot[:50]), batch_size=50, nb_epochs=4)
    assert np.array_equal(x, kept)
    assert trainer.get_classifier() is trainer.classifier is classifier
    after = (trainer.predict(x).argmax(1) == y).mean()
    assert after > max(before + 0.3, 0.7)
