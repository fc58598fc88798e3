from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from art.estimators.classification import BlackBoxClassifier, PyTorchClassifier
from art.exceptions import EstimatorError
from torch import nn

from art_classwise import InputError, TemperaturePGD, ThreatModel, as_classifier, losses
from art_classwise.attacks.search import search

QUIET = {"verbose": False}


def accuracy(classifier, x, y):
    return float((classifier.predict(x).argmax(1) == y).mean())


@pytest.mark.parametrize(("norm", "eps"), [(np.inf, 0.05), (2, 0.7)])
def test_inverse_temperature_1_is_pgd(classifier, images, labels, norm, eps):
    art = ProjectedGradientDescentPyTorch(classifier, norm=norm, eps=eps, eps_step=eps / 4, max_iter=10, verbose=False)
    ours = TemperaturePGD(
        classifier, norm=norm, eps=eps, max_iter=10, inverse_temperature=1, num_random_init=0, **QUIET
    )
    np.testing.assert_allclose(ours.generate(images, labels), art.generate(images, labels), atol=1e-5)


def test_large_inverse_temperature_follows_the_margin(classifier, images, labels):
    sharp, sharper, margin = (
        TemperaturePGD(classifier, eps=0.05, max_iter=10, inverse_temperature=s, **QUIET).generate(images, labels)
        for s in (1e4, 1e38, float("inf"))
    )
    np.testing.assert_allclose(sharp, margin, atol=1e-5)
    assert np.array_equal(sharper, margin)


def test_temperatures_differ(classifier, images, labels):
    results = [
        TemperaturePGD(classifier, eps=0.05, max_iter=10, inverse_temperature=s, **QUIET).generate(images, labels)
        for s in (0.01, 1.0, float("inf"))
    ]
    assert np.abs(results[0] - results[1]).max() > 0.01
    assert np.abs(results[1] - results[2]).max() > 0.01


class Scaled(nn.Module):
    def __init__(self, module, factor):
        super().__init__()
        self.module, self.factor = module, factor

    def forward(self, x):
        return self.factor * self.module(x)


def test_a_confident_network_is_broken_where_plain_sharpened_cross_entropy_is_blind(network, images):
    """Logits x 100 have the same decisions, so the same adversarial examples."""
    confident = as_classifier(Scaled(network, 100.0), (3, 6, 6), 4, device="cpu")
    y = confident.predict(images).argmax(1)
    blind = search(
        confident.model,
        torch.from_numpy(images),
        torch.from_numpy(y),
        ThreatModel("Linf", 0.2),
        partial(losses.temperature, inverse_temperature=50.0),
        eps_step=0.05,
        max_iter=10,
        low=torch.tensor(0.0),
        high=torch.tensor(1.0),
    )
    assert blind.zero_gradient.float().mean() > 0.7
    assert accuracy(confident, blind.x_adv.numpy(), y) > 0.5
    sharp = TemperaturePGD(confident, eps=0.2, max_iter=10, inverse_temperature=50.0, num_random_init=0, **QUIET)
    assert accuracy(confident, sharp.generate(images, y), y) == 0
    assert not sharp.zero_gradient.any()


def test_random_starts_depend_on_the_example_alone(classifier, images, labels):
    whole = TemperaturePGD(classifier, eps=0.1, max_iter=1, batch_size=16, **QUIET).generate(images, labels)
    small = TemperaturePGD(classifier, eps=0.1, max_iter=1, batch_size=3, **QUIET).generate(images, labels)
    np.testing.assert_allclose(small, whole, atol=1e-6)
    rows = np.array([7, 2, 11])
    part = TemperaturePGD(classifier, eps=0.1, max_iter=1, **QUIET).generate(
        images[rows], labels[rows], example_ids=rows
    )
    np.testing.assert_allclose(part, whole[rows], atol=1e-6)
    other = TemperaturePGD(classifier, eps=0.1, max_iter=1, seed=1, **QUIET).generate(images, labels)
    assert np.abs(other - whole).max() > 0.05


