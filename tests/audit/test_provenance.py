"""What tells networks, data and attacks apart."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from art.defences.preprocessor import FeatureSqueezing
from art.estimators.classification import PyTorchClassifier
from torch import nn

import art_classwise as acw
from art_classwise.audit.provenance import data_fingerprint, file_digests, model_fingerprint, parameters
from art_classwise.datasets import LazyImages


class Tempered(nn.Module):
    """A network with a setting that is no weight and in no repr."""

    def __init__(self, network, temperature=1.0):
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, x):
        return self.network(x) / self.temperature


def wrapped(module, **options):
    return PyTorchClassifier(
        module, nn.CrossEntropyLoss(), (3, 6, 6), 4, clip_values=(0, 1), device_type="cpu", **options
    )


def test_a_copy_is_the_same_network_whatever_its_state(network):
    expected = model_fingerprint(wrapped(network))
    twin = copy.deepcopy(network).train().requires_grad_(False)
    assert model_fingerprint(wrapped(twin)) == expected
    assert len(expected) == 32


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n[0].weight.data.flatten()[3].add_(1e-7),
        lambda n: n[1].running_var.add_(1e-3),
        lambda n: setattr(n, "2", nn.ReLU()),
        lambda n: setattr(n[1], "eps", 1e-3),
        lambda n: setattr(n[3], "p", 0.4),
        lambda n: n.half(),
    ],
)
def test_weights_buffers_layers_and_settings_tell_networks_apart(network, change):
    expected = model_fingerprint(wrapped(network))
    changed = copy.deepcopy(network)
    change(changed)
    assert model_fingerprint(wrapped(changed)) != expected


def test_attributes_and_preprocessing_tell_networks_apart(network):
    same = [wrapped(Tempered(network)), wrapped(Tempered(network))]
    other = [
        wrapped(network),
        wrapped(Tempered(network, 2.0)),
        wrapped(network, preprocessing=(0.5, 0.25)),
        wrapped(network, preprocessing=(0.5, 0.5)),
        wrapped(network, preprocessing_defences=FeatureSqueezing(clip_values=(0, 1), bit_depth=4)),
        wrapped(network, preprocessing_defences=FeatureSqueezing(clip_values=(0, 1), bit_depth=5)),
    ]
    assert len({model_fingerprint(c) for c in same}) == 1
    assert len({model_fingerprint(c) for c in [*same, *other]}) == 1 + len(other)


def test_pixels_labels_numbers_order_and_names_tell_data_apart(data):
    darker = data.x.copy()
    darker[15, 2, 5, 5] *= 0.999
    labels = data.y.copy()
    labels[0] = (labels[0] + 1) % 3
    others = [
        acw.Dataset(darker, data.y, data.classes, ids=data.ids),
        acw.Dataset(data.x, labels, data.classes, ids=data.ids),
        acw.Dataset(data.x, data.y, data.classes),
        acw.Dataset(data.x, data.y, (*data.classes[:3], "dog"), ids=data.ids),
        data.take(np.arange(16)[::-1]),
        data.first(15),
    ]
    same = acw.Dataset(data.x.copy(), data.y.copy(), data.classes, "another name", "train", data.ids)
    assert data_fingerprint(same) == data_fingerprint(data)
    assert len({data_fingerprint(d) for d in [data, *others]}) == 1 + len(others)


def test_images_in_files_are_known_by_names_and_sizes(tmp_path, monkeypatch, capsys):
    """Read they needn't be; where the folder lies doesn't matter."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for place in ("here", "there"):
        for k in ("a", "b"):
            (tmp_path / place / k).mkdir(parents=True)
    for i in range(4):
        image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        for place in ("here", "there"):
            image.save(tmp_path / place / "ab"[i % 2] / f"{i}.png")

    def found(place, **options):
        return acw.load_dataset(tmp_path / place, **options)

    expected = data_fingerprint(found("here"))
    assert data_fingerprint(found("there")) == expected
    monkeypatch.setenv("TQDM_DISABLE", "0")  # in a log, too
    assert file_digests(found("here")) == {"here/": file_digests(found("there"), shown=True)["there/"]}
    assert capsys.readouterr().err.startswith("image files  100%  0 of 4")
    assert data_fingerprint(found("here", image_size=4)) != expected
    assert data_fingerprint(found("here").take(np.arange(3))) != expected
    path = tmp_path / "there" / "a" / "0.png"
    path.write_bytes(path.read_bytes() + b"x")
    assert data_fingerprint(found("there")) != expected
    path.rename(path.with_name("7.png"))
    assert found("there").x.fingerprint != found("here").x.fingerprint
    image.save(tmp_path / "one.png")


