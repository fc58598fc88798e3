"""The evaluations of FMN and of MALT's order, on a network that is known."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import art_classwise as acw


@pytest.fixture
def two_classes():
    """A linear network of two classes and images whose distances are known."""
    linear = nn.Linear(12, 2)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, 12)).astype(np.float32)
    linear.weight.data[:], linear.bias.data[:] = torch.from_numpy(weight), 0
    linear.bias.data[:] = -torch.from_numpy(weight.sum(1) / 2)
    classifier = acw.as_classifier(nn.Sequential(nn.Flatten(), linear), (3, 2, 2), 2, device="cpu")
    x = (0.5 + 0.05 * rng.standard_normal((12, 3, 2, 2))).astype(np.float32)
    z = classifier.predict(x)
    exact = np.abs(z[:, 0] - z[:, 1]) / np.abs(weight[0] - weight[1]).sum()
    return classifier, x, z.argmax(1), exact


def test_bisection_finds_the_distance(evaluation, two_classes):
    classifier, x, y, exact = two_classes
    found = evaluation("minimum_norm").bisected(classifier, x, y, np.inf, 2 * float(exact.max()), 10)
    assert (found >= exact * (1 - 1e-4)).all()
    assert (found <= exact + 2 * exact.max() / 2**8 * 1.01).all()


def test_rows_replace_those_of_their_name(evaluation, two_classes, tmp_path):
    classifier, x, y, exact = two_classes
    script = evaluation("minimum_norm")
    row = script.measured("net", classifier, acw.Dataset(x, y, ("a", "b")), "Linf:0.1", "Linf", 30)
    assert row["fmn_median"] == pytest.approx(np.median(exact), rel=0.01)
    assert row["n"] == 12
    write = sys.modules["lib.experiment"].write_beside
    for command, steps in (("first", 30), ("second", 40)):
        write([{**row, "steps": steps}], {"command": command}, tmp_path / "t.csv", script.KEYS)
    write([{**row, "network": "other"}], {"command": "third"}, tmp_path / "t.csv", script.KEYS)
    table = pd.read_csv(tmp_path / "t.csv")
    assert table[["network", "steps", "command"]].values.tolist() == [["net", 40, "second"], ["other", 30, "third"]]


def test_what_the_fast_ladder_misses_is_measured_once(evaluation, two_classes, tmp_path, monkeypatch):
    classifier, x, y, exact = two_classes
    script = evaluation("fast_ladder")
    eps = float(np.median(exact))
    monkeypatch.setattr(script, "ATTACKS", ("margin-20", "fast"))
    data = acw.Dataset(x, y, ("a", "b"))
    row = script.measured("net", classifier, data, f"Linf:{eps}", tmp_path)
    assert (row["right"], row["broken_reference"], row["missed"], row["only_fast"]) == (12, 6, 0, 0)
    assert row["robust_fast"] == 0.5
    (kept,) = tmp_path.glob("*-fast.json")
    stored = json.loads(kept.read_text())
    stored[0]["seconds"] += 1000  # what is kept isn't measured again, unless the attacks are others
    kept.write_text(json.dumps(stored))
    again = script.measured("net", classifier, data, f"Linf:{eps}", tmp_path)
    assert again["seconds_fast"] == pytest.approx(row["seconds_fast"] + 1000)
    assert script.measured("net", classifier, data, f"Linf:{eps / 2}", tmp_path)["seconds_fast"] < 1000


def test_autoattacks_verdicts_are_those_of_an_audit_of_the_same_images(evaluation, two_classes, tmp_path, monkeypatch):
    classifier, x, y, exact = two_classes
    script = evaluation("fast_ladder")
    monkeypatch.setattr(script, "ATTACKS", ("margin-20", "fast"))
    data, eps = acw.Dataset(x, y, ("a", "b")), float(np.median(exact))
    options = {"store": tmp_path / "net-other-12", "checks": False, "verbose": False}
    acw.ClassWiseAudit(f"Linf:{eps}", ["margin-20"], **options).evaluate({"net": classifier}, data)
    row = script.measured("net", classifier, data, f"Linf:{eps}", tmp_path / "own", tmp_path)
    assert (row["right"], row["broken_reference"], row["missed"]) == (12, 6, 0)
    assert np.isnan(row["seconds_reference"])
    assert script.audited("net", acw.Dataset(x, 1 - y, ("a", "b")), f"Linf:{eps}", tmp_path) is None
    assert script.audited("net", data, f"Linf:{2 * eps}", tmp_path) is None
