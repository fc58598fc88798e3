"""Folders of another layout than expected, and images of another size."""

from __future__ import annotations

import itertools
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.nn import functional
from torchvision import transforms
from torchvision.models import ResNet18_Weights

from art_classwise import Dataset, InputError, load_dataset
from art_classwise.datasets import DATASETS, load_unlabeled
from art_classwise.trainers.recipes import fast_recipe

RNG = np.random.default_rng(0)


def put(*paths, side=8):
    """Write a small image at each path; its red level is the number of the path."""
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)
        pixels[..., 0] = i
        Image.fromarray(pixels).save(path)


def red(data):
    return np.rint(np.asarray(data.x)[:, 0, 0, 0] * 255).astype(int).tolist()


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        (("a.png", "b.JPEG"), r"holds 2 images without labels \(.*\.(png|JPEG), \.\.\.\): it must hold one subfolder"),
        (("val/a.png", "train/b.png"), "val holds 1 images without labels"),
        (("images/a.png", "images/b.png"), "one subfolder only, 'images', which would be the only class: its images n"),
        (("all/cat/a.png", "all/dog/b.png"), "That one holds cat, dog, ...: if these are the classes, give .*all.$"),
        (("train/cat/a.png", "labels/a.png", "train/dog/b.png"), "has the subfolders train, and none for the split 't"),
    ],
)
def test_folders_of_another_layout_are_refused(tmp_path, paths, says):
    put(*(tmp_path / path for path in paths))
    with pytest.raises(InputError, match=says):
        load_dataset(tmp_path)


def test_splits_are_found_beside_other_folders(tmp_path):
    put(*(tmp_path / path for path in ("test/cat/0.png", "test/dog/1.png", "train/cat/2.png", "notes/page.png")))
    assert load_dataset(tmp_path).classes == ("cat", "dog")
    other = tmp_path / "vehicles"  # one of which is called train
    put(*(other / path for path in ("bus/0.png", "train/1.png")))
    assert load_dataset(other).classes == ("bus", "train")


def test_imagenet_without_labels_says_how_to_get_them(tmp_path):
    put(*(tmp_path / "imagenet" / "val" / f"ILSVRC2012_val_0000000{i}.JPEG" for i in range(1, 4)))
    with pytest.raises(InputError, match=r"val holds 3 images without labels .*torchvision\.datasets\.ImageNet does"):
        load_dataset("imagenet", root=tmp_path)


@pytest.mark.parametrize("named", ["by id", "by number"])
def test_some_of_imagenets_classes_keep_their_numbers(tmp_path, named):
    folders = {"by id": ("n02123045", "n01440764", "n01494475"), "by number": ("281", "0", "4")}[named]
    put(*(tmp_path / "imagenet" / "val" / folder / "a.png" for folder in folders))
    data = load_dataset("imagenet", root=tmp_path, image_size=7)
    assert data.y.tolist() == [0, 4, 281]
    assert [data.classes[k] for k in data.y] == ["tench", "hammerhead", "tabby"]
    assert list(data.classes[5:8]) == ResNet18_Weights.DEFAULT.meta["categories"][5:8]
    assert red(data) == [1, 2, 0]


def test_imagenets_folders_must_be_of_its_classes(tmp_path):
    put(*(tmp_path / "imagenet" / "val" / folder / "a.png" for folder in ("n01440764", "kitten")))
    with pytest.raises(InputError, match="has 2 subfolders, of which 'kitten' is no class of ImageNet"):
        load_dataset("imagenet", root=tmp_path)
    put(*(tmp_path / "imagenet" / "train" / folder / "a.png" for folder in ("0", "1000")))
    with pytest.raises(InputError, match="of which '1000' is no class of ImageNet"):
        load_dataset("imagenet", "train", root=tmp_path)
    put(*(tmp_path / "imagenet" / "train" / folder / "a.png" for folder in ("00", "999")))
    (tmp_path / "imagenet" / "train" / "1000").rename(tmp_path / "away")
    with pytest.raises(InputError, match="or one that is there twice"):
        load_dataset("imagenet", "train", root=tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "stl10", "mnist"])
def test_a_missing_set_says_what_is_needed_and_what_is_there(tmp_path, name):
    put(tmp_path / "airplane" / "a.png")
    file = DATASETS[name].files["test"][0]
    with pytest.raises(InputError, match=rf"needs .*{file}.*; it has airplane\. .* give that folder in place"):
        load_dataset(name, root=tmp_path, download=False)
    with pytest.raises(InputError, match="; there is no such folder"):
        load_dataset(name, root=tmp_path / "nowhere", download=False)


@pytest.fixture
def stl10(monkeypatch):
    """Stand in for torchvision's STL-10: a few random images."""
    images = RNG.integers(0, 256, (6, 3, 96, 96), dtype=np.uint8)

    class STL10:
        def __init__(self, root, download, split):
            self.data, self.labels = images, np.arange(6) % 3

    monkeypatch.setattr(torchvision.datasets, "STL10", STL10)
    return images


