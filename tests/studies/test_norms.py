"""Audits in several norms: what withstands all of them, counted by hand; from Python and on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from results import make_result
from scipy.stats import binomtest

import art_classwise as acw
from art_classwise import InputError
from art_classwise.report.radii import print_radii, write_radii
from art_classwise.studies import NormUnion, RadiusSweep, audit_over_norms, audit_over_radii, read_sweep, read_union
from art_classwise.studies.norms import parse_several
from art_classwise.studies.radii import radius_folder
from art_classwise.threat import NORMS, ThreatModel

THREATS = "Linf:0.05,L2:0.5,L1:3"


@pytest.fixture(scope="module")
def union():
    results = []
    for i, text in enumerate(THREATS.split(",")):
        made = make_result(["ant", "bee", "cow", "none"])
        threat, rng = acw.ThreatModel.parse(text), np.random.default_rng(i)
        outcomes = made.outcomes.assign(withstood=made.outcomes["withstood"] & (rng.random(len(made.outcomes)) < 0.8))
        results.append(replace(made, outcomes=outcomes, manifest=made.manifest.updated(threat=threat)))
    return NormUnion(tuple(results))


def test_threats_are_read():
    assert [str(t) for t in parse_several("l2:0.5, Linf:8/255 ,L1:12")] == ["L2:0.5", "Linf:8/255", "L1:12"]
    assert [str(t) for t in parse_several("Linf:8/255,4/255")] == ["Linf:4/255", "Linf:8/255"]
    assert parse_several("corruptions") == (acw.ThreatModel.parse("corruptions"),)
    for text, says in (
        ("Linf:8/255,4/255,L2:1", "one radius each"),
        ("Linf:8/255,Linf:4/255,L2:1", "one radius each"),
        ("Linf:8/255,L3:1", "Unknown norm"),
        ("Linf:8/255,L2:", "must be a number"),
    ):
        with pytest.raises(InputError, match=says):
            parse_several(text)


def test_the_union_is_counted(union):
    by_class, table = union.by_class(confidence=0.9), union.table()
    for model in ("one", "two"):
        broken: dict[int, set[int]] = {}
        for result in union.results:
            of = result.outcomes[(result.outcomes["model"] == model) & ~result.outcomes["withstood"]]
            for label, example in zip(of["label"], of["example"], strict=True):
                broken.setdefault(label, set()).add(example)
        shares = {}
        for k, name in enumerate(("ant", "bee", "cow")):
            n = int(by_class.at[(model, "all norms", name), "n"])
            row = by_class.loc[(model, "all norms", name)]
            shares[name] = 1 - len(broken[k]) / n
            assert row["robust"] == pytest.approx(shares[name])
            wilson = binomtest(n - len(broken[k]), n).proportion_ci(0.9, "wilson")
            assert (row["robust_low"], row["robust_high"]) == pytest.approx((wilson.low, wilson.high))
            assert row["robust"] <= min(by_class.at[(model, t, name), "robust"] for t in THREATS.split(","))
        whole = table.loc[(model, "all norms")]
        assert whole["mean"] == pytest.approx(np.mean(list(shares.values())))
        assert (whole["worst"], whole["worst_class"]) == (
            pytest.approx(min(shares.values())),
            min(shares, key=shares.get),
        )
        assert whole["worst_low"] <= whole["worst"] <= whole["mean"]
        rows = union.rows(model)
        worst = acw.metrics.worst_class(rows["label"], rows["all norms"], 4)
        assert (whole["held_out"], whole["worst_high"]) == (worst["accuracy"], worst["high"])
        assert (whole["norm"], whole["n"]) == ("", 120)
        for result in union.results:
            assert table.at[(model, str(result.threat)), "mean"] == result.summary().at[model, "mean"]


def test_under_the_mean_of_corruptions_it_is_that_mean():
    """Examples withstand a share of them, the same in each audit."""
    data = acw.load_dataset("digits", "test").first(40)
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    models = {"net": acw.as_classifier(network, (1, 8, 8), 10, device="cpu")}
    options = {"corruptions": ["made:gaussian_noise:1", "made:brightness:5"], "checks": False, "verbose": False}
    union = audit_over_norms(models, data, "Linf:0.05,L2:0.5", "fgsm", **options)
    rows = union.rows(attack="mean corruption")
    assert set(rows["all norms"]) == {0.0, 0.5, 1.0}
    assert rows["all norms"].equals(rows["L2:0.5"].rename("all norms"))
    table = union.table("mean corruption").reset_index("threat")
    assert table["mean"].nunique() == 1
    assert union.rows(attack="all corruptions")["all norms"].dtype == bool


@pytest.mark.parametrize("threats", [None, 5, acw.ThreatModel("L2", 0.5)])
def test_threats_are_several(threats):
    for study in (audit_over_norms, audit_over_radii):
        with pytest.raises(InputError, match="`threats` must be several"):
            study({}, None, threats)


def test_what_is_no_union_is_refused(union):
    first, second, _ = union.results
    with pytest.raises(InputError, match="two norms or more"):
        NormUnion((first,))
    with pytest.raises(InputError, match="each once, but got Linf, L2, Linf"):
        NormUnion((first, second, first))
    fewer = replace(second, outcomes=second.outcomes[second.outcomes["example"] > 3].reset_index(drop=True))
    with pytest.raises(InputError, match="different examples"):
        NormUnion((first, fewer))
    changed = replace(second, outcomes=second.outcomes.assign(clean_prediction=0))
    with pytest.raises(InputError, match="isn't the same model"):
        NormUnion((first, changed))


@pytest.mark.parametrize("kind", [RadiusSweep, NormUnion])
def test_what_is_no_audit_is_refused(union, kind):
    for results, says in (
        ((), "but there is none"),
        ((union.results[0], "runs/n"), "Number 2 of `results` must be an audit's result.*read_audit"),
        ((1, 2), "Number 1 of `results` must be an audit's result"),
    ):
        with pytest.raises(InputError, match=says):
            kind(results)


def test_norms_are_read_in_one_order(union, tmp_path):
    for result in reversed(union.results):
        result.save(tmp_path / radius_folder(result.threat))
    assert [result.threat.norm for result in read_union(tmp_path).results] == [*NORMS][: len(union.results)]
    deltas = torch.rand(1000, 1, 3, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    sizes = [ThreatModel(norm, 1.0).size(deltas) for norm in NORMS]
    for of, following in pairwise(sizes):  # a ball holds those of the same radius that follow
        assert (of <= following * (1 + 1e-6)).all()


def test_files_and_terminal(union, tmp_path, capsys):
    write_radii(union, tmp_path)
    read = pd.read_csv(
        tmp_path / "norms.csv", index_col=["model", "threat"], keep_default_na=False, na_values=["", "nan"]
    )
    pd.testing.assert_frame_equal(read.drop(columns="norm"), union.table().drop(columns="norm"), check_dtype=False)
    classes = pd.read_csv(
        tmp_path / "norms_by_class.csv", index_col=[0, 1, 2], keep_default_na=False, na_values=["", "nan"]
    )
    pd.testing.assert_frame_equal(classes, union.by_class(), check_dtype=False)
    print_radii(union)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("all norms") == 2
    assert "all norms" in union.to_latex()


def test_the_command_line_goes_on_where_it_was(command_line, tmp_path):
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    names = [str(d) for d in range(10)]
    acw.save_checkpoint("m.pt", network, architecture="digits-cnn", classes=names, input_shape=(1, 8, 8))
    words = ("audit", "--model", "m.pt", "--attacks", "fgsm", "--examples", 40, "--no-checks", "--quiet")
    words += ("--threat", "Linf:0.02,L2:0.3", "--out", "runs/n")
    code, out, err = command_line(*words)
    assert code == 0, err
    assert "all norms" in out
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.parquet")}
    code, out, err = command_line(*words, "--json")
    told = json.loads(out)
    assert (code, told["kind"]) == (0, "norms")
    assert [row["threat"] for row in told["norms"]] == ["Linf:0.02", "L2:0.3", "all norms"]
    assert told["norms"][2]["eps"] is None
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    code, out, err = command_line("report", "runs/n", "--json")
    assert json.loads(out)["norms"] == told["norms"]
    pd.testing.assert_frame_equal(
        read_union("runs/n").table(),
        audit_over_norms(
            {"m": acw.load_checkpoint("m.pt")},
            acw.load_dataset("digits", "test").first(40),
            "Linf:0.02,L2:0.3",
            "fgsm",
            checks=False,
            verbose=False,
        ).table(),
    )
    with pytest.raises(InputError, match="read_union"):
        read_sweep("runs/n")
    for path in (tmp_path / "runs" / "n" / "L2-0.3").rglob("*fgsm*/*.parquet"):
        path.unlink()
    with pytest.raises(InputError, match=r"The audit at L2:0.3 isn't finished"):
        read_union("runs/n")
    code, out, err = command_line(*words[:-4], "--threat", "Linf:0.02,L2:100", "--out", "runs/o")
    assert (code, (tmp_path / "runs" / "o").exists()) == (2, False)
    assert "covers every image" in err
