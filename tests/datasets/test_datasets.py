from __future__ import annotations

import math
import shutil
import urllib.error

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision import transforms

from art_classwise import Dataset, InputError, load_dataset
from art_classwise.datasets import LazyImages

RNG = np.random.default_rng(0)


def test_digits_are_scikit_learns_split_without_overlap():
    from sklearn.datasets import load_digits

    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    x, y = load_digits(return_X_y=True)
    assert (len(train), len(test)) == (1000, 797)
    assert sorted([*train.ids, *test.ids]) == list(range(1797))
    for data in (train, test):
        np.testing.assert_array_equal(data.x.reshape(-1, 64) * 16, x[data.ids])
        np.testing.assert_array_equal(data.y, y[data.ids])
        assert (data.x.dtype, data.y.dtype) == (np.float32, np.int64)
        assert np.bincount(data.y).min() / len(data) > 0.09


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        (RNG.integers(0, 256, (4, 5, 6, 3), dtype=np.uint8), (4, 3, 5, 6)),
        (RNG.integers(0, 256, (4, 3, 5, 6), dtype=np.uint8), (4, 3, 5, 6)),
        (RNG.integers(0, 256, (4, 5, 6), dtype=np.uint8), (4, 1, 5, 6)),
        (RNG.integers(0, 256, (4, 5, 6, 1), dtype=np.uint8), (4, 1, 5, 6)),
        (RNG.random((4, 3, 5, 6)), (4, 3, 5, 6)),
        (RNG.random((4, 5, 6, 3), dtype=np.float32), (4, 3, 5, 6)),
    ],
)
def test_own_npz_in_any_usual_layout(tmp_path, x, shape):
    np.savez(tmp_path / "own.npz", x=x, y=np.array([0, 2, 1, 1]))
    data = load_dataset(tmp_path / "own.npz")
    assert (data.x.shape, data.x.dtype, data.name) == (shape, np.float32, "own")
    assert data.classes == ("0", "1", "2")
    expected = x / 255 if x.dtype == np.uint8 else x
    channels_first = expected.reshape(shape) if 3 not in (x.shape[-1],) else expected.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(data.x, channels_first, atol=1e-7)


def test_class_names_of_own_npz(tmp_path):
    x, y = RNG.integers(0, 256, (2, 4, 4), dtype=np.uint8), np.array([1, 0])
    np.savez(tmp_path / "named.npz", x=x, y=y, classes=np.array(["yes", "no"]))
    assert load_dataset(tmp_path / "named.npz").classes == ("yes", "no")
    assert load_dataset(tmp_path / "named.npz", classes=["a", "b"]).classes == ("a", "b")
    assert load_dataset(tmp_path / "named.npz", classes="cifar10").classes[3] == "cat"
    np.savez(tmp_path / "onehot.npz", x=x, y=np.eye(3)[y])
    assert load_dataset(tmp_path / "onehot.npz").y.tolist() == [1, 0]
    with pytest.raises(InputError, match="2 classes, but 1 class names"):
        load_dataset(tmp_path / "named.npz", classes=["a"])
    with pytest.raises(InputError, match="Did you mean cifar10"):
        load_dataset(tmp_path / "named.npz", classes="cifar")


