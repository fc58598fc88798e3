"""Networks and data sets of several sizes, from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import art_classwise as acw
from art_classwise.datasets.image_folder import imagenet_ids
from art_classwise.zoo import read_checkpoint

RNG = np.random.default_rng(0)


def test_a_network_of_torchvision_is_audited_on_some_of_imagenets_classes(command_line, tmp_path):
    """One image of each of three classes, as of 725 in a set that others made; read by groups."""
    for k in (5, 281, 970):
        folder = tmp_path / "imagenet" / "val" / imagenet_ids()[k]
        folder.mkdir(parents=True)
        Image.fromarray(RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / "a.JPEG")
    network = acw.build("torchvision:squeezenet1_1", (3, 32, 32), 1000, seed=0)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    code, out, err = command_line(
        *("audit", "--model", f"net={tmp_path}/net.pth", "--arch", "torchvision:squeezenet1_1"),
        *("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--data-dir", str(tmp_path)),
        *("--dataset", "imagenet", "--image-size", "32", "--attacks", "fgsm", "--groups", "imagenet", "--no-checks"),
        *("--json", "--out", str(tmp_path / "run")),
    )
    assert code == 0, err
    rows = acw.read_audit(tmp_path / "run").outcomes
    assert sorted({*rows["label"]}) == [5, 281, 970]
    data = acw.load_dataset("imagenet", root=tmp_path, image_size=32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = network.eval()((torch.from_numpy(data.x[:]) - mean) / std).argmax(1).tolist()
    told = {row.label: row.clean_prediction for row in rows.itertuples()}
    assert [told[k] for k in data.y] == expected
    (model,) = json.loads(out)["models"]
    assert {row["group"] for row in model["groups"]} >= {"fish", "domestic_cat", "landscape"}


def test_stl10_is_trained_on_at_64_pixels(command_line, tmp_path, monkeypatch):
    class STL10:
        def __init__(self, root, download, split):
            self.data, self.labels = RNG.integers(0, 256, (20, 3, 96, 96), dtype=np.uint8), np.arange(20) % 10

    monkeypatch.setattr(torchvision.datasets, "STL10", STL10)
    code, _, err = command_line(
        *("train", "standard", "--dataset", "stl10", "--image-size", "64", "--arch", "resnet8-stem2"),
        *("--recipe", "fast", "--steps", "1", "--epochs", "1", "--quiet", "--out", str(tmp_path / "net.pt")),
    )
    assert code == 0, err
    kept = read_checkpoint(tmp_path / "net.pt")
    assert (kept.architecture, tuple(kept.input_shape)) == ("resnet8-stem2", (3, 64, 64))
    assert kept.recipe["crop_padding"] == 8
    assert acw.load_checkpoint(tmp_path / "net.pt", device="cpu").input_shape == (3, 64, 64)


def test_a_swish_network_trains_with_generated_images(command_line, tmp_path):
    """Wang et al. 2023 in small: TRADES, a weight average, and images with labels as ``1m.npz`` holds them."""
    data = acw.load_dataset("digits", "train")
    np.savez(
        tmp_path / "1m.npz", image=np.rint(data.x[:60].transpose(0, 2, 3, 1) * 255).astype(np.uint8), label=data.y[:60]
    )
    options = (
        *(
            "train",
            "trades",
            "--arch",
            "wrn-10-1-swish",
            "--examples",
            "40",
            "--epochs",
            "1",
            "--steps",
            "1",
            "--quiet",
        ),
        *("--batch-size", "20", "--beta", "5", "--ema", "0.995", "--unlabeled-fraction", "0.7"),
        *("--unlabeled", str(tmp_path / "1m.npz"), "--out", str(tmp_path / "net.pt")),
    )
    code, _, err = command_line(*options, "--pseudo-labels", "label")
    assert code == 0, err
    assert read_checkpoint(tmp_path / "net.pt").recipe["unlabeled"]["n"] == 60
    assert not (tmp_path / "net.training" / "pseudo_labels.npz").exists()  # none were made
    code, _, err = command_line(*options[:-1], str(tmp_path / "other.pt"), "--pseudo-labels", "labels")
    assert code == 2
    assert "'labels'. Did you mean label?" in " ".join(err.split())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ("--arch", "mnist-cnn"),
            "takes images of 28 x 28, but got 8 x 8. Resize them (--image-size 28), or take",
        ),
        (("--arch", "resnet8", "--image-size", "7"), "resnet8 takes images of 8 x 8 pixels or larger, but got 7 x 7"),
        (("--arch", "resnet8", "--image-size", "0"), "--image-size must be"),
        (("--pseudo-labels", "label"), "--pseudo-labels names an array of the .npz file that --unlabeled gives"),
        (("--pseudo-labels", "label", "--unlabeled", "digits"), "--pseudo-labels names an array of an .npz file"),
    ],
)
def test_what_does_not_fit_is_said(command_line, tmp_path, options, says):
    code, _, err = command_line("train", "standard", *options, "--out", str(tmp_path / "x.pt"))
    assert code == 2
    assert says in " ".join(err.split())
