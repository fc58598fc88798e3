from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import art_classwise as acw
from art_classwise import InputError


@pytest.fixture
def saved(tmp_path):
    network = acw.build("digits-cnn", (1, 8, 8), 3, seed=1)
    classifier = acw.as_classifier(network, (1, 8, 8), 3, device="cpu")
    path = tmp_path / "mine.pt"
    acw.save_checkpoint(
        path,
        classifier,
        architecture="digits-cnn",
        classes=["a", "b", "<c>"],
        threat="Linf:8/255",
        recipe={"method": "mart", "beta": 5.0, "steps": [1, 2], "best": None},
    )
    return path, classifier


def test_checkpoint_round_trip(saved, tmp_path):
    path, classifier = saved
    x = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
    np.testing.assert_array_equal(acw.load_checkpoint(path).predict(x), classifier.predict(x))
    checkpoint = acw.read_checkpoint(path)
    assert (checkpoint.architecture, checkpoint.input_shape) == ("digits-cnn", (1, 8, 8))
    assert checkpoint.classes == ("a", "b", "<c>")
    assert checkpoint.threat == acw.ThreatModel("Linf", 8 / 255)
    assert checkpoint.recipe == {"method": "mart", "beta": 5.0, "steps": [1, 2], "best": None}
    assert torch.load(path, weights_only=True)["format"] == "art-classwise checkpoint"
    assert [p.name for p in tmp_path.iterdir()] == ["mine.pt"]  # nothing aside is left


def test_own_module_goes_through_a_checkpoint(network, classifier, images, tmp_path):
    acw.save_checkpoint(tmp_path / "own.pt", classifier, architecture="", classes=list("abcd"))
    with pytest.raises(InputError, match="that art-classwise doesn't define: give it"):
        acw.load_checkpoint(tmp_path / "own.pt")
    again = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(128, 4)
    )
    loaded = acw.load_checkpoint(tmp_path / "own.pt", again)
    np.testing.assert_array_equal(loaded.predict(images), classifier.predict(images))


def test_checkpoint_of_another_architecture_is_named(saved, tmp_path):
    path, classifier = saved
    with pytest.raises(InputError, match=r"another architecture than the module Sequential: it (lacks|has)"):
        acw.load_checkpoint(path, nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    wider = acw.build("digits-cnn", (1, 8, 8), 4)
    with pytest.raises(InputError, match=r"8.weight has shape \(3, 64\), not \(4, 64\)"):
        acw.load_checkpoint(path, wider)
    with pytest.raises(InputError, match="The model is of another architecture than the architecture 'mnist-cnn'"):
        acw.save_checkpoint(
            tmp_path / "x.pt",
            classifier.model,
            architecture="mnist-cnn",
            classes=list("abc"),
            input_shape=(1, 28, 28),
        )


def test_save_refuses_what_can_not_be_loaded_safely(saved, tmp_path):
    _, classifier = saved
    options = {"architecture": "digits-cnn", "classes": list("abc")}
    with pytest.raises(InputError, match=r"recipe\['lr'\] is a float64; a recipe holds"):
        acw.save_checkpoint(tmp_path / "x.pt", classifier, **options, recipe={"lr": np.float64(0.1)})
    with pytest.raises(InputError, match="can't be written to .*nowhere"):
        acw.save_checkpoint(tmp_path / "nowhere" / "x.pt", classifier, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.pt"]


def test_files_that_are_no_checkpoint_are_recognised(tmp_path, bad_weights):
    for path, says in bad_weights:
        with pytest.raises(InputError, match=f"{path.name} .*{says}|{says}.*{path.name}"):
            acw.load_checkpoint(path)
    with pytest.raises(InputError, match="is not a file"):
        acw.load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"), [({"version": 99}, "of version 99"), ({"version": None}, "of version None")]
)
def test_checkpoint_of_another_version_is_named(saved, change, says):
    path, _ = saved
    content = torch.load(path, weights_only=True)
    torch.save({k: v for k, v in (content | change).items() if v is not None}, path)
    with pytest.raises(InputError, match=says):
        acw.load_checkpoint(path)