IMAGES = RNG.random((3, 1, 4, 4))
F32 = IMAGES.astype(np.float32)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"images": IMAGES}, "must hold arrays named x and y, but it holds images:"),
        ({"x": IMAGES, "y": [0, 1]}, "3 examples, but 2 labels"),
        ({"x": IMAGES[:0], "y": []}, "is empty"),
        ({"x": IMAGES, "y": [0, 1, -1]}, "Label -1 of example 2 is outside"),
        ({"x": IMAGES, "y": [0, 1, 5], "classes": ["a", "b"]}, "Label 5 of example 2 is outside the 2 classes"),
        ({"x": IMAGES, "y": [0, 1, 1], "classes": ["a", "a"]}, "'a' appears twice"),
        ({"x": IMAGES, "y": [0.5, 1, 1]}, "whole numbers"),
        (
            {"x": IMAGES, "y": [1, 2, 3]},
            "the labels start at 1 .they go to 3., but classes are numbered from 0: give y - 1",
        ),
        ({"x": IMAGES, "y": [np.nan, 1, 1]}, "labels must be whole numbers"),
        ({"x": IMAGES * 255, "y": [0, 1, 1]}, r"must lie in \[0, 1\], but those of x go from .* Divide them by 255\?"),
        ({"x": IMAGES * 4 - 2, "y": [0, 1, 1]}, r"must lie in \[0, 1\].* Undo the normalisation"),
        ({"x": np.where(IMAGES > 2, 0, np.nan), "y": [0, 1, 1]}, "Example 0 of x has a pixel that is not finite"),
        ({"x": IMAGES[0, 0], "y": [0, 1, 1, 1]}, r"has rows of 4 values: reshape it to \(n, 1, 2, 2\)"),
        ({"x": np.full((3, 1, 4, 4), 70_000), "y": [0, 1, 1]}, "go from 0 to 1, 255 or 65,535"),
        ({"x": -np.ones((3, 1, 4, 4), int), "y": [0, 1, 1]}, "holds whole numbers from -1 to -1"),
        ({"x": np.array([{}]), "y": [0]}, "holds Python objects, which are not loaded"),
        ({"x": IMAGES, "y": [0, 4_000_000_000, 1]}, "label 4000000000 of example 1 can't be a class number"),
        ({"x": IMAGES, "y": np.array([0, 2**64 - 1, 1], np.uint64)}, "of example 1 can't be a class number"),
        ({"x": np.float32(1), "y": [0]}, "is empty"),
        ({"x": IMAGES, "y": 0}, "is empty"),
        ({"x": IMAGES, "y": [0, 1, 1], "classes": "ab"}, r"classes must be a list of names, but got shape \(\)"),
        ({"x": IMAGES, "y": [0, 1, 1], "classes": [["a", "b"]]}, "classes must be a list of names"),
        ({"x": IMAGES, "y": [0, 1, 1], "classes": ["a", ""]}, "A class name must be a non-empty string"),
    ],
)
def test_bad_npz_is_named(tmp_path, arrays, says):
    np.savez(tmp_path / "own.npz", **{k: np.asarray(v) for k, v in arrays.items()})
    with pytest.raises(InputError, match=says):
        load_dataset(tmp_path / "own.npz")


