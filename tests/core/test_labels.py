"""Labels, however they are given: what tells a class is taken, what tells none is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from art_classwise import Dataset, InputError, build
from art_classwise._core.labels import check_labels

Y = np.array([2, 0, 1, 2])
ONE_HOT = np.eye(3)[Y]


@pytest.mark.parametrize(
    "given",
    [Y, Y.tolist(), Y[:, None], torch.from_numpy(Y), Y.astype(np.float32), Y.astype(np.uint8), ONE_HOT]
    + [ONE_HOT.astype(kind) for kind in (bool, np.uint8, np.float16)]
    + [ONE_HOT * 2 - 1, 0.9 * ONE_HOT + 0.1 / 3, torch.from_numpy(ONE_HOT).bool()],
    ids=str,
)
def test_all_ways_to_write_labels_are_the_same(given):
    found = check_labels(given, 4, 3)
    assert found.dtype == np.int64
    assert found.tolist() == Y.tolist()


def changed(row):
    rows = ONE_HOT.copy()
    rows[1] = row
    return rows


@pytest.mark.parametrize(
    "row", [(0, 0, 0), (1, 1, 0), (1, 1, 1), (0.5, 0.5, 0), (np.nan, 0, 0), (0, 1, np.nan), (np.inf, 0, 0)]
)
@pytest.mark.parametrize("kind", [bool, np.int64, np.float32, "tensor"])
def test_rows_that_tell_no_class_are_refused(row, kind):
    rows = changed(row)
    if kind in (bool, np.int64) and not set(row) <= {0, 1}:
        pytest.skip("can't be written so")
    given = torch.from_numpy(rows) if kind == "tensor" else rows.astype(kind)
    says = r"one-hot \(n, 3\), but that of example 1, \[.*\], has no single largest value"
    with pytest.raises(InputError, match=says):
        check_labels(given, 4, 3)
    with pytest.raises(InputError, match=says):
        Dataset(np.zeros((4, 1, 8, 8), np.float32), given, ("a", "b", "c"))


def test_rows_of_texts_or_complex_numbers_are_no_labels():
    for given in (ONE_HOT.astype(str), ONE_HOT * 1j):
        with pytest.raises(InputError, match=r"one-hot \(n, 3\), but are "):
            check_labels(given, 4, 3)


@pytest.mark.parametrize("wrong", [-1, 0, 1, True, 2.0, "3", None])
def test_numbers_of_classes_that_no_network_has(wrong):
    with pytest.raises(InputError, match=r"`n_classes` must be a whole number of at least 2, but got"):
        build("digits-cnn", (1, 8, 8), wrong)
