"""Units computed anew: what they find, and how often a draw misses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from forging import rewritten
from small_audit import make_classifier, make_data, planned, work

from art_classwise import InputError
from art_classwise.audit import collect
from art_classwise.evidence import verify
from art_classwise.evidence.recompute import Recomputed, drawn

GIVEN = {"models": {name: (lambda name=name: make_classifier(name)) for name in ("net", "other")}, "data": make_data()}


def forged(store, model="net", attack="pgd-3", shard=2):
    """Say that an attack never succeeded on a shard, with digests that fit."""
    (path,) = store.glob(f"outcomes/model={model}/attack={attack}/*-{shard:05d}-*.parquet")
    rewritten(store, path, lambda f: f.assign(prediction=f["label"], margin=np.abs(f["margin"]) + np.float32(0.5)))


@pytest.mark.parametrize("kind", ["store", "chain"])
def test_what_nobody_changed_comes_out_the_same(kind, request):
    found = verify(request.getfixturevalue(kind), recompute=0.2, seed=0, **GIVEN)
    assert found.ok, str(found)
    assert found.recomputed.exact
    assert found.recomputed.n == (2 * 5 if kind == "chain" else 2 * 5 * 4)
    assert len(found.recomputed.units) == math.ceil(0.2 * found.recomputed.n)


def test_a_changed_unit_is_found_if_it_is_drawn(store):
    forged(store)
    hits = 0
    for seed in range(3):
        again = verify(store, recompute=0.3, seed=seed, **GIVEN).recomputed
        has = "net/pgd-3/00002" in again.units
        assert bool(again.differences) == has
        assert all("net/pgd-3/00002" in said for said in again.differences)
        hits += has
    assert 0 < hits < 3


def test_a_draw_misses_as_often_as_it_says():
    """Over 200 seeds, within what chance allows (exact binomial, 99.9 %)."""
    from scipy.stats import binom

    n = 120
    for share, changed in ((0.01, 12), (0.05, 6), (0.1, 12), (0.05, 60)):
        forged_units = set(range(0, n, n // changed)[:changed]) if changed <= n else set()
        missed = sum(not forged_units & set(drawn(n, share, seed)) for seed in range(200))
        units = tuple("x" for _ in drawn(n, share, 0))
        p = Recomputed(units, n, 0, True, ()).missed(len(forged_units) / n)
        low, high = binom.ppf([0.0005, 0.9995], 200, p)
        assert low <= missed <= high, (share, changed, missed, p)


@pytest.mark.parametrize(
    ("n", "share", "expected"), [(100, 0.01, 1), (100, 0.011, 2), (3, 0.01, 1), (3, 1.0, 3), (7, 0.5, 4)]
)
def test_how_many_are_drawn(n, share, expected):
    chosen = drawn(n, share, 5)
    assert len(chosen) == len(set(chosen)) == expected
    assert set(chosen) <= set(range(n))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"models": None}, "doesn't say how to load"),
        ({"models": {"net": make_classifier("third"), "other": make_classifier("other")}}, "another fingerprint"),
        ({"data": make_data(seed=1)}, "aren't the audit's"),
        ({"recompute": 1.5}, "must be 0 to 1"),
        ({"recompute": -0.1}, "must be 0 to 1"),
        ({"root": "abc"}, "64 hexadecimal digits"),
        ({"root": "g" * 64}, "64 hexadecimal digits"),
    ],
)
def test_what_cannot_be_computed_anew_is_said(store, change, says):
    with pytest.raises(InputError, match=says):
        verify(store, **{"recompute": 1.0, "seed": 0, **GIVEN, **change})


def test_a_models_own_file_allows_no_other_code_of_the_plan(tmp_path):
    """Models are given, but attacks and examples are pickled in the plan."""
    planned(tmp_path, models=("net",))
    work(tmp_path)
    collect(tmp_path)
    given = {"models": {"net": make_classifier}, "recompute": 0.1, "seed": 0}
    with pytest.raises(InputError, match="to run code of whoever planned it: the data set, the attacks. If you trust"):
        verify(tmp_path, **given)
    with pytest.raises(InputError, match="to run code of whoever planned it: the attacks. If you trust"):
        verify(tmp_path, **given, data=make_data())
    assert verify(tmp_path, **given, run_code=True).ok