def test_files_that_are_no_npz(tmp_path):
    (tmp_path / "page.npz").write_text("<html>")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut")
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    np.savez_compressed(tmp_path / "corrupt.npz", x=RNG.random((50, 1, 4, 4)), y=np.arange(50) % 2)
    content = bytearray((tmp_path / "corrupt.npz").read_bytes())
    content[200:400] = bytes(200)
    (tmp_path / "corrupt.npz").write_bytes(content)
    for name in ("page", "cut", "array", "corrupt"):
        with pytest.raises(InputError, match=f"{name}.npz"):
            load_dataset(tmp_path / f"{name}.npz")
    with pytest.raises(InputError, match="There is no file .*missing.npz"):
        load_dataset(tmp_path / "missing.npz")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: load_dataset("cifar"), "Unknown data set 'cifar'. Did you mean cifar10"),
        (lambda: load_dataset("CIFAR-11"), "Did you mean cifar10"),
        (lambda: load_dataset("xyz"), "Known: digits, mnist, .*path of an .npz file"),
        (lambda: load_dataset("digits", "validation"), "Unknown split"),
        (lambda: load_dataset("digits", n_examples=0), "whole number of at least 1"),
        (lambda: load_dataset("digits", n_examples=798), "has 797 examples, but 798 were asked for"),
        (lambda: load_dataset("digits", classes="cifar10"), "its own class names"),
        (lambda: load_dataset("digits").of_classes(["10"]), "Unknown class '10'"),
        (lambda: load_dataset("digits").of_classes(["-1"]), "Unknown class '-1'"),
        (lambda: load_dataset("digits").of_classes(["²"]), "Unknown class '²'"),
        (lambda: Dataset((IMAGES * 255).tolist(), np.zeros(3, int), ("a", "b")), "Divide them by 255"),
        (lambda: Dataset(torch.from_numpy(IMAGES * 255).float(), np.zeros(3, int), ("a", "b")), "Divide them by 255"),
        (lambda: Dataset(F32, np.zeros(3, int), ("a",) * 6000), "'a' appears twice"),
        (lambda: Dataset(F32, np.zeros(3, int), ("a", "b\udcff")), "not UTF-8"),
        (lambda: Dataset(F32, np.zeros(3, int), ("a", "b"), ids=np.arange(2)), "3 examples, but 2 ids"),
        (lambda: Dataset(IMAGES[:0].astype(np.float32), np.zeros(0, int), ("a", "b")), "is empty"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_first_takes_the_first_unless_sorted_by_class():
    x = np.zeros((100, 1, 2, 2), np.float32)
    mixed = Dataset(x, np.arange(100) % 10, tuple("abcdefghij"))
    assert mixed.first(7).ids.tolist() == list(range(7))
    by_class = Dataset(x, np.arange(100) // 10, tuple("abcdefghij"))
    assert np.bincount(by_class.first(20).y).tolist() == [2] * 10
    assert by_class.first(100).ids.tolist() == list(range(100))


def test_of_classes_keeps_numbering_and_ids(digits):
    some = digits.of_classes(["3", 8])
    assert set(some.y) == {3, 8}
    assert some.classes == digits.classes
    np.testing.assert_array_equal(some.ids, digits.ids[np.isin(digits.y, [3, 8])])


@pytest.fixture
def folder(tmp_path):
    for c, name in enumerate(("ape", "bat", "cod")):
        (tmp_path / name).mkdir()
        for i in range(4):
            pixels = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            pixels[0, 0] = (c, i, 7)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_image_folder_is_read_when_indexed(folder):
    data = load_dataset(folder)
    assert isinstance(data.x, LazyImages)
    assert (data.x.shape, data.x.dtype, data.classes) == ((12, 3, 20, 30), np.float32, ("ape", "bat", "cod"))
    assert data.y.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    part = data.take(np.array([9, 2]))
    assert [tuple(np.rint(image[:, 0, 0] * 255)) for image in part.x[:]] == [(2, 1, 7), (0, 2, 7)]
    assert np.asarray(data.x).shape == data.x.shape
    assert data.x[-1].shape == (3, 20, 30)
    assert [tuple(np.rint(image[:, 0, 0] * 255))[:2] for image in data.x] == [
        (c, i) for c in range(3) for i in range(4)
    ]
    assert data.first(3).y.tolist() == [0, 1, 2]  # sorted by class: evenly spaced
    (folder / "ape" / "0.png").write_text("no image")  # nothing but what is indexed is read
    assert data.x[1:3].shape == (2, 3, 20, 30)
    with pytest.raises(InputError, match="0.png can't be read as an image"):
        data.x[:1]


def test_image_folder_with_images_of_two_sizes(folder):
    Image.fromarray(np.zeros((25, 25, 3), np.uint8)).save(folder / "bat" / "1.png")
    with pytest.raises(InputError, match=r"1.png has 25 x 25 pixels, but .*0.png 30 x 20: .* `image_size=N`"):
        load_dataset(folder).x[:]
    assert load_dataset(folder, image_size=14).x[:].shape == (12, 3, 14, 14)
    with pytest.raises(InputError, match=r"An image of 10,000,000 x 10,000,000 takes .*smaller `image_size`"):
        load_dataset(folder, image_size=10_000_000)


def test_grey_and_16_bit_images_keep_their_channel_and_their_values(tmp_path):
    for name, dtype in (("eight", np.uint8), ("sixteen", np.uint16)):
        (tmp_path / name).mkdir()
        half = np.full((4, 4), np.iinfo(dtype).max // 2, dtype)
        Image.fromarray(half).save(tmp_path / name / "a.png")
    data = load_dataset(tmp_path)
    assert data.x.shape == (2, 1, 4, 4)
    np.testing.assert_allclose(data.x[:], 0.5, atol=0.005)
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "eight" / "b.tiff")
    with pytest.raises(InputError, match=r"b\.tiff holds floats, whose range is unknown"):
        load_dataset(tmp_path).x[:]
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "eight" / "0.png")  # now a class begins in colour
    assert load_dataset(tmp_path).x.shape[1] == 3


def test_empty_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="one subfolder per class"):
        load_dataset(tmp_path)
    (tmp_path / "ape").mkdir()
    with pytest.raises(InputError, match="one subfolder per class"):
        load_dataset(tmp_path)


