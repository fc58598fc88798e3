"""Our attacks beside ART's and inside of ART's own trainer and summary writer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from art.attacks.attack import EvasionAttack
from art.attacks.evasion import ProjectedGradientDescentNumpy
from art.data_generators import NumpyDataGenerator
from art.defences.trainer import AdversarialTrainer
from art.estimators.classification import PyTorchClassifier
from art.summary_writer import SummaryWriter
from torch import nn

import art_classwise as acw
from art_classwise import as_classifier
from art_classwise.attacks import PGD, TransferAttack


@pytest.mark.parametrize("random_labels", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("norm", "eps", "eps_step"), [(np.inf, 0.1, 0.03), (2, 0.8, 0.25), ("inf", 0.05, 0.05)])
def test_equals_arts_numpy_pgd(classifier, images, labels, own, norm, eps, eps_step, targeted, random_labels):
    y = labels if random_labels else (own + 1) % 4 if targeted else own
    shared = {"norm": norm, "eps": eps, "eps_step": eps_step, "max_iter": 7, "targeted": targeted}
    art = ProjectedGradientDescentNumpy(classifier, num_random_init=0, batch_size=16, verbose=False, **shared)
    expected = art.generate(images, y)
    ours = PGD(classifier, num_random_init=0, precision="fp32", batch_size=5, verbose=False, **shared)
    assert np.abs(expected - images).max() > 0.02
    np.testing.assert_allclose(ours.generate(images, y), expected, atol=1e-5)
    mask = np.zeros((3, 6, 6), dtype=np.float32)
    mask[:, 1:4] = 1
    np.testing.assert_allclose(ours.generate(images, y, mask=mask), art.generate(images, y, mask=mask), atol=1e-5)


def test_equals_arts_numpy_pgd_with_arrays_of_radii(classifier, images, own):
    rng = np.random.default_rng(2)
    for shape in ((3, 6, 6), (6, 6), (6,), (1,)):
        eps = rng.uniform(0.02, 0.1, shape)
        shared = {"eps": eps, "eps_step": eps / 3, "max_iter": 5, "num_random_init": 0, "verbose": False}
        expected = ProjectedGradientDescentNumpy(classifier, **shared).generate(images, own)
        np.testing.assert_allclose(PGD(classifier, **shared).generate(images, own), expected, atol=1e-5)


def test_momentum_is_arts_decay(classifier, images, own):
    shared = {"eps": 0.1, "eps_step": 0.02, "max_iter": 6, "num_random_init": 0, "verbose": False}
    expected = ProjectedGradientDescentNumpy(classifier, decay=0.9, **shared).generate(images, own)
    np.testing.assert_allclose(PGD(classifier, momentum=0.9, **shared).generate(images, own), expected, atol=1e-5)
    assert not np.allclose(PGD(classifier, **shared).generate(images, own), expected, atol=1e-3)


@pytest.fixture(scope="module")
def some_digits():
    data = acw.load_dataset("digits", "train")
    return data.x[:300], data.y[:300]


def untrained():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(128, 10)
    )
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    return PyTorchClassifier(
        module, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1), device_type="cpu"
    )


def accuracy(classifier, x, y):
    return float((classifier.predict(x).argmax(1) == y).mean())


@pytest.mark.parametrize("generator", [False, True], ids=["fit", "fit_generator"])
def test_inside_arts_adversarial_trainer_accuracy_rises(generator, linf_kind, some_digits):
    x, y = some_digits
    classifier = untrained()
    options = {"n_iter": 3} if linf_kind.name == "AutoAttack" else {"max_iter": 2}
    trainer = AdversarialTrainer(classifier, linf_kind(classifier, eps=0.05, **options), ratio=0.5)
    np.random.seed(0), torch.manual_seed(0)
    before = accuracy(classifier, x, y)
    one_hot = np.eye(10, dtype=np.float32)[y]
    if generator:
        trainer.fit_generator(NumpyDataGenerator(x, one_hot, batch_size=50), nb_epochs=3)
    else:
        trainer.fit(x, one_hot, batch_size=50, nb_epochs=3)
    assert accuracy(classifier, x, y) > max(before + 0.3, 0.6)


class OnACopy(EvasionAttack):
    """An attack that can't touch the model under training: it attacks a copy of it."""

    _estimator_requirements = ()

    def __init__(self, estimator, make):
        super().__init__(estimator=estimator)
        self.make = make

    def generate(self, x, y=None, **kwargs):
        model = copy.deepcopy(self.estimator.model)
        return self.make(as_classifier(model, (1, 8, 8), 10, device="cpu")).generate(x, y)