@pytest.mark.parametrize("targeted", [False, True])
def test_restarts_keep_the_most_wrong(classifier, images, own, targeted):
    """By the margin, above 0 where it succeeded: a soft margin may be large for a failure."""
    y = (own + 1) % 4 if targeted else own
    parameters = {"eps": 0.05, "eps_step": 0.02, "max_iter": 1, "inverse_temperature": 0.2, "targeted": targeted}

    def wrongness(**options):
        x_adv = TemperaturePGD(classifier, **parameters, **options, **QUIET).generate(images, y)
        margin = losses.margin(torch.from_numpy(classifier.predict(x_adv)), torch.from_numpy(y)).numpy()
        return -margin if targeted else margin

    one, many = wrongness(), wrongness(num_random_init=6)
    assert (many >= one - 1e-5).all()  # the first of six restarts is the one of a single
    assert (many > one + 1e-3).any()


def test_targeted_reaches_its_targets_and_untargeted_leaves(classifier, images, own):
    target = (own + 1) % 4
    targeted = TemperaturePGD(classifier, eps=0.5, max_iter=40, targeted=True, **QUIET)
    assert accuracy(classifier, targeted.generate(images, target), target) > 0.5
    untargeted = TemperaturePGD(classifier, eps=0.5, max_iter=40, **QUIET)
    assert accuracy(classifier, untargeted.generate(images, own), own) == 0


def test_keeps_arts_contract(classifier, images, labels, own):
    attack = TemperaturePGD(classifier, eps=0.1, max_iter=3, batch_size=5, **QUIET)
    before = images.copy()
    x_adv = attack.generate(images, labels)
    assert np.array_equal(images, before)
    assert (x_adv.dtype, x_adv.shape) == (np.float32, images.shape)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert np.abs(x_adv - images).max() <= 0.1 + 1e-6
    assert np.array_equal(attack.generate(images, np.eye(4)[labels]), x_adv)
    assert np.array_equal(attack.generate(x=images, y=labels), x_adv)
    assert np.array_equal(attack.generate(images), attack.generate(images, own))
    flipped = attack.generate(images[..., ::-1], labels)  # a view with a negative stride
    assert np.array_equal(flipped, attack.generate(images[..., ::-1].copy(), labels))
    assert np.array_equal(attack.generate(images.astype(np.float64), labels), x_adv)
    assert attack.generate(images[:1], labels[:1]).shape == (1, 3, 6, 6)
    mask = np.zeros((3, 6, 6))
    mask[0] = 1
    masked = attack.generate(images, labels, mask=mask)
    assert np.array_equal(masked[:, 1:], images[:, 1:])
    assert not np.array_equal(masked[:, 0], images[:, 0])
    attack.set_params(eps=0.01)
    assert np.abs(attack.generate(images, labels) - images).max() <= 0.01 + 1e-6
    assert "inverse_temperature=5.0" in repr(attack)


def test_clip_values_are_the_estimators(network, images, labels):
    low, high = np.full((3, 1, 1), 0.2, np.float32), np.full((3, 1, 1), 0.8, np.float32)
    narrow = PyTorchClassifier(network, nn.CrossEntropyLoss(), (3, 6, 6), 4, clip_values=(low, high), device_type="cpu")
    x_adv = TemperaturePGD(narrow, eps=0.5, max_iter=5, **QUIET).generate(images.clip(0.2, 0.8), labels)
    assert x_adv.min() == pytest.approx(0.2)
    assert x_adv.max() == pytest.approx(0.8)
    boundless = PyTorchClassifier(network, nn.CrossEntropyLoss(), (3, 6, 6), 4, device_type="cpu")
    assert TemperaturePGD(boundless, eps=0.5, max_iter=5, **QUIET).generate(images, labels).min() < 0


def test_arts_standardisation_is_part_of_the_network(network, images, labels):
    class Standardised(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network((x - 0.4) / 0.3)

    outside = PyTorchClassifier(
        network,
        nn.CrossEntropyLoss(),
        (3, 6, 6),
        4,
        clip_values=(0, 1),
        preprocessing=(0.4, 0.3),
        device_type="cpu",
    )
    inside = as_classifier(Standardised(), (3, 6, 6), 4, device="cpu")
    results = [TemperaturePGD(c, eps=0.1, max_iter=5, **QUIET).generate(images, labels) for c in (outside, inside)]
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)