def test_imagenet_is_preprocessed_as_robustbench_does(tmp_path):
    """Resize 256, crop 224, classes by their words where all 1,000 are there."""
    root = tmp_path / "imagenet" / "val"
    rng = np.random.default_rng(0)
    for c in range(1000):
        (root / f"n{c:08}").mkdir(parents=True)
        if c:
            Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(root / f"n{c:08}" / "a.png")
    original = Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8))
    original.save(root / "n00000000" / "a.png")
    data = load_dataset("imagenet", root=tmp_path)
    steps = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])
    np.testing.assert_array_equal(data.x[:1][0], steps(original).numpy())
    assert (len(data), data.x.shape[1:]) == (1000, (3, 224, 224))
    assert (data.classes[0], len(set(data.classes))) == ("tench", 1000)
    shutil.rmtree(root / "n00000999")  # now some only, which must be real ones
    with pytest.raises(InputError, match=r"imagenet/val has 999 subfolders, of which 'n00000998' is no class of Im"):
        load_dataset("imagenet", root=tmp_path)
    with pytest.raises(InputError, match=r"imagenet \(train\) is not in .*imagenet/train: .*image-net.org"):
        load_dataset("imagenet", "train", root=tmp_path)


class Fake:
    """What torchvision's data set classes look like from outside."""

    classes = tuple(f"class {i}" for i in range(100))

    def __init__(self, root, download=False, **split):
        self.asked = split


def fake(data, **labels):
    return type("Fake", (Fake,), {"data": data, **labels})


@pytest.mark.parametrize(
    ("name", "attribute", "source", "shape", "n_classes"),
    [
        ("cifar10", "CIFAR10", fake(np.full((3, 32, 32, 3), 51, np.uint8), targets=[0, 1, 9]), (3, 3, 32, 32), 10),
        ("cifar100", "CIFAR100", fake(np.full((3, 32, 32, 3), 51, np.uint8), targets=[0, 1, 99]), (3, 3, 32, 32), 100),
        ("svhn", "SVHN", fake(np.full((3, 3, 32, 32), 51, np.uint8), labels=np.array([0, 1, 9])), (3, 3, 32, 32), 10),
        ("stl10", "STL10", fake(np.full((3, 3, 96, 96), 51, np.uint8), labels=np.array([0, 1, 9])), (3, 3, 96, 96), 10),
    ],
)
def test_torchvision_sets_come_in_one_form(monkeypatch, tmp_path, name, attribute, source, shape, n_classes):
    monkeypatch.setattr(torchvision.datasets, attribute, source)
    data = load_dataset(name, root=tmp_path)
    assert (data.x.shape, data.x.dtype, len(data.classes)) == (shape, np.float32, n_classes)
    assert np.all(data.x == np.float32(0.2))
    assert data.y[:2].tolist() == [0, 1]


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "svhn", "stl10"])
def test_a_missing_set_names_the_folder_and_the_way(monkeypatch, tmp_path, capsys, name):
    with pytest.raises(InputError, match=rf"{name} \(test\) is not in {tmp_path}\. .* fetch it from http"):
        load_dataset(name, root=tmp_path, download=False)

    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(InputError, match=rf"not in {tmp_path}, and could not be downloaded .* fetch it from http"):
        load_dataset(name, root=tmp_path)
    assert f"Downloading {name} from http" in capsys.readouterr().err


def test_other_arrays_of_a_file_are_not_read(tmp_path):
    """Not even objects, which are never loaded."""
    np.savez(tmp_path / "more.npz", x=np.zeros((2, 4, 4), np.uint8), y=[0, 1], notes=np.array([{"a": 1}], dtype=object))
    assert len(load_dataset(tmp_path / "more.npz")) == 2


