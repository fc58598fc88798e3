"""What the experiments on several data sets share: files, sizes, phases of a training, tables that grow by data set."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import art_classwise as acw
from art_classwise.datasets import DATASETS
from art_classwise.metrics import class_groups


@pytest.fixture
def data(evaluation):
    return evaluation("data")


@pytest.fixture
def setups(evaluation):
    return evaluation("setups")


@pytest.fixture
def frame(evaluation):
    evaluation("machine"), evaluation("setups")
    return evaluation("experiment")


def pack(folder, name, n, side, n_classes=10, seed=0):
    """Write images of a data set as an .npz file, and return them."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8), np.arange(n) % n_classes
    np.savez(folder / f"{name}.npz", x=x, y=y)
    return x


def test_images_are_read_from_the_smallest_file_that_is_large_enough(data, tmp_path):
    for name, side in (("stl10_train64", 64), ("stl10_train48", 48), ("stl10_test", 96)):
        pack(tmp_path, name, 20, side)

    def found(split, size):
        path = data._packed(tmp_path, f"stl10_{split}", size)
        return path and path.name

    sides = (16, 48, 49, 64)
    assert [found("train", s) for s in sides] == [f"stl10_train{k}.npz" for k in (48, 48, 64, 64)]
    assert (found("train", 65), found("train", None), found("test", 32)) == (None, None, "stl10_test.npz")
    read = data.load("stl10", "train", tmp_path, 10, image_size=32)
    assert (read.input_shape, len(read), read.name) == ((3, 32, 32), 10, "stl10")
    assert read.classes == DATASETS["stl10"].class_names
    with pytest.raises(acw.InputError, match="stl10 .train. is not in"):
        data.load("stl10", "train", tmp_path)  # only smaller ones are there


@pytest.mark.parametrize("side", [16, 24, 40])
def test_images_are_resized_as_pillow_does(data, tmp_path, side):
    """Pillow's bilinear filter is antialiased, too; its values here are floats."""
    x = pack(tmp_path, "cifar10_test", 12, 32)
    read = data.load("cifar10", "test", tmp_path, image_size=side)
    for i in (0, 11):
        for c in range(3):
            channel = Image.fromarray(x[i, :, :, c].astype(np.float32) / 255)
            by_pillow = np.asarray(channel.resize((side, side), Image.Resampling.BILINEAR))
            np.testing.assert_allclose(read.x[i, c], by_pillow, atol=1e-5)
    same = data.load("cifar10", "test", tmp_path, image_size=32)
    np.testing.assert_array_equal(same.x, x.transpose(0, 3, 1, 2).astype(np.float32) / 255)


def test_cifar100s_classes_are_those_of_its_superclasses(data, setups, tmp_path):
    """In alphabetical order, as in the published files; five to each of the 20."""
    names = DATASETS["cifar100"].class_names
    groups = class_groups("cifar100", names)
    assert list(names) == sorted(set(names))
    assert (len(names), set(pd.Series(groups).value_counts())) == (100, {5})
    assert (names[0], names[49], names[99], groups[0]) == ("apple", "mountain", "worm", "fruit_and_vegetables")
    for split in ("train", "test"):
        pack(tmp_path, f"cifar100_{split}", 200, 32, n_classes=100)
    one = setups.Trainings(setups.SIZES["tiny"]["cifar100"], str(tmp_path), tmp_path / "store")
    (_, itself), (told, of) = one.views.items()
    assert list(itself) == list(range(100))
    assert told == "cifar100, 20 superclasses, cnn-a"
    pd.testing.assert_series_equal(pd.Series(of), pd.Series(pd.Categorical(groups).codes, dtype=of.dtype))
    other = setups.Trainings(setups.SIZES["tiny"]["cifar100"], None, tmp_path / "store", made_up=True)
    assert list(other.views) == [other.told]  # made-up classes have no superclasses


def test_imagenets_classes_have_their_words(data, tmp_path):
    """725 validation images, one of a class: the numbers stay, and no two classes share a name."""
    x = pack(tmp_path, "imagenet_val", 3, 8)
    np.savez(tmp_path / "imagenet_val.npz", x=x, y=[0, 999, 1])
    read = data.load("imagenet", "test", tmp_path)
    assert list(read.y) == [0, 999, 1]
    assert (read.classes[0], read.classes[1], read.classes[999]) == ("tench", "goldfish", "toilet tissue")
    assert len(set(read.classes)) == 1000
    assert len(class_groups("imagenet-coarse", read.classes)) == 1000


