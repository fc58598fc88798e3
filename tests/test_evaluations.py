"""What the evaluations compute beside what they run."""

from __future__ import annotations

import numpy as np
import pytest

import art_classwise as acw


@pytest.fixture
def speed(evaluation):
    return evaluation("speed")


def test_operations_of_a_step_are_those_of_the_literature(speed):
    """ResNet-18 for CIFAR: 0.556e9 multiply-adds forward, as many for the input's gradient; two operations each."""
    classifier = acw.as_classifier(acw.build("resnet18", (3, 32, 32), 10), (3, 32, 32), 10, device="cpu")
    assert speed._flops_per_image(classifier, np.zeros((1, 3, 32, 32), np.float32)) == pytest.approx(
        4 * 0.556e9, rel=0.01
    )


def test_a_row_is_the_median_of_all_rounds(speed):
    one = {"n": 10, "steps": 5, "eps x 255": 8.0, "robust %": None, "FLOP per image": 2e9, "peak MiB": 7.0}
    row = speed._summary(
        ("pgd-10", "net", "ours"), [one | {"seconds": [1.0, 9.0]}, one | {"seconds": [2.0], "peak MiB": 8.0}]
    )
    assert (row["calls"], row["seconds"], row["fastest"], row["slowest"]) == (3, 2.0, 1.0, 9.0)
    assert (row["images x steps / s"], row["TFLOP/s"], row["peak MiB"]) == (25.0, 0.05, 8.0)