def test_stl10_at_64_pixels_is_torchvisions_resize(stl10, tmp_path):
    data = load_dataset("stl10", root=tmp_path, image_size=64)
    steps = transforms.Compose([transforms.Resize(64), transforms.ToTensor()])
    expected = np.stack([steps(Image.fromarray(image.transpose(1, 2, 0))).numpy() for image in stl10])
    np.testing.assert_array_equal(data.x, expected)
    assert (data.x.dtype, data.input_shape) == (np.float32, (3, 64, 64))
    few = load_dataset("stl10", root=tmp_path, image_size=64, n_examples=2)
    np.testing.assert_array_equal(few.x, expected[:2])
    np.testing.assert_array_equal(load_unlabeled("stl10", root=tmp_path, image_size=64).x, expected)
    assert (
        load_dataset("stl10", root=tmp_path, image_size=96).x.tobytes()
        == load_dataset("stl10", root=tmp_path).x.tobytes()
    )


@pytest.mark.parametrize("size", [4, 16])
def test_images_that_are_no_levels_of_8_bits_are_resized_as_floats(size):
    """Those of digits are sixteenths: torch's antialiased interpolation does the same."""
    data, whole = load_dataset("digits", image_size=size).first(20), load_dataset("digits").first(20)
    expected = functional.interpolate(torch.from_numpy(whole.x), (size, size), mode="bilinear", antialias=True)
    np.testing.assert_allclose(data.x, expected.clamp(0, 1).numpy(), atol=1e-6)
    np.testing.assert_array_equal(data.y, whole.y)


def test_arrays_are_resized_if_they_are_square(tmp_path):
    np.savez(tmp_path / "own.npz", x=np.full((4, 6, 6), 51, np.uint8), y=[0, 1, 0, 1])
    np.savez(tmp_path / "wide.npz", x=np.zeros((4, 6, 5, 3), np.uint8), y=[0, 1, 0, 1])
    np.testing.assert_array_equal(
        load_dataset(tmp_path / "own.npz", image_size=9).x, np.full((4, 1, 9, 9), np.float32(0.2))
    )
    assert load_unlabeled(tmp_path / "own.npz", image_size=3).x.shape == (4, 1, 3, 3)
    for load in (load_dataset, load_unlabeled):
        with pytest.raises(InputError, match="images of wide have 6 x 5 pixels: only square ones are resized"):
            load(tmp_path / "wide.npz", image_size=4)


@pytest.mark.parametrize("size", [0, -64, 64.5, "64", True])
@pytest.mark.parametrize("name", ["digits", "folder"])
def test_bad_image_sizes(tmp_path, name, size):
    put(tmp_path / "folder" / "a" / "0.png", tmp_path / "folder" / "b" / "1.png")
    with pytest.raises(InputError, match="image_size"):
        load_dataset(name if name == "digits" else tmp_path / name, image_size=size)


def test_images_too_many_for_the_memory_are_refused_before_they_are_resized():
    with pytest.raises(InputError, match=re.escape("digits, 797 images of 9999999 x 9999999, takes")):
        load_dataset("digits", image_size=9_999_999)


def test_crops_are_padded_in_proportion():
    assert [fast_recipe("mart", "stl10", image_size=size).crop_padding for size in (None, 96, 64, 32)] == [12, 12, 8, 4]
    assert fast_recipe("mart", "mnist", image_size=32).crop_padding == 0
    assert fast_recipe("mart", "own", threat="Linf:0.1", image_size=32).crop_padding == 0


def test_pseudo_labels_may_have_any_name_if_it_is_given(tmp_path):
    """Those of generated images, 1m.npz say: ``image``, uint8 (n, 32, 32, 3), and ``label``."""
    images, labels = RNG.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8), np.array([3, 1, 4, 1, 5])
    np.savez(tmp_path / "1m.npz", image=images, label=labels)
    given = load_unlabeled(tmp_path / "1m.npz", pseudo_labels="label")
    assert given.y_pseudo.tolist() == labels.tolist()
    np.testing.assert_array_equal(given.x, images.transpose(0, 3, 1, 2) / np.float32(255))
    assert load_unlabeled(tmp_path / "1m.npz").y_pseudo is None
    # As it is written: other usual names for labels don't stand for it.
    for name, advice in (("labels", "Did you mean label?"), ("lable", "Did you mean label?"), ("y", "Known: image, l")):
        with pytest.raises(InputError, match=rf"Unknown array of .*1m\.npz '{name}'\. {re.escape(advice)}"):
            load_unlabeled(tmp_path / "1m.npz", pseudo_labels=name)
    np.savez(tmp_path / "capital.npz", image=images, Label=labels)
    assert load_unlabeled(tmp_path / "capital.npz", pseudo_labels="Label").y_pseudo.tolist() == labels.tolist()
    with pytest.raises(InputError, match=r"names an array of an \.npz file, but digits is none"):
        load_unlabeled("digits", pseudo_labels="label")