def test_leaves_everything_as_it_was(classifier, images, labels):
    classifier.model.train()
    classifier.model[1].eval()
    classifier.model[5].weight.grad = torch.ones_like(classifier.model[5].weight)
    modes = [m.training for m in classifier.model.modules()]
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    TemperaturePGD(classifier, eps=0.1, max_iter=2, num_random_init=2, **QUIET).generate(images, labels)
    assert [m.training for m in classifier.model.modules()] == modes
    assert all(p.requires_grad for p in classifier.model.parameters())
    assert torch.equal(classifier.model[5].weight.grad, torch.ones_like(classifier.model[5].weight))
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("norm", 0),
        ("norm", "L3"),
        ("norm", 2.9),
        ("eps", "8/255"),
        ("eps", None),
        ("eps_step", "1/255"),
        ("inverse_temperature", "5"),
        ("seed", 2**63),
        ("eps", 0),
        ("eps", -0.1),
        ("eps", float("nan")),
        ("eps_step", 0),
        ("eps_step", float("inf")),
        ("max_iter", 0),
        ("max_iter", 2.5),
        ("num_random_init", -1),
        ("batch_size", 0),
        ("seed", -1),
        ("seed", True),
        ("targeted", "yes"),
        ("verbose", 1),
        ("inverse_temperature", 0),
        ("inverse_temperature", -1),
        ("inverse_temperature", float("nan")),
    ],
)
def test_bad_parameters_are_named(classifier, parameter, value):
    with pytest.raises(InputError, match=f"`{parameter}`"):
        TemperaturePGD(classifier, **{parameter: value})
    attack = TemperaturePGD(classifier)
    with pytest.raises(InputError):
        attack.set_params(**{parameter: value})


def test_bad_arrays_are_named(classifier, images, labels):
    attack = TemperaturePGD(classifier, eps=0.1, max_iter=1, **QUIET)
    broken, outside = images.copy(), images.copy()
    broken[3, 0, 0, 0], outside[4, 0, 0, 0] = np.nan, 255
    for x, y, kwargs, says in [
        (images, labels[:3], {}, "16 examples, but 3 labels"),
        (images, labels + 4, {}, "outside the 4 classes"),
        (images, np.zeros((16, 7)), {}, "one-hot"),
        (images[:0], labels[:0], {}, "x is empty"),
        (images.transpose(0, 2, 3, 1), labels, {}, r"shape \(3, 6, 6\), but x holds images of shape \(6, 6, 3\)"),
        (broken, labels, {}, "Example 3 has a value that is not finite"),
        (outside, labels, {}, "Example 4 has values from .* to 255, outside"),
        (images, labels, {"mask": np.ones((5, 5))}, r"mask of shape \(5, 5\)"),
        (images, labels, {"example_ids": [1]}, "one number per example"),
        (images, labels, {"maks": 1}, "it takes x, y, mask"),
    ]:
        with pytest.raises(InputError, match=says):
            attack.generate(x, y, **kwargs)
    with pytest.raises(InputError, match="needs the target labels"):
        TemperaturePGD(classifier, targeted=True).generate(images)
    with pytest.warns(UserWarning, match='did you mean "Linf:8/255"'):
        TemperaturePGD(classifier, eps=8, **QUIET).generate(images, labels)


def test_estimator_without_gradients_is_arts_error():
    blackbox = BlackBoxClassifier(lambda x: np.ones((len(x), 4)), (3, 6, 6), 4)
    with pytest.raises(EstimatorError):
        TemperaturePGD(blackbox)


class Other(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.output(x * self.weight)


@pytest.mark.parametrize(
    ("output", "says"),
    [(lambda x: (x, x), "returned tuple"), (lambda x: x.flatten(1), r"must return logits of shape \(16, 4\)")],
)
def test_a_model_without_logits_is_named(output, says, images, labels):
    classifier = PyTorchClassifier(
        Other(output), nn.CrossEntropyLoss(), (3, 6, 6), 4, clip_values=(0, 1), device_type="cpu"
    )
    with pytest.raises(InputError, match=says):
        TemperaturePGD(classifier, **QUIET).generate(images, labels)


def test_labels_that_are_given_cost_no_forward_pass(classifier, images, labels):
    passes = []
    classifier.model.register_forward_hook(lambda *_: passes.append(1))
    TemperaturePGD(classifier, eps=0.1, max_iter=3, **QUIET).generate(images, labels)
    assert len(passes) == 3
