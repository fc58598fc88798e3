"""ART classifiers of every make: clip values, preprocessing, modules with parts in unusual states."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from art.defences.preprocessor import FeatureSqueezing, JpegCompression
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.nn import functional

from art_classwise import InputError, as_classifier
from art_classwise.attacks import PGD, TransferAttack

SHAPE = (3, 6, 6)


def build(module, clip_values=(0.0, 1.0), **options):
    loss = nn.CrossEntropyLoss()
    return PyTorchClassifier(module, loss, SHAPE, 4, clip_values=clip_values, device_type="cpu", **options)


def predicted(classifier, x):
    return classifier.predict(x).argmax(1)


def robust(classifier, x, y):
    return float((predicted(classifier, x) == y).mean())


LOW = np.linspace(0.0, 0.2, 108, dtype=np.float32).reshape(SHAPE)


@pytest.mark.parametrize(
    ("bounds", "dtype"),
    [
        ((0.2, 0.8), np.float32),
        ((np.full((3, 1, 1), 0.2), np.full((3, 1, 1), 0.8)), np.float64),
        ((LOW, 1 - LOW), np.float64),
        ((LOW, 1 - LOW), np.float32),
    ],
)
def test_clip_values_are_kept_as_numbers_and_as_arrays(bounds, dtype, kind, network, images):
    low, high = (np.asarray(b, dtype=dtype) for b in bounds)
    if low.ndim == 0:
        low, high = float(low), float(high)
    classifier = build(network, (low, high))
    x = images.clip(*(np.asarray(b, dtype=np.float32) for b in (low, high)))
    y = predicted(classifier, x)
    if kind.name == "AutoAttack" and np.ndim(low):
        with pytest.raises(InputError, match="needs clip_values of two finite numbers"):
            kind(classifier)
        return
    x_adv = kind(classifier).generate(x, y)
    assert (x_adv.dtype, x_adv.shape) == (np.float32, x.shape)
    assert (x_adv >= np.float32(low) - 1e-6).all()
    assert (x_adv <= np.float32(high) + 1e-6).all()
    assert kind.size(x_adv - x).max() <= kind.eps * (1 + 1e-5)
    assert robust(classifier, x_adv, y) < 1


def test_without_clip_values_there_is_no_box(case, network, images):
    classifier = build(network, None)
    y = predicted(classifier, images)
    if case.name == "AutoAttack":
        with pytest.raises(InputError, match="they are absent"):
            case(classifier)
        return
    attack = case(classifier)
    x_adv = attack.generate(images, y)
    assert case.size(x_adv - images).max() <= case.eps * (1 + 1e-5)
    far = attack.generate(images * 10 - 5, y)
    assert (far.min(), far.max()) < (-4, 6)
    assert np.isfinite(far).all()


class Divided(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x / 255)


def test_images_from_0_to_255_are_attacked_as_those_from_0_to_1(kind, network, images):
    unit, grey = build(network), build(Divided(network), (0, 255))
    y = predicted(unit, images)
    expected = kind(unit).generate(images, y)
    x_adv = kind(grey, eps=kind.eps * 255).generate(images * 255, y)
    assert 1 < x_adv.max() <= 255
    assert kind.size(x_adv - images * 255).max() <= kind.eps * 255 * (1 + 1e-5)
    assert abs(robust(grey, x_adv, y) - robust(unit, expected, y)) <= 1 / 16 + 1e-6
    with pytest.raises(InputError, match="clip_values"):
        kind(unit).generate(images * 255, y)


class Blur(PreprocessorPyTorch):
    """A defence in torch, as ART's SpatialSmoothingPyTorch, which needs kornia, is one."""

    def __init__(self):
        super().__init__(is_fitted=True, apply_fit=True, apply_predict=True)
        self._device = torch.device("cpu")

    def forward(self, x, y=None):
        return blurred(x), y


def blurred(x):
    return (x + functional.avg_pool2d(x, 3, 1, 1)) / 2


class Squeezing(FeatureSqueezing):
    """With NumPy 2, ART's makes float64 of float32, which its own ``predict`` then fails on."""

    def __call__(self, x, y=None):
        return super().__call__(x, y)[0].astype(np.float32), y


PREPROCESSING = {
    "torch": {"preprocessing_defences": Blur()},
    "jpeg": {"preprocessing_defences": JpegCompression((0, 1), quality=90, channels_first=True)},
    "squeezing": {"preprocessing_defences": Squeezing((0, 1), bit_depth=4)},
    "standardisation": {"preprocessing": (0.4, 0.3)},
    "standardisation by channel": {"preprocessing": (np.reshape([0.4, 0.5, 0.6], (3, 1, 1)), np.full((3, 1, 1), 0.3))},
    "torch and standardisation": {"preprocessing_defences": Blur(), "preprocessing": (0.4, 0.3)},
}