def test_there_is_a_pseudo_label_for_each_image(tmp_path):
    np.savez(tmp_path / "some.npz", x=np.zeros((5, 8, 8), np.uint8), y_pseudo=np.zeros(4, np.int64))
    with pytest.raises(InputError, match=r"some\.npz holds 5 images, but y_pseudo has shape \(4,\)"):
        load_unlabeled(tmp_path / "some.npz")


SIDES = [(4, *last) for last in itertools.product((1, 3, 6), repeat=2)] + [(2, 5, 3), (2, 3, 3), (6, 3, 2), (9, 4, 2)]


@pytest.mark.parametrize("shape", SIDES, ids=str)
def test_images_of_any_shape_are_taken_and_resized_as_they_are(shape, tmp_path):
    """What side is the channels is guessed once: rows that are taken, and smaller images, aren't guessed again."""
    x = RNG.integers(0, 256, (4, *shape), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of channels that were guessed
        data = Dataset(x, np.arange(4) % 2, ("a", "b"))
    np.testing.assert_array_equal(data.take(np.array([3, 1])).x, data.x[[3, 1]])
    np.testing.assert_array_equal(data.hold_out(2)[1].x, data.x[data.hold_out(2)[1].ids])
    if shape[1] == shape[2]:  # square with channels first
        np.testing.assert_array_equal(data.x, x / np.float32(255))
        np.savez(tmp_path / "own.npz", x=x, y=data.y)
        for size in (1, 2, 3, 8):
            small = load_dataset(tmp_path / "own.npz", image_size=size)
            assert small.x.shape == (4, shape[0], size, size)
        channel = load_dataset(tmp_path / "own.npz", image_size=1).x[:, -1]
        np.savez(tmp_path / "one.npz", x=x[:, -1], y=data.y)
        np.testing.assert_array_equal(load_dataset(tmp_path / "one.npz", image_size=1).x[:, 0], channel)


@pytest.fixture
def named_folder(tmp_path):
    """Return a function that makes a folder of images with subfolders of these names."""

    def make(*names):
        for name in names:
            (tmp_path / name).mkdir()
            Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
        return tmp_path

    return make


TWELVE = [f"class {k}" for k in range(12)]


@pytest.mark.parametrize(
    ("folders", "classes", "named"),
    [
        (("cat", "dog"), ("dog", "cat"), {"cat": "cat", "dog": "dog"}),
        (("cat", "dog"), "cifar10", {"cat": "cat", "dog": "dog"}),
        (("Cat", "TRUCK"), "stl10", {"Cat": "cat", "TRUCK": "truck"}),
        (("a", "A"), ("A", "a"), {"a": "a", "A": "A"}),
        (tuple(map(str, range(12))), TWELVE, {str(k): name for k, name in enumerate(TWELVE)}),
        (("3", "007"), "cifar10", {"3": "cat", "007": "horse"}),
        (("n01440764", "n01443537"), ("tench", "goldfish"), {"n01440764": "tench", "n01443537": "goldfish"}),
    ],
)
def test_class_names_are_given_to_the_folders_that_they_are_of(folders, classes, named, named_folder):
    """Folders are sorted as texts, which is neither the order of names that are given nor that of numbers."""
    data = load_dataset(named_folder(*folders), classes=classes)
    assert {Path(file).parent.name: data.classes[k] for file, k in zip(data.x.files, data.y, strict=True)} == named
    assert data.classes == (DATASETS[classes].class_names if isinstance(classes, str) else tuple(classes))


@pytest.mark.parametrize(
    ("folders", "classes", "says"),
    [
        (("cat", "zebra"), "cifar10", "'zebra' is none of the class names that were given (airplane, automobile, "),
        (("cat", "Cat"), "cifar10", "or there twice"),
        (("n1", "n2"), "cifar10", "has 2 subfolders (n1, n2), but 10 class names were given"),
        (("n1", "n2"), ("a",), "has 2 subfolders (n1, n2), but 1 class names were given (a)"),
        (("1", "12"), TWELVE, "numbers of the 12 classes whose names were given, 0 to 11"),
        (("1", "01"), TWELVE, "must be different numbers"),
        (("n1", "n2"), {"a", "b"}, "must be a list of names, that of class 0 first, but got {'"),
        (("n1", "n2"), {"a": 0, "b": 1}, "a dict, whose order may be another"),
        (("n1", "n2"), 2, '`classes` must be a list of names, e.g. ["cat", "dog"], but got 2'),
    ],
)
def test_class_names_that_fit_no_folder_are_refused(folders, classes, says, named_folder):
    with pytest.raises(InputError, match=re.escape(says)):
        load_dataset(named_folder(*folders), classes=classes)


def test_an_empty_name_is_not_the_current_folder(named_folder, monkeypatch):
    monkeypatch.chdir(named_folder("a", "b"))
    assert len(load_dataset(".")) == 2
    for load in (load_dataset, load_unlabeled):
        with pytest.raises(InputError, match="Unknown data set ''"):
            load("")
