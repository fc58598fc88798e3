"""Images without labels, from files and data sets; and examples held out."""

from __future__ import annotations

import numpy as np
import pytest
import torchvision
from PIL import Image

import art_classwise as acw
from art_classwise.datasets import LazyImages


def test_a_folders_images_are_read_as_needed_at_any_depth(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)
    for place, image in zip(("b.png", "a/c.PNG", "a/b/d.bmp"), pixels, strict=True):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / place)
    (tmp_path / "a" / "readme.txt").write_text("no image")
    x, y_pseudo = acw.datasets.load_unlabeled(tmp_path)
    assert y_pseudo is None
    assert isinstance(x, LazyImages)
    assert (x.shape, x.dtype) == ((3, 3, 6, 5), np.float32)
    # Sorted by their paths, whatever the file system's order is.
    np.testing.assert_array_equal(x[:], pixels[[2, 1, 0]].transpose(0, 3, 1, 2) / np.float32(255))
    assert acw.datasets.load_unlabeled(tmp_path, grey=True).x.shape == (3, 1, 6, 5)
    assert acw.datasets.load_unlabeled(tmp_path, image_size=4).x.shape == (3, 3, 4, 4)


def test_a_file_may_bring_pseudo_labels(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (4, 5, 5), dtype=np.uint8)
    np.savez(tmp_path / "with.npz", x=x, y_pseudo=[1, 0, 2, 1], y=[9, 9, 9, 9])
    np.savez(tmp_path / "without.npz", x=x, y=[9, 9, 9, 9])
    given = acw.datasets.load_unlabeled(tmp_path / "with.npz")
    np.testing.assert_array_equal(given.x, x[:, None] / np.float32(255))
    assert given.y_pseudo.tolist() == [1, 0, 2, 1]
    assert acw.datasets.load_unlabeled(tmp_path / "without.npz").y_pseudo is None  # true labels aren't looked at


def test_a_data_sets_labels_are_not_looked_at(monkeypatch, tmp_path):
    np.testing.assert_array_equal(acw.datasets.load_unlabeled("digits").x, acw.load_dataset("digits", "train").x)

    class STL10:
        def __init__(self, root, download, split):
            n = {"train": 4, "test": 4, "unlabeled": 7}[split]
            self.data, self.labels = np.zeros((n, 3, 96, 96), np.uint8), np.full(n, -1 if split == "unlabeled" else 0)

    monkeypatch.setattr(torchvision.datasets, "STL10", STL10)
    images, y_pseudo = acw.datasets.load_unlabeled("stl10", root=tmp_path)
    assert (len(images), y_pseudo) == (7, None)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cifar", "Unknown data set 'cifar'. Did you mean cifar10 or cifar100"),
        ("empty", "There is no image in .*empty: files that end with .png"),
        ("missing.npz", "There is no file"),
        ("labels.npz", "must hold arrays named x, but it holds y: write it with numpy.savez.path, x=images"),
        ("none.npz", "is empty: it needs at least one image in x"),
        ("flat.npz", "must be images .n, C, H, W., but has rows"),
        ("text.npz", "is not an .npz file: write it with numpy.savez.path, x=images"),
        ("broken", "broken.png can't be read as an image"),
    ],
)
def test_what_is_no_set_of_images_says_why(monkeypatch, tmp_path, name, says):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "broken"):
        (tmp_path / folder).mkdir()
    (tmp_path / "broken" / "broken.png").write_text("no image")
    (tmp_path / "text.npz").write_text("no archive")
    np.savez("labels.npz", y=[1])
    np.savez("none.npz", x=np.zeros((0, 5, 5), np.uint8))
    np.savez("flat.npz", x=np.zeros((5, 5), np.uint8))
    with pytest.raises(acw.InputError, match=says):
        acw.datasets.load_unlabeled(name)


@pytest.mark.parametrize("n", [0, -1, 2.5, 16, 17])
def test_nothing_and_all_can_not_be_held_out(data, n):
    says = "16 examples can't be held out|17 examples can't be" if n in (16, 17) else "whole number of at least 1"
    with pytest.raises(acw.InputError, match=says):
        data.hold_out(n)


def test_images_held_out_stay_unread(tmp_path):
    for k in range(2):
        (tmp_path / str(k)).mkdir()
        for i in range(5):
            Image.fromarray(np.full((4, 4), 20 * k + i, np.uint8)).save(tmp_path / str(k) / f"{i}.png")
    rest, held_out = acw.load_dataset(tmp_path).hold_out(4, seed=3)
    assert isinstance(held_out.x, LazyImages)
    assert held_out.y.tolist() == [0, 0, 1, 1]
    values = (np.concatenate([rest.x[:], held_out.x[:]])[:, 0, 0, 0] * 255).round().astype(int)
    assert sorted(values) == [0, 1, 2, 3, 4, 20, 21, 22, 23, 24]