def short(setups):
    """A medium training of the digits that takes seconds."""
    phases = (
        setups.Phase("single-step", 2, steps=1, eps_step=1.25, lr=0.1, rising=0.3),
        setups.Phase("finish", 1, steps=2, eps_step=0.5, lr=0.01, rising=0.01),
    )
    return setups.Setup("digits", "digits-cnn", "Linf:0.1", 3, 2, 300, 60, 30, phases=phases, ema_decay=0.9)


def test_a_phase_begins_where_the_one_before_ended(setups, tmp_path, monkeypatch):
    began, fitted, ended = [], [], []
    fit = acw.AdversarialTrainerStandardPyTorch.fit

    def recorded(self, *arguments, **options):
        began.append([p.detach().clone() for p in self._classifier.model.parameters()])
        fitted.append((self.options["max_iter"], self.options["eps_step"], self.options["ema_decay"], options))
        history = fit(self, *arguments, **options)
        ended.append([p.detach().clone() for p in self._classifier.model.parameters()])
        return history

    monkeypatch.setattr(acw.AdversarialTrainerStandardPyTorch, "fit", recorded)
    one = setups.Trainings(short(setups), None, tmp_path)
    classifier = one.trained("standard", 0)
    assert all(map(torch.equal, began[0], one.network(0).parameters()))
    assert all(map(torch.equal, began[1], ended[0]))
    assert all(map(torch.equal, ended[1], classifier.model.parameters()))
    assert not any(map(torch.equal, began[1], ended[1]))
    assert [of[:3] for of in fitted] == [(1, pytest.approx(0.125), 0.9), (2, pytest.approx(0.05), 0.9)]
    assert [of[3]["nb_epochs"] for of in fitted] == [2, 1]
    assert [of[3]["scheduler"].total_steps for of in fitted] == [6, 3]  # 300 images in batches of 128
    assert list(one.history("standard", 0)["epoch"]) == [1, 2, 3]
    assert {p.name for p in (tmp_path / "digits" / "standard-0").iterdir()} >= {"single-step", "finish"}
    again = setups.Trainings(short(setups), None, tmp_path).trained("standard", 0)
    assert len(fitted) == 2
    assert all(map(torch.equal, again.model.parameters(), classifier.model.parameters()))


