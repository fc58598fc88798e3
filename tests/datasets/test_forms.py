"""Labelled images as people hold them: each form ends in the same images and labels, or in a remedy."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset, TensorDataset

import art_classwise as acw
from art_classwise import InputError
from art_classwise.datasets import as_dataset

LEVELS = np.random.default_rng(0).integers(0, 256, (6, 3, 5, 4), dtype=np.uint8)
X = LEVELS.astype(np.float32) / np.float32(255)
Y = np.array([0, 1, 2, 1, 0, 2])
NAMES = ["ant", "bee", "cow"]


class Pairs:
    """A torch data set, as far as anyone looks."""

    classes = NAMES

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], self.labels[i]


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(zip(torch.from_numpy(X), Y, strict=True))


class ClassLabel:
    names = NAMES


class HuggingFace(Pairs):
    """What `datasets.Dataset` gives: dicts, with the names among its features."""

    classes = None
    features = {"image": None, "label": ClassLabel()}  # noqa: RUF012

    def __getitem__(self, i):
        return {"image": self.images[i], "label": int(self.labels[i])}


class CIFAR10(Pairs):
    """By its name its usual threat model is known."""


PILLOW = [Image.fromarray(image.transpose(1, 2, 0)) for image in LEVELS]
T = torch.from_numpy

IMAGES = {
    "float32": X,
    "float64": X.astype(np.float64),
    "uint8": LEVELS,
    "Fortran order": np.asfortranarray(X),
    "nested lists": X.tolist(),
    "list of arrays": list(X),
    "list of tensors": list(T(X)),
    "tensor": T(X),
    "with gradient": T(X).requires_grad_(),
    "uint8 tensor": T(LEVELS),
    "channels last in memory": T(X).to(memory_format=torch.channels_last),
    "channels last": X.transpose(0, 2, 3, 1),
    "uint8 channels last": LEVELS.transpose(0, 2, 3, 1),
    "list of Pillow's images": PILLOW,
    "rounding": np.where(X == 1, np.float32(1.0000001), X) - np.float32(1e-8),
}
GUESSED = {
    "int32": (LEVELS.astype(np.int32), "divided by 255"),
    "int64 tensor": (T(LEVELS).long(), "divided by 255"),
}
LABELS = {
    "int64": Y,
    "uint8": Y.astype(np.uint8),
    "float": Y.astype(float),
    "list": Y.tolist(),
    "column": Y[:, None],
    "one-hot": np.eye(3)[Y],
    "tensor": T(Y),
    "series": pd.Series(Y, index=range(10, 16)),
    "frame": pd.DataFrame({"y": Y}),
    "categorical": pd.Series(pd.Categorical.from_codes(Y, NAMES)),
    "names": [NAMES[k] for k in Y],
    "bytes": np.array([NAMES[k].encode() for k in Y]),
}
DATA = {
    "pair": (X, Y),
    "list": [X, Y],
    "dict": {"image": X, "label": Y},
    "other dict": {"x": LEVELS, "y": Y},
    "TensorDataset": TensorDataset(T(X), T(Y)),
    "torch data set": Pairs(T(X), Y),
    "of arrays": Pairs(X, [np.int64(y) for y in Y]),
    "Subset": Subset(Pairs(T(X), Y), range(6)),
    "DataLoader": DataLoader(TensorDataset(T(X), T(Y)), batch_size=4, shuffle=True),
    "iterable data set": Stream(),
    "Hugging Face": HuggingFace(list(X), Y),
}


@pytest.mark.parametrize("form", IMAGES)
def test_images_of_any_type_are_the_same_images(form):
    data = as_dataset((IMAGES[form], Y), NAMES)
    np.testing.assert_allclose(data.x, X, atol=2e-8)
    assert data.x.dtype == np.float32
    assert 0 <= data.x.min() <= data.x.max() <= 1


@pytest.mark.parametrize("form", GUESSED)
def test_what_was_guessed_is_said(form):
    images, says = GUESSED[form]
    with pytest.warns(UserWarning, match=f"converted: .*{says}"):
        data = acw.Dataset(images, Y, NAMES)
    np.testing.assert_allclose(data.x, X, atol=1e-7)


def test_half_precision_is_as_near_as_it_can_be():
    for dtype in (torch.bfloat16, torch.float16):
        np.testing.assert_array_equal(acw.Dataset(T(X).to(dtype), Y, NAMES).x, T(X).to(dtype).float().numpy())


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("sides", [(28, 28), (32, 40)])
def test_the_channels_are_found_whatever_their_number(n_channels, sides):
    first = np.random.default_rng(0).random((2, n_channels, *sides), dtype=np.float32)
    np.testing.assert_array_equal(acw.Dataset(first, [0, 1], NAMES).x, first)
    guessed = n_channels not in (1, 3)
    with pytest.warns(UserWarning, match=f"last of the sides, {n_channels}, was taken") if guessed else nullcontext():
        data = acw.Dataset(first.transpose(0, 2, 3, 1), [0, 1], NAMES)
    np.testing.assert_array_equal(data.x, first)


@pytest.mark.parametrize(
    ("whole", "divisor"),
    [
        (np.array([0, 65_535], np.uint16), 65_535),
        (np.array([0, 255], np.uint16), 65_535),
        (np.array([0, 255], np.int32), 255),
        (np.array([0, 300], np.int64), 65_535),
        (np.array([0, 1], np.uint8), 1),
        (np.array([0, 1], np.int64), 1),
        (np.array([False, True]), 1),
    ],
)
def test_whole_numbers_are_scaled_by_their_range(whole, divisor):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = acw.Dataset(whole.reshape(1, 1, 1, 2), [0], NAMES)
    np.testing.assert_allclose(data.x.ravel(), whole / divisor, rtol=1e-6)


@pytest.mark.parametrize("form", LABELS)
def test_labels_of_any_form_are_the_same_labels(form):
    np.testing.assert_array_equal(acw.Dataset(X, LABELS[form], NAMES).y, Y)
    assert as_dataset((X, LABELS[form]), NAMES).classes == tuple(NAMES)


@pytest.mark.parametrize("form", DATA)
def test_data_of_any_form_are_the_same_data(form):
    data = as_dataset(DATA[form])
    np.testing.assert_allclose(data.x, X, atol=1e-7)
    np.testing.assert_array_equal(data.y, Y)
    named = form in ("torch data set", "of arrays", "Subset", "Hugging Face")
    assert data.classes == (tuple(NAMES) if named else ("0", "1", "2"))


def test_names_are_classes_and_models_say_how_many_there_are():
    assert as_dataset((X, LABELS["names"])).classes == tuple(NAMES)
    assert as_dataset((X, Y), n_classes=5).classes == ("0", "1", "2", "3", "4")
    assert as_dataset(CIFAR10(X, Y)).name == "cifar10"
    assert as_dataset("Digits").name == acw.load_dataset("DIGITS").name == "digits"
    assert as_dataset(acw.load_dataset("digits")).name == "digits"


class Random(Pairs):
    def __getitem__(self, i):
        return torch.rand(3, 5, 4), 0


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "A NoneType is no labelled images. Give a Dataset, a name or path"),
        (3, "A int is no labelled images"),
        ((X, Y, Y), r"Item 0 of the data set must be a pair \(image, label\)"),
        ((X, Y[:3]), "6 examples, but 3 labels"),
        ((X, None), "y must be an array, a tensor or a list of numbers, but is a NoneType"),
        ((object(), Y), "x must be images .*but is a object"),
        (
            ([X[0], X[0][:, :2]] * 3, Y),
            r"x must be of one shape, but x\[0\] has shape \(3, 5, 4\) and x\[1\] \(3, 2, 4\)",
        ),
        ((X.reshape(6, -1), Y), r"has rows of 60 values: reshape it to \(n, C, H, W\)"),
        ((np.zeros((6, 784), np.float32), Y), r"reshape it to \(n, 1, 28, 28\)"),
        ((X.astype(complex), Y), "must hold whole numbers, or floats"),
        ((X * 2 - 1, Y), r"go from -1 to 1. Undo the normalisation: .*\(`mean`, `std`\)\. Give these to as_classifier"),
        ((X, Y + 1), "labels start at 1 .they go to 3."),
        ((X, ["ant", None] * 3), "y must be|labels must be"),
        ({"pictures": X, "y": Y}, "The data have no images: their keys are pictures, y"),
        ({"x": X}, "The data have no labels"),
        (Random(X, Y), "another one when it is read again: take random transforms out"),
        (Pairs([], []), "The data set is empty"),
        (Pairs(["a"] * 6, Y), "image 0 must be an array, a tensor or a list of numbers, but is a str"),
        ("cifra10", "Did you mean cifar10"),
    ],
)
def test_what_is_no_data_ends_in_a_remedy(data, says):
    with pytest.raises(InputError, match=says):
        as_dataset(data)


def test_labels_that_are_no_class_are_refused():
    with pytest.raises(InputError, match=r"labels start at 1 and go to 3, but classes are numbered from 0: give y - 1"):
        acw.Dataset(X, Y + 1, NAMES)
    with pytest.raises(InputError, match="Unknown class 'anr'. Did you mean ant"):
        acw.Dataset(X, ["ant", "anr", "cow"] * 2, NAMES)


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (("images", "labels"), "test"),
        (("X", "Y"), "test"),
        (("x_test", "y_test"), "test"),
        (("train_images", "train_labels"), "train"),
        (("data", "targets"), "test"),
        (("arr_0", "arr_1"), "test"),
        (("val_images", "val_labels"), "test"),
    ],
)
def test_arrays_of_other_names_are_found_in_npz_files(names, split, tmp_path):
    other = {f"{'train' if split == 'test' else 'test'}_images": X[:2]}
    np.savez(tmp_path / "own.npz", **other, **dict(zip(names, (LEVELS, LABELS["names"]), strict=True)))
    data = acw.load_dataset(tmp_path / "own.npz", split)
    np.testing.assert_allclose(data.x, X, atol=1e-7)
    assert (data.classes, data.y.tolist()) == (tuple(NAMES), Y.tolist())


def test_the_folder_of_a_split_is_chosen(tmp_path):
    for split, names in (("train", ("ant", "bee")), ("Val", ("ant", "bee"))):
        for k, name in enumerate(names):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            PILLOW[k].save(tmp_path / "set" / split / name / f"{split}.png")
    assert acw.load_dataset(tmp_path / "set", "train").classes == ("ant", "bee")
    np.testing.assert_allclose(acw.load_dataset(tmp_path / "set", "test").x[:], X[:2], atol=1e-7)
    (tmp_path / "set" / "Val").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="has the subfolders train, and none for the split 'test'"):
        acw.load_dataset(tmp_path / "set")
