"""Corrupted images: those of folders as RobustBench reads them, and made ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from corrupted import Brightest, classifier
from hypothesis import given, settings
from hypothesis import strategies as st

import art_classwise as acw
from art_classwise.datasets.catalog import CORRUPTIONS, SEVERITIES
from art_classwise.datasets.corrupting import MAKEABLE, corrupted
from art_classwise.datasets.corruptions import FOLDERS, corruption_names, is_corruption, parse_corruption
from art_classwise.errors import InputError
from art_classwise.threat import ThreatModel
from art_classwise.zoo.robustbench import robustbench


def test_names_and_folders_are_robustbenchs():
    data, enums = robustbench("data"), robustbench("model_zoo.enums")
    assert {*CORRUPTIONS} == {*data.CORRUPTIONS}
    for of in enums.BenchmarkDataset:
        assert FOLDERS[of.value] == data.CORRUPTIONS_DIR_NAMES[of][enums.ThreatModel.corruptions]


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_accuracy_is_that_of_robustbench_on_its_own_loader(dataset, tmp_path):
    """On a stand-in of as many images as it expects, two pixels wide."""
    rng = np.random.default_rng(0)
    n, n_classes = 10_000, 3
    y = rng.integers(0, n_classes, n)
    folder = tmp_path / FOLDERS[dataset]
    folder.mkdir()
    pixels = rng.integers(0, 200, (5 * n, 2, 2, 3), np.uint8)
    pixels[np.arange(5 * n), :, :, np.tile(y, 5)] += rng.integers(0, 55, (5 * n, 2, 2), np.uint8)
    np.save(folder / "fog.npy", pixels)
    np.save(folder / "labels.npy", np.tile(y, 5))
    data = acw.Dataset(np.zeros((n, 3, 2, 2), np.float32), y, ("r", "g", "b"), name=dataset)
    audit = acw.ClassWiseAudit(corruptions="fog:2,fog:5", corruption_dir=tmp_path, verbose=False, checks=False)
    result = audit.evaluate({"net": classifier(data)}, data.first(700))
    load = getattr(robustbench("data"), f"load_{dataset}c")
    accuracy = robustbench("utils").clean_accuracy
    for severity in (2, 5):
        x, labels = load(700, severity, str(tmp_path), False, ["fog"])
        expected = accuracy(Brightest(), x, labels, batch_size=100, device=torch.device("cpu"))
        assert result.rows("net", f"fog:{severity}")["withstood"].mean() == pytest.approx(expected)


@pytest.mark.parametrize("kind", MAKEABLE)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 9, 14)])
def test_made_images_are_valid_and_stronger_with_severity(kind, shape):
    smooth = np.linspace(0.1, 0.9, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    image = 0.7 * smooth + 0.3 * np.random.default_rng(0).random(shape, np.float32)
    image = (255 * image).round().astype(np.float32) / np.float32(255)
    made = [corrupted(image, kind, severity, 7) for severity in SEVERITIES]
    for one in made:
        assert one.dtype == np.float32
        assert one.shape == shape
        assert one.min() >= 0
        assert one.max() <= 1
        np.testing.assert_allclose(255 * one, (255 * one).round(), atol=1e-3)
        assert not np.array_equal(one, image)
    changes = [np.abs(one - image).mean() for one in made]
    assert changes[-1] > changes[0] > 0
    again = corrupted(image.copy(), kind, 3, 7)
    np.testing.assert_array_equal(again, made[2])
    noisy = kind not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert np.array_equal(corrupted(image, kind, 3, 8), made[2]) != noisy


def test_noise_has_the_spread_that_it_says():
    grey = np.full((3, 64, 64), 0.5, np.float32)
    assert corrupted(grey, "gaussian_noise", 5, 0).std() == pytest.approx(0.1, rel=0.05)
    assert corrupted(grey, "shot_noise", 3, 0).std() == pytest.approx((0.5 / 100) ** 0.5, rel=0.05)
    extreme = corrupted(grey, "impulse_noise", 5, 0)
    assert ((extreme == 0) | (extreme == 1)).mean() == pytest.approx(0.07, rel=0.1)
    assert corrupted(grey, "contrast", 5, 0) == pytest.approx(grey, abs=0.005)


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=30))
def test_any_text_is_a_corruption_or_refused(text):
    try:
        names = corruption_names(text)
    except InputError:
        return
    assert all(str(parse_corruption(name)[0]) == name and is_corruption(name) for name in names)


def test_names_stand_for_severities():
    assert corruption_names("fog") == tuple(f"fog:{s}" for s in SEVERITIES)
    assert len(corruption_names("all")) == 75
    assert corruption_names(["made:all:2", "SNOW:1"])[-1] == "snow:1"
    assert not is_corruption("fgsm")
    assert not is_corruption("pgd-20")


def test_corruptions_are_a_threat_model_without_a_norm():
    threat = ThreatModel.parse("Corruptions")
    assert str(threat) == "corruptions"
    assert not threat.is_ball
    threat.check_radius(0, 1, 48)
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(threat.project(x - 0.5, x, torch.tensor(0.0), torch.tensor(1.0)), (x - 0.5).clamp(0, 1))
    with pytest.raises(InputError, match="no norm"):
        _ = threat.art_norm
    with pytest.raises(InputError, match="must be 1"):
        ThreatModel("corruptions", 0.5)
    with pytest.raises(InputError, match="no norm"):
        acw.attacks.ladder("pgd-10", threat)
