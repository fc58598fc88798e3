"""Pickles of images: their arrays are taken, and nothing that they say is run."""

from __future__ import annotations

import io
import os
import pickle
import pickletools

import numpy as np
import pytest
import torch

import art_classwise as acw
from art_classwise import InputError
from art_classwise.datasets import convert_pickle, load_unlabeled

X = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
Y = np.array([3, 1, 0, 2, 2, 1])
# As the files of Carmon et al. have it: beside the arrays, where they come from.
HELD = {
    "data": X,
    "extrapolated_targets": Y,
    "prediction_model": "model.pt",
    "epoch": np.int64(200),
    "more": [1.5, None],
}


def converted(held, folder, **options):
    (folder / "images.pickle").write_bytes(held if isinstance(held, bytes) else pickle.dumps(held, **options))
    convert_pickle(folder / "images.pickle", folder / "made" / "images.npz")
    return load_unlabeled(folder / "made" / "images.npz")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_images_and_pseudo_labels_are_those_of_the_pickle(protocol, tmp_path):
    found = converted(HELD, tmp_path, protocol=protocol)
    np.testing.assert_array_equal(found.x, X.transpose(0, 3, 1, 2) / np.float32(255))
    assert (found.y_pseudo.tolist(), found.y_pseudo.dtype) == (Y.tolist(), np.int64)


@pytest.mark.parametrize(
    "change",
    [
        {"data": np.asfortranarray(X)},
        {"data": X[::-1][::-1]},
        {"data": (X / np.float32(255)).astype(">f4")},
        {"data": X / 255},
        {"extrapolated_targets": Y.astype(">i4")},
        {"extrapolated_targets": Y.astype(np.uint8)},
    ],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_any_layout_and_byte_order_are_read_as_they_are(change, protocol, tmp_path):
    found = converted(HELD | change, tmp_path, protocol=protocol)
    np.testing.assert_allclose(found.x, X.transpose(0, 3, 1, 2) / np.float32(255), atol=1e-7)
    assert found.y_pseudo.tolist() == Y.tolist()


def test_pickles_of_older_pythons_and_numpys_are_read(tmp_path):
    """NumPy's modules had another name before its version 2; Python 2 held bytes as texts."""
    now = pickle.dumps({"data": X, "extrapolated_targets": Y}, protocol=0)
    older = now.replace(b"numpy._core.", b"numpy.core.")
    assert older != now or b"numpy.core." in now
    np.testing.assert_array_equal(converted(older, tmp_path).x, converted(now, tmp_path).x)
    raw = b"".join(b"\\x%02x" % value for value in range(3))
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    dtype = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
    text = b"(dS'data'\n" + array + b"(I1\n(I1\nI1\nI1\nI3\nt" + dtype + b"I00\nS'" + raw + b"'\ntbs."
    np.testing.assert_allclose(converted(text, tmp_path).x.ravel(), np.arange(3) / 255, atol=1e-7)


class Runs:
    """A pickle that makes a file when it is read."""

    def __init__(self, function, *arguments):
        self.says = function, arguments

    def __reduce__(self):
        return self.says


ATTACKS = {
    "os.system": lambda mark: Runs(os.system, f"touch {mark}"),
    "open": lambda mark: Runs(io.open, str(mark), "w"),
    "exec": lambda mark: Runs(exec, f"open({str(mark)!r}, 'w')"),
    "eval": lambda mark: Runs(eval, f"open({str(mark)!r}, 'w')"),
    "NumPy's own reader": lambda mark: Runs(np.load, str(mark)),
    "a method of what is allowed": lambda mark: Runs(getattr, np.ndarray, "tofile"),
    "memory mapped": lambda mark: Runs(np.memmap, str(mark), np.uint8, "w+", 0, (3,)),
}


@pytest.mark.parametrize("kind", ATTACKS)
@pytest.mark.parametrize("place", ["whole", "key", "beside"])
def test_nothing_that_a_pickle_says_is_run(kind, place, tmp_path):
    mark = tmp_path / "was_run"
    evil = ATTACKS[kind](mark)
    held = {"whole": evil, "key": {"data": evil, "extrapolated_targets": Y}, "beside": {**HELD, "loader": evil}}[place]
    with pytest.raises(InputError, match=r"is not read: it asks to run [\w.]+, which a file of arrays doesn't need"):
        converted(held, tmp_path)
    assert not mark.exists()
    assert not (tmp_path / "made" / "images.npz").exists()


@pytest.mark.parametrize(
    "state",
    [
        (1, (10**6,), np.dtype("u1"), False, b"abc"),  # fewer bytes than the shape says
        (1, (-1, 7), np.dtype("u1"), False, b"abc"),
        (1, (3,), np.dtype("O"), False, [1, 2, 3]),  # pointers
        (1, (3,), np.dtype([("a", "u1")]), False, b"abc"),
        (1, (3,), np.dtype("S1"), False, b"abc"),
        (1, (3,), np.dtype("u1"), False, 7),
        (1,),
        None,
    ],
)
def test_arrays_that_are_none_are_refused(state, tmp_path):
    """NumPy's own reader of such states isn't asked."""
    made = Runs(np.zeros(0).__reduce__()[0], np.ndarray, (0,), b"b")
    made.says += (state,)
    with pytest.raises(InputError, match=r"damaged|only plain numbers are taken|must hold images"):
        converted({"data": made}, tmp_path)


def test_any_part_of_a_pickle_may_be_damaged(tmp_path):
    whole = pickle.dumps(HELD, protocol=2)
    rng = np.random.default_rng(0)
    for _ in range(300):
        bad = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        bad[rng.integers(len(bad))] = rng.integers(256)
        try:
            converted(bytes(bad), tmp_path)
        except InputError:
            continue  # else a pixel or a name is another: pickles have no checksum
    assert pickletools.genops(whole)


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ([X, Y], "must hold a dict of arrays, but holds a list"),
        ({"pictures": X}, r"must hold images .* as data or x or images, but its arrays are: pictures \(6, 5, 4, 3\)"),
        ({"data": X.reshape(6, -1)}, r"its arrays are: data \(6, 60\)"),
        ({"data": X[:0]}, "must hold images"),
        ({**HELD, "extrapolated_targets": Y[:3]}, r"must be 6 whole numbers from 0.*shape \(3,\), from 0"),
        ({**HELD, "extrapolated_targets": Y - 1}, "from -1"),
        ({**HELD, "extrapolated_targets": Y + 0.5}, "are float64"),
        ({"data": torch.zeros(2, 3, 4, 4)}, r"asks for torch\..*numpy.savez\(path, x=images.numpy"),
        (b"no pickle", "is no pickle of arrays, or a damaged one"),
    ],
)
def test_what_can_not_be_converted_says_why(held, says, tmp_path):
    with pytest.raises(InputError, match=says):
        converted(held, tmp_path)


def test_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none.pickle can't be read: No such file"):
        convert_pickle(tmp_path / "none.pickle", tmp_path / "images.npz")
    (tmp_path / "images.pickle").write_bytes(pickle.dumps(HELD))
    with pytest.raises(InputError, match=r"must end in .npz, but got .*images.npy"):
        convert_pickle(tmp_path / "images.pickle", tmp_path / "images.npy")
    with pytest.raises(
        InputError, match=r"may run code .*datasets.convert_pickle\('.*images.pickle', '.*images.npz'\)"
    ):
        acw.datasets.load_unlabeled(tmp_path / "images.pickle")