def test_training_is_as_if_the_attack_were_on_a_copy_of_the_model(kind, some_digits):
    """Weights, BatchNorm's statistics, the optimiser, gradients and random numbers for dropout are left alone."""
    x, y = some_digits
    options = {"eps": kind.eps / 2, **({"n_iter": 3} if kind.name == "AutoAttack" else {"max_iter": 2})}
    states = []
    for on_a_copy in (False, True):
        classifier = untrained()

        def make(estimator):
            return kind(estimator, **options)

        attack = OnACopy(classifier, make) if on_a_copy else make(classifier)
        np.random.seed(0), torch.manual_seed(0)
        AdversarialTrainer(classifier, attack).fit(x[:100], np.eye(10)[y[:100]], batch_size=25, nb_epochs=1)
        states.append(classifier.model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    start = untrained().model.state_dict()
    assert not any(torch.equal(value, start[name]) for name, value in states[0].items())


def test_a_transfer_from_another_model_trains_too(some_digits):
    x, y = some_digits
    classifier, surrogate = untrained(), untrained()
    one_hot = np.eye(10, dtype=np.float32)[y]
    surrogate.fit(x, one_hot, batch_size=50, nb_epochs=2, verbose=False)
    state = {name: value.clone() for name, value in surrogate.model.state_dict().items()}
    attack = TransferAttack(classifier, PGD(surrogate, eps=0.1, max_iter=2, verbose=False))
    np.random.seed(0), torch.manual_seed(0)
    AdversarialTrainer(classifier, attack).fit(x, one_hot, batch_size=50, nb_epochs=3)
    assert accuracy(classifier, x, y) > 0.6
    assert all(torch.equal(value, state[name]) for name, value in surrogate.model.state_dict().items())


def test_arts_summary_writer_writes_and_changes_no_result(linf_search, classifier, images, own, tmp_path):
    if linf_search.name == "TransferAttack":  # the surrogate's attack has the writer
        return
    x, y, options = images[:3], own[:3], {"eps": 0.02, "max_iter": 2, "batch_size": 2}
    expected = linf_search(classifier, **options).generate(x, y)
    classifier.model.train()
    attack = linf_search(classifier, summary_writer=str(tmp_path), **options)
    assert np.array_equal(attack.generate(x, y), expected)
    assert all(m.training for m in classifier.model.modules())
    assert all(p.grad is None for p in classifier.model.parameters())
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("generate-0/events.out.tfevents.*"))
    for batch in (b"batch-0", b"batch-1"):
        assert b"gradients/norm-L2/" + batch in b"".join(
            str(path).encode() for path in tmp_path.rglob("*")
        ) + written.replace(b"norm_L2", b"norm-L2")
    assert list(tmp_path.glob("generate-1"))  # where the next call writes


class Recorder(SummaryWriter):
    def __init__(self):
        self.updates = []

    def update(self, batch_id, global_step, grad=None, patch=None, estimator=None, x=None, y=None, **kwargs):
        self.updates.append((batch_id, global_step, grad, estimator, x, y, kwargs["targeted"]))

    def reset(self):
        self.updates.append("reset")


def test_a_summary_writer_is_told_what_happens(kind_search, classifier, images, own):
    if kind_search.name in ("ClassWiseAttack", "TransferAttack"):  # their examples leave; the surrogate's has it
        return
    recorder = Recorder()
    options = {"num_random_init": 2, "batch_size": 10, "max_iter": 3}
    kind_search(classifier, summary_writer=recorder, **options).generate(images, own)
    assert recorder.updates.pop() == "reset"
    steps = [(batch_id, step) for batch_id, step, *_ in recorder.updates]
    assert steps == [(b, s) for b in range(2) for s in range(6)]
    for batch_id, _, gradient, estimator, x, y, targeted in recorder.updates:
        rows = slice(10 * batch_id, 10 * batch_id + 10)
        assert estimator is classifier
        assert np.array_equal(y, np.eye(4)[own[rows]])
        assert gradient.shape == x.shape == images[rows].shape
        assert kind_search.size(x - images[rows]).max() <= kind_search.eps * (1 + 1e-5)
        assert not targeted