def test_a_training_that_stopped_between_phases_resumes(setups, tmp_path, monkeypatch):
    whole = setups.Trainings(short(setups), None, tmp_path / "whole").trained("standard", 0)
    part, seen = setups.Trainings._part, []

    def stopped(self, phase, *arguments):
        seen.append(phase.name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return part(self, phase, *arguments)

    monkeypatch.setattr(setups.Trainings, "_part", stopped)
    killed = setups.Trainings(short(setups), None, tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        killed.trained("standard", 0)
    resumed = killed.trained("standard", 0)
    assert seen == ["single-step", "finish", "single-step", "finish"]
    assert all(map(torch.equal, resumed.model.parameters(), whole.model.parameters()))


def test_trainings_share_a_first_phase(setups, tmp_path, monkeypatch):
    """It is done once, by its own method, and they differ in the rest alone."""
    began, part = [], setups.Trainings._part

    def recorded(self, phase, module, method, *arguments):
        began.append((phase.name, method, [p.detach().clone() for p in module.parameters()]))
        return part(self, phase, module, method, *arguments)

    monkeypatch.setattr(setups.Trainings, "_part", recorded)
    one = setups.Trainings(replace(short(setups), begun_by="standard"), None, tmp_path)
    trained = [one.trained("mart", 0), one.trained("mart", 0, name="-plain", boosted=False)]
    assert [of[:2] for of in began] == [("single-step", "standard"), ("finish", "mart")] * 2
    assert all(map(torch.equal, began[1][2], began[3][2]))
    assert not any(map(torch.equal, began[1][2], one.network(0).parameters()))
    assert not any(map(torch.equal, trained[0].model.parameters(), trained[1].model.parameters()))
    assert list(one.history("mart", 0)["epoch"]) == [1]
    one.trained("natural", 0)
    one.trained("standard", 0, labels=one.train.y[::-1].copy(), name="-noise")
    others = [("single-step", "natural"), ("single-step", "standard"), ("finish", "standard")]
    assert [of[:2] for of in began[4:]] == others
    assert all(map(torch.equal, began[4][2], one.network(0).parameters()))
    assert not any(map(torch.equal, began[6][2], began[1][2]))
    folders = {p.name for p in (tmp_path / "digits").iterdir() if p.is_dir()}
    assert folders == {"begun-0", "mart-0", "mart-plain-0", "natural-0", "standard-noise-0"}


def test_natural_training_has_the_first_phase_only(setups):
    one = setups.Trainings.__new__(setups.Trainings)
    one.setup = short(setups)
    assert [phase.name for phase in one.parts("natural")] == ["single-step"]
    assert [phase.name for phase in one.parts("mart")] == ["single-step", "finish"]
    one.setup = setups.SIZES["quick"]["digits"]
    assert one.parts("natural") == one.parts("mart") == (None,)


def test_medium_networks_are_small_and_cropped_by_an_eighth(setups):
    assert set(setups.SIZES["medium"]) == {"cifar10", "cifar100", "stl10"}
    for dataset, setup in setups.SIZES["medium"].items():
        side = setup.image_size or 32
        network = setups.network(setup.network, (3, side, side), DATASETS[dataset].n_classes)
        assert 2e5 < sum(p.numel() for p in network.parameters()) < 5e5
        one = setups.Trainings.__new__(setups.Trainings)
        one.setup, one.train = setup, acw.Dataset(np.zeros((2, 3, side, side), np.float32), np.arange(2), ("a", "b"))
        recipe = one.recipe("standard")
        assert (recipe.crop_padding, recipe.flip, recipe.batch_size) == (side // 8, True, 128)
        assert recipe.eps_step == pytest.approx(2 / 255)
        assert (recipe.steps, recipe.epochs, recipe.lr) == (5, 8, 0.02)


def test_a_store_of_a_version_that_noted_less_is_taken(setups, tmp_path):
    """What it didn't note was at its default."""
    setup = setups.SIZES["tiny"]["digits"]
    usual = {"phases": (), "ema_decay": None, "weight_decay": 5e-4}
    old = {name: value for name, value in asdict(setup).items() if name not in usual}
    setups.check_size(tmp_path / "digits", old)
    setups.Trainings(setup, None, tmp_path)
    with pytest.raises(SystemExit, match="holds trainings of another size"):
        setups.Trainings(replace(setup, ema_decay=0.9), None, tmp_path)


def test_rows_of_what_wasnt_measured_stay(frame):
    """To the letter, wherever they stand, with columns that only one table has."""
    stored = "dataset,network,seed,robust\nmnist,a,0,0.12345\ncifar10,a,0,1\nmnist,b,,0.5\n"
    table = "dataset,network,robust,n\nmnist,a,0.25,7\nstl10,a,0.75,8\n"
    joined = frame.with_stored(table, stored, frame.KEYS)
    assert joined == (
        "dataset,network,seed,robust,n\ncifar10,a,0,1,\nmnist,b,,0.5,\nmnist,a,,0.25,7\nstl10,a,,0.75,8\n"
    )
    assert frame.with_stored(table, table, frame.KEYS) == table
    claims = "claim,data\n1. x,mnist\n2. x,mnist\n"
    assert frame.with_stored("claim,data\n2. x,mnist\n", claims, ["claim", "data"]) == claims


def test_a_claim_knows_its_data_set(frame):
    texts = ("cifar100, 20 superclasses, cnn-a", "cifar10-cnn-a, Linf:4/255", "cifar10", "imagenet, 7 groups, x")
    assert [frame.dataset_of(text) for text in texts] == ["cifar100", "cifar10", "cifar10", "imagenet"]
    assert [frame.dataset_of(text) for text in ("synthetic stand-in for mnist", "cifar1000, x", "")] == [""] * 3


def test_a_smoke_test_has_no_verdict(frame):
    few = frame.Claim("0. claim", "svhn, net", "gap", 50.0, 40.0, 60.0, "n = 40", least=5, smoke=True)
    assert few.verdict == few.row()["verdict"] == "smoke test"
    assert "smoke" not in few.row()
    assert replace(few, smoke=False).verdict == "seen"


def test_verdicts_are_counted_by_data_set_and_size(evaluation, frame):
    script = evaluation("summary")
    rows = [
        ("0. gap", "cifar10, net", "seen", "quick"),
        ("0. gap", "cifar10-cnn-a, Linf:4/255", "unclear", "quick"),
        ("0. gap", "cifar100, 20 superclasses, net", "not seen", "quick"),
        ("0. gap", "cifar10, net", "seen", "medium"),
        ("7b. few", "mnist, net", "seen", "quick"),
        ("8. policy", "mnist, net", "seen", "quick"),
        ("10 % noise", "cifar10, net", "seen", "quick"),
        ("0. gap", "synthetic stand-in for svhn, net", "seen", "quick"),
    ]
    claims = pd.DataFrame(rows, columns=["claim", "data", "verdict", "size"]).assign(page="p")
    head, _, gap, few = script.by_dataset(claims).splitlines()
    assert head == "| claim | mnist | cifar10 | cifar100 | svhn | stl10 | imagenet | digits |"
    assert gap == "| 0. gap | – | [1 seen, 1 unclear](p); medium: [1 seen](p) | [1 not seen](p) | – | – | – | – |"
    assert few == "| 7b. few | [1 seen](p) | – | – | – | – | – | – |"
