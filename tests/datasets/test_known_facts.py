"""What the loaders return, compared with what is published about the data sets: order, labels, names and numbers.

The real images lie in the originals' file formats here, which these tests write anew by the formats' descriptions.
"""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
import torchvision
from PIL import Image

from art_classwise import metrics
from art_classwise.datasets import load_dataset

MNIST_MD5 = {  # as torchvision's and Keras' loaders have them, of the gzip files
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}


def mosaic(path, side: int, rows: int) -> np.ndarray:
    """The images in the first rows of a mosaic, uint8 (n, side, side, 3). Decoding one takes some seconds."""
    with Image.open(path) as picture:
        part = np.asarray(picture.convert("RGB").crop((0, 0, picture.width, rows * side)))
    columns = part.shape[1] // side
    return part.reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4).reshape(-1, side, side, 3)


@pytest.fixture
def unchecked(monkeypatch):
    """Let torchvision read files that aren't the published archives, byte for byte."""
    for name in ("CIFAR10", "CIFAR100", "STL10"):
        monkeypatch.setattr(getattr(torchvision.datasets, name), "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)


def pickled(path, content: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def planes(images: np.ndarray) -> np.ndarray:
    """CIFAR's rows: 1,024 red, then green, then blue values, each plane row by row."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def test_mnist(shared, mnist_root):
    for name, md5 in MNIST_MD5.items():
        assert hashlib.md5((shared / "data" / "mnist" / name).read_bytes()).hexdigest() == md5
    data = load_dataset("mnist", "test", root=mnist_root, download=False)
    assert np.bincount(data.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_cifar10(shared, cifar10, tmp_path, unchecked):
    labels = np.load(shared / "data/cifar10/labels.npz")
    images = np.round(255 * cifar10.x[:20]).astype(np.uint8).transpose(0, 2, 3, 1)
    assert np.bincount(labels["test_y"]).tolist() == [1000] * 10
    assert np.bincount(labels["train_y"]).tolist() == [5000] * 10
    assert labels["train_y"][:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    folder, n = tmp_path / "cifar-10-batches-py", len(images)
    pickled(folder / "test_batch", {"data": planes(images), "labels": labels["test_y"][:n].tolist()})
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    pickled(folder / "batches.meta", {"label_names": names})
    data = load_dataset("cifar10", "test", root=tmp_path, download=False)
    assert [data.classes[k] for k in data.y[:5]] == ["cat", "ship", "ship", "airplane", "frog"]
    assert data.classes == tuple(names)
    assert np.array_equal(np.round(255 * data.x).astype(np.uint8), images.transpose(0, 3, 1, 2))


def test_cifar100_and_its_superclasses(shared, tmp_path, unchecked):
    held = np.load(shared / "data/cifar100/labels.npz")
    assert np.bincount(held["test_y"]).tolist() == [100] * 100
    assert np.bincount(held["train_y"]).tolist() == [500] * 100
    assert held["train_y"][:10].tolist() == [19, 29, 0, 11, 1, 86, 90, 28, 23, 31]
    images = mosaic(shared / "data/cifar100/test.webp", 32, 1)
    folder, names = tmp_path / "cifar-100-python", [str(name) for name in held["names"]]
    pickled(folder / "test", {"data": planes(images), "fine_labels": held["test_y"][: len(images)].tolist()})
    pickled(folder / "meta", {"fine_label_names": names})
    data = load_dataset("cifar100", "test", root=tmp_path, download=False)
    first = ["mountain", "forest", "seal", "mushroom", "sea", "tulip", "camel", "butterfly", "cloud", "apple"]
    assert [data.classes[k] for k in data.y[:10]] == first
    assert np.array_equal(np.round(255 * data.x).astype(np.uint8), images.transpose(0, 3, 1, 2))

    groups = metrics.class_groups("cifar100", data.classes)
    published = held["coarse_of_fine"]
    for superclass in range(20):  # 20 of 5 classes each, whatever their names are
        members = {groups[k] for k in np.flatnonzero(published == superclass)}
        assert len(members) == 1
        assert groups.count(members.pop()) == 5


def test_stl10_is_stored_column_by_column(shared, tmp_path, unchecked):
    """Its files hold uint8 (n, 3, 96, 96) "in column-major order": an image's second axis is x, its third y."""
    labels = np.load(shared / "data/stl10/labels.npz")
    assert np.bincount(labels["test_y"]).tolist() == [800] * 10
    assert np.bincount(labels["train_y"]).tolist() == [500] * 10
    images, folder = mosaic(shared / "data/stl10/test_1.webp", 96, 1), tmp_path / "stl10_binary"
    folder.mkdir()
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    (folder / "class_names.txt").write_text("\n".join(names) + "\n")
    (folder / "test_X.bin").write_bytes(np.ascontiguousarray(images.transpose(0, 3, 2, 1)).tobytes())
    (folder / "test_y.bin").write_bytes((labels["test_y"][: len(images)] + 1).astype(np.uint8).tobytes())
    data = load_dataset("stl10", "test", root=tmp_path, download=False)
    assert data.classes == tuple(names)
    assert [data.classes[k] for k in data.y[:4]] == ["horse", "monkey", "dog", "airplane"]
    assert np.array_equal(np.round(255 * data.x).astype(np.uint8), images.transpose(0, 3, 1, 2))


def test_imagenet_from_its_folders(shared, tmp_path):
    """Classes are numbered as WordNet's ids are sorted: of a few, here with one image each, the published numbers."""
    import csv
    import shutil

    with (shared / "data/imagenet/labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    by_number = sorted(rows, key=lambda row: int(row["class"]))
    assert sorted(row["wnid"] for row in rows) == [row["wnid"] for row in by_number]
    for row in rows[:6]:
        folder = tmp_path / "imagenet" / "val" / row["wnid"]
        folder.mkdir(parents=True)
        shutil.copy(shared / "data/imagenet/val" / row["file"], folder)
    data = load_dataset("imagenet", "test", root=tmp_path, download=False)
    assert data.x[:1].shape == (1, 3, 224, 224)
    assert data.x.shape[0] == 6
    assert sorted(data.y.tolist()) == sorted(int(row["class"]) for row in rows[:6])  # though 994 classes are absent
    for row in rows[:6]:
        assert data.classes[int(row["class"])].split(" (")[0] in row["words"].split(", ")
    groups = metrics.class_groups("imagenet", [str(k) for k in range(1000)])
    words = {"dog": "chow", "insect": "tiger beetle"}
    for group, word in words.items():
        (number,) = [int(row["class"]) for row in rows if row["words"].split(",")[0] == word]
        assert groups[number] == group