@pytest.mark.parametrize("preprocessing", PREPROCESSING)
def test_arts_preprocessing_is_attacked_through(preprocessing, each_kind, network, images):
    defended = build(network, **PREPROCESSING[preprocessing])
    y = predicted(defended, images)
    attack = each_kind(defended, eps=2 * each_kind.eps)
    x_adv = attack.generate(images, y)
    assert (x_adv.dtype, x_adv.shape) == (np.float32, images.shape)
    assert each_kind.size(x_adv - images).max() <= 2 * each_kind.eps * (1 + 1e-5)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert robust(defended, x_adv, y) <= 0.5
    assert np.array_equal(attack.generate(images), x_adv)  # what the model takes x for, preprocessing included


class Inside(nn.Module):
    def __init__(self, module, preprocess):
        super().__init__()
        self.module, self.preprocess = module, preprocess

    def forward(self, x):
        return self.module(self.preprocess(x))


@pytest.mark.parametrize(
    ("preprocessing", "inside"),
    [
        ("torch", blurred),
        ("standardisation", lambda x: (x - 0.4) / 0.3),
        ("squeezing", lambda x: x + ((x * 15).round() / 15 - x).detach()),  # ART's estimate is the identity
    ],
    ids=["torch", "standardisation", "squeezing"],
)
def test_preprocessing_is_as_if_it_were_part_of_the_network(preprocessing, inside, kind_search, network, images):
    outside, inside = build(network, **PREPROCESSING[preprocessing]), build(Inside(network, inside))
    y = predicted(outside, images)
    assert np.array_equal(predicted(inside, images), y)
    same = np.isclose(kind_search(outside).generate(images, y), kind_search(inside).generate(images, y), atol=1e-5)
    assert same.mean() > (0.98 if preprocessing == "squeezing" else 0.9999)  # a tie may be rounded otherwise


class Several(nn.Module):
    """A module that is no Sequential, with buffers, and parts that aren't float32."""

    def __init__(self, network):
        super().__init__()
        self.body = network
        self.register_buffer("order", torch.tensor([0, 1, 2]))
        self.last = nn.Linear(4, 4).double()
        nn.init.eye_(self.last.weight), nn.init.zeros_(self.last.bias)

    def forward(self, x):
        return self.last(self.body(x[:, self.order]).double())


class Half(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network.to(torch.bfloat16)

    def forward(self, x):
        return self.network(x.to(torch.bfloat16)).float()


class WithoutWeights(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.weight = 0.1 * torch.randn(108, 4, generator=torch.Generator().manual_seed(0))  # no parameter, no buffer

    def forward(self, x):
        return torch.tanh((x - 0.5).flatten(1) @ self.weight)


class InPlace(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = nn.Sequential(*(nn.ReLU(inplace=True) if isinstance(m, nn.Tanh) else m for m in network))

    def forward(self, x):
        x = x.sub(0.5)
        x *= 2
        return self.network(x)


def frozen(network):
    return network.requires_grad_(False)


@pytest.mark.parametrize("make", [Several, Half, WithoutWeights, InPlace, frozen], ids=lambda m: m.__name__)
def test_modules_of_every_make_are_attacked_and_left_alone(make, each_kind, network, images):
    module = make(network)
    flags = [(p.requires_grad, p.dtype) for p in module.parameters()]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    classifier = build(module)
    y = predicted(classifier, images)
    x_adv = each_kind(classifier, eps=2 * each_kind.eps).generate(images, y)
    assert x_adv.dtype == np.float32
    assert each_kind.size(x_adv - images).max() <= 2 * each_kind.eps * (1 + 1e-5)
    assert robust(classifier, x_adv, y) <= 0.5
    assert classifier.model is module
    assert [(p.requires_grad, p.dtype) for p in module.parameters()] == flags
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_flat_features_are_attacked(kind_search):
    torch.manual_seed(0)
    classifier = as_classifier(nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 4)), (20,), 4, device="cpu")
    x = np.random.default_rng(0).random((16, 20), dtype=np.float32)
    y = predicted(classifier, x)
    x_adv = kind_search(classifier, eps=4 * kind_search.eps).generate(x, y)
    assert x_adv.shape == x.shape
    assert kind_search.size(x_adv - x).max() <= 4 * kind_search.eps * (1 + 1e-5)
    assert robust(classifier, x_adv, y) <= 0.75


def test_two_classes_are_attacked(kind, images):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(128, 2))
    classifier = as_classifier(module, SHAPE, 2, device="cpu")
    y = predicted(classifier, images)
    attack = kind(classifier, eps=2 * kind.eps)
    x_adv = attack.generate(images, y)
    assert robust(classifier, x_adv, y) <= 0.5
    assert np.array_equal(attack.generate(images, np.eye(2)[y]), x_adv)


def test_a_transfer_is_clipped_to_the_models_own_values(network, images):
    narrow, wide = build(network, (0.2, 0.8)), build(network, (0.0, 1.0))
    x = images.clip(0.2, 0.8)
    attack = PGD(wide, eps=0.3, max_iter=4, verbose=False)
    expected = attack.generate(x, predicted(narrow, x))
    assert expected.min() < 0.2
    assert np.array_equal(TransferAttack(narrow, attack).generate(x), expected.clip(0.2, 0.8))