def test_images_of_ones_own_reader_are_known_by_their_pixels(images):
    def lazily(pixels):
        return LazyImages(lambda i: pixels[i], np.arange(16), (3, 6, 6))

    other = images.copy()
    other[9, 0, 0, 0] = 0.5
    assert lazily(images).fingerprint == lazily(images.copy()).fingerprint
    assert lazily(images).fingerprint != lazily(other).fingerprint
    assert lazily(images).take(np.arange(8)).fingerprint != lazily(images).fingerprint


def test_what_computes_alike_is_told_alike(classifier):
    one, other = (acw.PGD(classifier, batch_size=size, verbose=size > 1) for size in (1, 9))
    assert parameters(one) == parameters(other)
    one, other = (acw.AutoAttack(classifier, micro_batch_size=size) for size in (None, 9))
    assert parameters(one) == parameters(other)
    assert parameters(acw.AutoAttack(classifier, batch_size=9)) != parameters(one)  # its draws belong to batches


KINDS = {
    "AutoAttack": "art_classwise.attacks.autoattack.AutoAttack",
    "ClassWiseAttack": "art_classwise.attacks.classwise.ClassWiseAttack",
    "PGD": "art_classwise.attacks.pgd.PGD",
    "TemperaturePGD": "art_classwise.attacks.temperature_pgd.TemperaturePGD",
    "TransferAttack": "art_classwise.attacks.transfer.TransferAttack",
}


def test_attacks_are_known_by_what_version_0_1_0_wrote_wherever_their_classes_lie(classifier, monkeypatch):
    """Stored audits hold these names in their fingerprints."""
    public = [getattr(acw.attacks, name) for name in acw.attacks.__all__]
    since = {acw.MinimumNormAttack, acw.attacks.Corruption}
    attacks = [each for each in public if hasattr(each, "generate") and hasattr(each, "kind") and each not in since]
    assert {attack.kind for attack in attacks} == KINDS.keys()
    for attack in attacks:
        made = attack(classifier, acw.PGD(classifier)) if attack is acw.attacks.TransferAttack else attack(classifier)
        for module in (attack.__module__, "art_classwise.elsewhere"):
            monkeypatch.setattr(attack, "__module__", module)
            assert parameters(made)["class"] == KINDS[attack.kind]


def test_a_class_made_of_ours_is_another_attack(classifier):
    class Mine(acw.PGD):
        pass

    class Named(acw.PGD):
        kind = "PGD"

    for made in (Mine, Named):
        assert parameters(made(classifier))["class"] == f"{__name__}.{made.__qualname__}"


def test_arrays_and_surrogates_are_parameters(classifier, network):
    budgets = [np.full((200, 1, 1, 1), 0.1), np.full((200, 1, 1, 1), 0.1)]
    budgets[1][-1] = 0.2
    first, second = (parameters(acw.PGD(classifier, eps=eps))["eps"] for eps in budgets)
    assert first != second
    assert "SHA-256" in first
    twin = acw.as_classifier(copy.deepcopy(network), (3, 6, 6), 4, device="cpu")
    changed = copy.deepcopy(network)
    changed[5].bias.data[0] += 1
    other = acw.as_classifier(changed, (3, 6, 6), 4, device="cpu")
    told = [parameters(acw.TransferAttack(classifier, acw.PGD(surrogate))) for surrogate in (twin, other)]
    assert told[0] != told[1]
    assert told[0]["attack"]["estimator"] == model_fingerprint(classifier)