def test_root_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ART_CLASSWISE_DATA", str(tmp_path / "here"))
    with pytest.raises(InputError, match=str(tmp_path / "here")):
        load_dataset("mnist", download=False)


def test_real_mnist(mnist_root):
    data = load_dataset("mnist", "train", root=mnist_root, download=False)
    assert data.x.shape == (60000, 1, 28, 28)
    assert data.y[:5].tolist() == [5, 0, 4, 1, 9]  # as published
    assert data.x.mean() == pytest.approx(0.1307, abs=1e-4)


# Long tails.


@pytest.mark.parametrize("imbalance", [1, 0.5, 0.1, 0.02])
@pytest.mark.parametrize("counts", [[50] * 5, [50, 80, 60, 70, 55], [90, 10, 30, 200, 2], [40], [30, 60]])
def test_a_long_tail_falls_exponentially(imbalance, counts):
    """As Cui et al. 2019 make it of equally frequent classes; of others with the largest first class that there is."""
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    x = np.arange(len(y), dtype=np.float32).reshape(-1, 1, 1, 1) / len(y)
    data = Dataset(x, y, tuple("abcde"[: len(counts)]))
    ratios = [imbalance ** (k / max(1, len(counts) - 1)) for k in range(len(counts))]
    first = min(n / r for n, r in zip(counts, ratios, strict=True))
    expected = [int(first * r + 1e-9) for r in ratios]
    if 0 in expected:
        with pytest.raises(InputError, match=f"class '{data.classes[expected.index(0)]}' would have none of its"):
            data.long_tailed(imbalance)
        return
    tail = data.long_tailed(imbalance)
    assert np.bincount(tail.y, minlength=len(counts)).tolist() == expected
    assert any(e == n for e, n in zip(expected, counts, strict=True))  # no more could be kept
    assert (np.diff(tail.ids) > 0).all()  # in the order they had, with their numbers
    np.testing.assert_array_equal(tail.x[:, 0, 0, 0], x[tail.ids, 0, 0, 0])
    np.testing.assert_array_equal(data.long_tailed(imbalance).ids, tail.ids)
    if imbalance < 1 and len(y) > 60:
        assert not np.array_equal(data.long_tailed(imbalance, seed=1).ids, tail.ids)


def test_load_dataset_thins_any_set_out(tmp_path):
    whole, tail = load_dataset("digits", "train"), load_dataset("digits", "train", imbalance=0.1)
    np.testing.assert_array_equal(tail.ids, whole.long_tailed(0.1).ids)
    assert np.bincount(tail.y)[-1] == pytest.approx(0.1 * np.bincount(tail.y)[0], abs=1)
    np.savez(tmp_path / "own.npz", x=whole.x, y=whole.y)
    own = load_dataset(tmp_path / "own.npz", imbalance=0.1)
    np.testing.assert_array_equal(own.y, tail.y)
    few = load_dataset(tmp_path / "own.npz", imbalance=0.1, n_examples=50)
    np.testing.assert_array_equal(few.ids, own.ids[:50])


@pytest.mark.parametrize("imbalance", [0, -0.1, 1.5, math.nan, math.inf, "0.1", True])
def test_an_imbalance_out_of_range_is_refused(imbalance):
    with pytest.raises(InputError, match="`imbalance` must be a number above 0 to 1"):
        load_dataset("digits", "train", imbalance=imbalance)


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None, 2**63])
def test_seeds_of_drawing_are_checked(seed):
    data = load_dataset("digits", "test")
    for draw in (lambda: data.long_tailed(0.5, seed=seed), lambda: data.hold_out(5, seed=seed)):
        with pytest.raises(InputError, match="`seed` must be a whole number"):
            draw()


def test_an_imbalance_of_almost_0_leaves_nothing_and_warns_of_nothing():
    with pytest.raises(InputError, match="would have none of its"):
        load_dataset("digits", "train", imbalance=1e-320)


def test_a_class_that_has_no_example_is_named():
    data = Dataset(np.zeros((4, 1, 2, 2), np.float32), np.array([0, 0, 1, 1]), ("a", "b", "c"))
    with pytest.raises(InputError, match="class 'c' has no example in data .test.: leave it out"):
        data.long_tailed(0.5)
