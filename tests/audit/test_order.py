"""A ladder in worst case begins with what breaks most for its cost; what all attacks break is the same."""

from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import art_classwise as acw
from art_classwise.audit import audit as audit_module
from art_classwise.audit.order import greedy, held_first

THREAT = "Linf:0.02"
NAMES = ("pgd-20", "fgsm", "margin-5")  # fgsm breaks nearly as much for a twentieth of the cost


@pytest.fixture(autouse=True)
def slow_first(monkeypatch):
    """A ladder that isn't in the best order, and small shards."""
    monkeypatch.setitem(importlib.import_module("art_classwise.attacks.ladder")._LADDERS, "quick", NAMES)
    monkeypatch.setattr(audit_module, "_SHARD", 64)


def make_classifier(seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 4))
    return acw.as_classifier(network.eval(), (3, 6, 6), 4, device="cpu")


def make_data(n=200):
    x = np.random.default_rng(0).random((n, 3, 6, 6), dtype=np.float32)
    return acw.Dataset(x, make_classifier().predict(x).argmax(1), ("ant", "bee", "cow", "doe"))


def evaluated(attacks="quick", store=None, n=200, models=("net",), **options):
    audit = acw.ClassWiseAudit(
        THREAT, attacks, store=store, **{"worst_case": True, "checks": False, "verbose": False} | options
    )
    return audit.evaluate({name: make_classifier(i) for i, name in enumerate(models)}, make_data(n))


def withstood(result):
    """Which examples withstood all attacks: the last one's outcomes are of it and those before it."""
    rows = result.outcomes
    return rows[rows["attack"] == result.attacks[-1]].sort_values("example")["withstood"].to_numpy()


def test_greedy_breaks_most_per_cost_first():
    """Cost until all is broken, in the order found and in the best of all: never far above."""
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(50):
        broken, costs = rng.random((4, 30)) < rng.random((4, 1)), rng.integers(1, 100, 4).astype(float)

        def spent(order, broken=broken, costs=costs):
            left, total = np.ones(30, bool), 0.0
            for i in order:
                total += left.sum() * costs[i]
                left &= ~broken[i]
            return total

        found = greedy(broken, costs)
        assert sorted(found) == [0, 1, 2, 3]
        ratios.append(spent(found) / min(map(spent, itertools.permutations(range(4)))))
    assert np.mean(ratios) < 1.05
    assert max(ratios) < 1.5
    assert greedy(np.array([[True, True], [True, False]]), [100.0, 1.0]) == [1, 0]
    assert greedy(np.zeros((3, 2), bool), [3.0, 2.0, 1.0]) == [0, 1, 2]


def test_a_ladder_is_ordered_and_what_all_attacks_break_is_the_same(tmp_path):
    found = evaluated(store=tmp_path)
    assert found.attacks[0] == "fgsm"
    assert {*found.attacks} == {*NAMES}
    for order in itertools.permutations(NAMES):
        other = evaluated(list(order))
        assert other.attacks == order
        assert np.array_equal(withstood(found), withstood(other))
    cost = {
        r: (c.costs["n"] * c.costs["forwards"]).sum() for r, c in {"found": found, "given": evaluated([*NAMES])}.items()
    }
    assert cost["found"] < cost["given"]
    again = evaluated(store=tmp_path, models=("net", "other"))  # more models in the same order
    assert again.attacks == found.attacks


def test_only_ladders_in_worst_case_and_with_examples_enough():
    assert evaluated(worst_case=False).attacks == NAMES
    assert evaluated(["quick"]).attacks == NAMES
    assert evaluated(n=100).attacks == NAMES


def test_a_store_keeps_its_order(tmp_path):
    begun = evaluated([*NAMES], store=tmp_path)
    assert evaluated(store=tmp_path).outcomes.equals(begun.outcomes)
    assert held_first(["a", "b", "c"], ["c", "x"]) == ["c", "a", "b"]


def test_a_plan_says_the_order(tmp_path):
    audit = acw.ClassWiseAudit(THREAT, "quick", store=tmp_path, worst_case=True, checks=False, verbose=False)
    with pytest.warns(UserWarning, match="written into the plan"):
        manifest = audit.plan({"net": make_classifier()}, make_data())
    assert manifest.plan.attacks == tuple(manifest.attacks)
    assert manifest.plan.attacks[0] == "fgsm"
    assert acw.audit.work_on(tmp_path, run_code=True, verbose=False) == 4
    assert acw.read_audit(tmp_path).outcomes.equals(evaluated().outcomes)
