"""The experiments on classes: what they compute beside what they run, and that a killed run goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import art_classwise as acw
from art_classwise.trainers.recipes import plain_recipe

REPAIRS = (
    *("weight 2", "budget 1.25", "CFA", "DAFA", "FAWA", "fine-tuning", "FRL", "WAT", "FAAL", "CFOL", "spectral"),
    *("spectral throughout", "TRIX", "FAIR-TAT", "Fair-ARD weights", "averaging", "weight 2 + averaging"),
    *("weight 2 + spectral", "weight 2 + spectral + averaging"),
)


@pytest.fixture
def run(evaluation, monkeypatch, tmp_path):
    """Runs a script at its tiny size on digits, with some of its attributes changed, and reads the tables."""

    def call(name, *arguments, **changed):
        script = evaluation(name)
        if hasattr(script, "estimated"):  # more draws make intervals surer, and nothing else
            changed["estimated"] = partial(script.estimated, repeats=20)
        for attribute, value in changed.items():
            monkeypatch.setattr(script, attribute, value)
        folders = ("--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"))
        script.main(("--size", "tiny", "--datasets", "digits", *arguments, *folders))
        begin = f"{name}_tiny"
        tables = {path.stem[len(begin) :].strip("_"): pd.read_csv(path) for path in (tmp_path / "out").glob("*.csv")}
        figure = (tmp_path / "out" / f"{begin}.svg").read_text()
        assert "<svg" in figure
        for table in tables.values():
            assert {"hardware", "versions", "command"} <= set(table)
            assert table["command"].str.contains("--size tiny").all()
        assert set(tables["claims"]["verdict"]) <= {"seen", "not seen", "unclear"}
        return tables

    return call


def test_intervals_over_seeds_are_students(evaluation):
    evaluation("machine"), evaluation("setups")
    frame = evaluation("experiment")
    values = [0.3, 0.5, 0.45]
    mean, low, high = frame.over_seeds(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((np.mean(values), expected.low, expected.high))
    assert frame.shown([0.5, 0.5]) == "50.0 (50.0–50.0)"
    assert frame.shown([0.123]) == "12.3"  # one seed tells of no spread


def test_the_network_of_few_channels_has_the_weights_it_says(evaluation):
    setups = evaluation("setups")
    network = setups.network("few-channels", (1, 28, 28), 10, seed=0)
    n = sum(p.numel() for p in network.parameters())
    assert f"{n:,} weights" in setups.few_channels.__doc__
    other = setups.network("few-channels", (1, 28, 28), 10, seed=0)
    assert all((a == b).all() for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_a_store_of_another_size_is_refused(evaluation, tmp_path):
    setups = evaluation("setups")
    setups.check_size(tmp_path, {"epochs": 2, "shape": (1, 2)})
    setups.check_size(tmp_path, {"epochs": 2, "shape": (1, 2)})
    with pytest.raises(SystemExit, match="holds trainings of another size: choose another --store"):
        setups.check_size(tmp_path, {"epochs": 3, "shape": (1, 2)})


def runs_of(**accuracies):
    """Runs by policy: worst-class accuracies by seed."""
    return pd.DataFrame(
        {"objective": "trades", "policy": policy, "seed": seed, "n": 9, "clean": 0.9, "robust": 0.5, "worst": 0.01}
        | {"worst held out": worst}
        for policy, values in accuracies.items()
        for seed, worst in enumerate(values)
    )


def certain(runs):
    """What trainings give on drawn examples if all examples of a class are alike: always the same."""
    held = runs.set_index(["objective", "policy", "seed"]).sort_index()
    return lambda *key: {name: np.full(200, held.loc[key, name]) for name in ("robust", "worst", "worst held out")}


def summed_up(script, runs):
    runs = script.with_rho(runs)
    return script.summary(runs.sample(frac=1, random_state=0), certain(runs)).set_index("policy")


def test_a_policys_change_is_paired_by_seed(evaluation):
    """Seeds may differ by more than the policy changes, and it shows nevertheless: without examples it is a t test."""
    script = evaluation("repair_tables")
    table = summed_up(script, runs_of(none=[0.1, 0.4, 0.7], DAFA=[0.15, 0.46, 0.76]))
    paired = stats.ttest_rel([0.15, 0.46, 0.76], [0.1, 0.4, 0.7])
    low, high = paired.confidence_interval(0.95)
    columns = ["worst held out change", "worst held out change low", "worst held out change high"]
    assert table.loc["DAFA", columns].tolist() == pytest.approx([np.mean([0.05, 0.06, 0.06]), low, high])
    assert table.loc["DAFA", "p"] == pytest.approx(paired.pvalue)
    assert table.loc["none", [*columns, "rho", "p", "p adjusted"]].isna().all()  # nothing it was compared with
    assert low > 0
    shown = script.readable(table.reset_index()).set_index("policy")
    assert shown.loc["DAFA", "worst held out change"].startswith("5.7 (")
    assert shown.loc["none", "worst held out change"] == ""


def test_rho_is_of_the_training_without_a_policy_from_the_same_seed(evaluation):
    """(W - W0) / W0 - (A0 - A) / A0, by hand; unknown where the worst class is at 0 without a policy."""
    script = evaluation("repair_tables")
    runs = runs_of(none=[0.1, 0.4, 0.0], DAFA=[0.15, 0.5, 0.1])
    runs.loc[runs["policy"] == "DAFA", "robust"] = 0.45
    rho = script.with_rho(runs).set_index(["policy", "seed"])["rho"]
    assert rho["DAFA"].tolist() == pytest.approx([0.5 - 0.1, 0.25 - 0.1, np.nan], nan_ok=True)
    assert rho["none"].isna().all()


def test_p_values_are_adjusted_for_all_comparisons(evaluation):
    """Three policies: the smallest p counts three times; changes that don't differ give no p, nor count."""
    script = evaluation("repair_tables")
    none = [0.1, 0.4, 0.7]
    table = summed_up(script, runs_of(none=none, a=[0.2, 0.51, 0.79], b=[0.3, 0.3, 0.9], c=[0.2, 0.4, 0.9], d=none))
    p = table["p"].dropna()
    assert set(p.index) == {"a", "b", "c"}
    assert p.idxmin() == "a"
    assert table.loc["a", "p adjusted"] == pytest.approx(3 * p["a"])
    assert (table["p adjusted"].dropna() >= p).all()


def test_earlier_rows_stay_and_count_in_the_adjustment(evaluation, tmp_path):
    """Measured anew is one policy of three; what is of another data set is no comparison of this one."""
    script = evaluation("repair_tables")
    path = tmp_path / "earlier.csv"
    columns = ["dataset", "policy", "p", "p adjusted", "command"]
    earlier = [
        ("digits", "a", 0.01, 0.02, "old"),
        ("digits", "b", 0.02, 0.02, "old"),
        ("mnist", "a", 0.001, 0.001, "old"),
    ]
    pd.DataFrame(earlier, columns=columns).to_csv(path, index=False)
    new = pd.DataFrame([("digits", "b", 0.03, 0.03), ("digits", "none", np.nan, np.nan)], columns=columns[:-1])
    found = script.with_earlier(new, path, ["policy"])
    assert found["policy"].tolist() == ["a", "b", "none"]
    assert found["p adjusted"].tolist() == pytest.approx([0.02, 0.03, np.nan], nan_ok=True)
    assert found["command"].fillna("new").tolist() == ["old", "new", "new"]
    assert script.with_earlier(new, tmp_path / "none.csv", ["policy"]) is new


def test_ours_are_compared_with_each_published_policy(evaluation):
    """Not with controls, nor with each other; p is adjusted for all of these comparisons."""
    script = evaluation("repair_tables")
    runs = runs_of(
        **{"none": [0.1, 0.4, 0.7], "weight 2": [0.3, 0.6, 0.8], "weight 2 + averaging": [0.4, 0.62, 0.9]},
        **{"DAFA": [0.15, 0.46, 0.76], "WAT": [0.2, 0.61, 0.85], "FAWA": [0.2, 0.5, 0.6]},
    )
    table = script.against_published(runs, certain(runs))
    pairs = [(policy, other) for policy in ("weight 2", "weight 2 + averaging") for other in ("DAFA", "WAT")]
    assert list(zip(table["policy"], table["against"], strict=True)) == pairs
    paired = stats.ttest_rel([0.4, 0.62, 0.9], [0.2, 0.61, 0.85])
    last = table.iloc[-1]
    interval = paired.confidence_interval(0.95)
    columns = ["worst held out", "worst held out low", "worst held out high", "p"]
    assert last[columns].tolist() == pytest.approx([0.26 / 3, interval.low, interval.high, paired.pvalue])
    assert table["p adjusted"].min() == pytest.approx(4 * table["p"].min())


def test_seeds_that_one_lacks_are_left_out(evaluation):
    """A policy trained once beside one trained three times: compared on that seed, by the examples alone."""
    script = evaluation("repair_tables")
    runs = script.with_rho(runs_of(**{"none": [0.1, 0.4, 0.7], "DAFA": [0.2, 0.4, 0.6], "weight 2": [0.3]}))
    wobble = np.random.default_rng(0).standard_normal(200) / 50

    def drawn(objective, policy, seed):
        return dict.fromkeys(("robust", "worst", "worst held out"), wobble if policy == "weight 2" else 0 * wobble)

    (row,) = script.against_published(runs, drawn).to_dict("records")
    assert row["seeds"] == 1
    assert row["worst held out"] == pytest.approx(0.1)
    half = stats.t.ppf(0.975, 199) * wobble.std(ddof=1)
    assert row["worst held out high"] == pytest.approx(0.1 + half)
    table = script.summary(runs, drawn).set_index("policy")
    assert table.loc["weight 2", "worst held out change"] == pytest.approx(0.2)
    assert table.loc["DAFA", "worst held out change"] == pytest.approx(0)
    assert table["seeds"].to_dict() == {"none": 3, "DAFA": 3, "weight 2": 1}


def test_drawn_examples_vary_as_binomials_do_and_the_worst_is_held_out(evaluation):
    """Ten equal classes: their minimum is too low, held out it isn't; equal labels draw equal examples."""
    script, rng = evaluation("class_policies"), np.random.default_rng(0)
    y = np.repeat(np.arange(10), 100)
    means, held_out, minima = [], [], []
    for _ in range(20):
        drawn = script.on_drawn_examples(y, rng.random(1000) < 0.5)
        means.append(drawn["robust"].std())
        held_out.append(drawn["worst held out"].mean())
        minima.append(drawn["worst"].mean())
    assert np.mean(means) == pytest.approx(np.sqrt(0.25 / 1000), rel=0.1)
    assert np.mean(minima) < 0.42
    # An example that was drawn twice is in both halves: what was chosen is too low then, but less so than the minimum.
    assert np.mean(minima) + 0.03 < np.mean(held_out) < 0.5
    right = y > 0  # one class is never right: held out or not, it is the worst
    drawn = script.on_drawn_examples(y, right)
    assert not drawn["worst held out"].any()
    assert not drawn["worst"].any()
    np.testing.assert_allclose(drawn["robust"], 0.9)
    half = rng.random(1000) < 0.5
    same = script.on_drawn_examples(y, half)["robust"] + script.on_drawn_examples(y, ~half)["robust"]
    np.testing.assert_allclose(same, 1)


def test_class_accuracies_alone_give_the_same_spread_apart_from_other_trainings(evaluation):
    """A mean over two classes of unlike size; what isn't paired has the sum of both variances."""
    script = evaluation("repair_tables")
    y, right = np.repeat([0, 2], [400, 100]), np.r_[np.arange(400) < 100, np.arange(100) < 60]
    accuracies, sizes = np.array([0.25, np.nan, 0.6]), np.array([400, 0, 100])
    one, other = (script.on_independent_examples(accuracies, sizes, seed)["robust"] for seed in (3, 4))
    error = np.sqrt(0.25 * 0.75 / 400 + 0.6 * 0.4 / 100) / 2
    assert one.mean() == pytest.approx(0.425, abs=4 * error / np.sqrt(200))
    assert one.std() == pytest.approx(error, rel=0.2)
    assert (one - other).std() == pytest.approx(np.sqrt(2) * error, rel=0.2)
    assert script.on_drawn_examples(y, right)["robust"].std() == pytest.approx(error, rel=0.2)
    # The seeds of a policy are tried on the same examples: their mean varies no less than each of them.
    again = script.on_independent_examples(accuracies - 0.01, sizes, 3)["robust"]
    assert ((one + again) / 2).std() == pytest.approx(error, rel=0.2)


def test_networks_that_others_start_from_are_trained_anew(evaluation, tmp_path):
    """A table has no weights; nor is a table of other data taken, or of another radius."""
    script = evaluation("class_policies")
    study = script.Study.__new__(script.Study)
    test = type("Test", (), {"name": "digits", "__len__": lambda _: 9})()
    study.trainings = SimpleNamespace(folder=tmp_path, test=test)
    study._size = SimpleNamespace(threat="Linf:0.1")
    runs = runs_of(none=[0.1], DAFA=[0.2], WAT=[0.3], CFA=[0.4]).assign(dataset="digits", threat="Linf:0.1")
    runs.loc[runs["policy"] == "WAT", "threat"] = "Linf:0.2"
    runs.loc[runs["policy"] == "CFA", "n"] = 10
    study.take(runs, all_=False)
    assert [study.has("trades", policy, 0) for policy in ("none", "DAFA", "WAT", "CFA")] == [False, True, False, False]
    study.take(runs)
    assert study.has("trades", "none", 0)
    assert study.run("trades", "none", 0)["worst held out"] == 0.1
    assert not study.paired("trades", "none", 0)


def test_who_is_hit_first_is_ranked_by_the_epoch_before(evaluation):
    """Of four classes, 1 and 3 collapse in the third epoch, 0 later; before, 1 was the weakest and 3 second, tied."""
    tables = evaluation("repair_tables")
    robust = [[0.4, 0.1, 0.5, 0.4], [0.6, 0.2, 0.7, 0.6], [0.5, 0.0, 0.7, 0.1], [0.0, 0.0, 0.7, 0.1]]
    collapsed = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1], [1, 1, 0, 1]]
    names = [f"val_robust_{k}" for k in range(4)] + [f"collapsed_{k}" for k in range(4)]
    history = pd.DataFrame(np.hstack([robust, collapsed]), columns=names).assign(epoch=range(1, 5))
    calm = history.assign(**{f"collapsed_{k}": 0 for k in range(4)})
    table = tables.first_hit({("fgsm", 0): calm, ("fgsm", 1): history}, 4)
    assert table["class"].tolist() == [1, 3]
    assert table["seed"].tolist() == [1, 1]
    assert table["epoch"].tolist() == [3, 3]
    assert table["robust before"].tolist() == [0.2, 0.6]
    assert table["rank before"].tolist() == pytest.approx([0, 1.5 / 3])
    script = evaluation("class_policies")
    study = SimpleNamespace(trainings=SimpleNamespace(told="digits, x"))
    (claim,) = script.claims_of_collapse(study, pd.concat([table, table.assign(seed=2)]))
    assert claim.value == pytest.approx(25)
    assert claim.n.startswith("2 trainings")
    assert script.claims_of_collapse(study, tables.first_hit({("fgsm", 0): calm}, 4)) == []


def test_what_others_are_compared_with_is_trained_first(evaluation):
    """ABSLD beside RSLAD, beside TRADES, whose network teaches both; each once, and the seeds in order."""
    tables, script = evaluation("repair_tables"), evaluation("class_policies")
    arguments = SimpleNamespace(objectives=["mart"], policies=["DAFA"], alone=["absld", "rslad", "n-fgsm"], seeds=2)
    of_a_seed = ["mart none", "mart DAFA", "trades none", "rslad none", "absld none", "standard none", "n-fgsm none"]
    assert [f"{o} {p}" for o, p, s in script.jobs_of(arguments) if s == 1] == of_a_seed
    assert [s for _, _, s in script.jobs_of(arguments)] == [0] * 7 + [1] * 7
    everything = script.jobs_of(SimpleNamespace(objectives=None, policies=None, alone=None, seeds=1))
    assert tuple(script.REPAIRS) == REPAIRS
    assert len(everything) == len(set(everything)) == 3 * (1 + len(script.REPAIRS)) + len(script.ALONE)
    for objective, policy, seed in everything:
        base = (tables.base_of(objective, policy), "none", seed)
        assert everything.index(base) <= everything.index((objective, policy, seed))


@pytest.mark.slow
def test_policies_are_trained_attacked_and_kept(evaluation, run, monkeypatch, tmp_path):
    script = evaluation("class_policies")
    repairs = {
        name: script.REPAIRS[name] for name in ("weight 2", "WAT", "spectral", "weight 2 + spectral + averaging")
    }
    shorter = {"OBJECTIVES": ("trades",), "REPAIRS": repairs}
    call = partial(run, "class_policies", "--seeds", "2", "--alone", "absld", "n-fgsm", **shorter)
    tables = call()
    runs, summary, claims, ours = (tables[name] for name in ("runs", "", "claims", "ours"))
    # Two seeds of four policies, none, two methods, and those that they are compared with.
    assert len(runs) == 2 * (1 + 4 + 2 + 2)
    assert runs["n"].eq(60).all()
    by_class = runs[[f"robust {k}" for k in range(10)]]
    np.testing.assert_allclose(runs["robust"], by_class.mean(axis=1), atol=1e-4)
    np.testing.assert_allclose(runs["worst"], by_class.min(axis=1), atol=1e-4)
    assert (runs["worst held out"] >= runs["worst"] - 1e-4).all()  # without the bias of a minimum
    assert (runs["worst held out"] <= runs["robust"] + 1e-4).all()
    assert len(summary) == 9
    assert len(ours) == 2 * 2  # weight 2 and the combination, against WAT and spectral
    changes = summary[summary["worst held out change"].notna()]
    assert len(changes) == 7  # not trades and standard without a policy
    assert len(claims) == 7 + 2
    np.testing.assert_allclose(claims["value"][:7], 100 * changes["worst held out change"], atol=0.01)
    closest = 100 * ours.groupby("policy", sort=False)["worst held out"].min()
    np.testing.assert_allclose(claims["value"][7:], closest, atol=0.01)
    folder = tmp_path / "store" / "tiny" / "policies" / "digits"
    base = json.loads((folder / "trades-none-0" / "result.json").read_text())
    assert base["weakest on validation"] in range(10)
    assert "temperature_0" in pd.read_csv(folder / "absld-none-0" / "history.csv")
    assert "collapsed_0" in pd.read_csv(folder / "n-fgsm-none-0" / "history.csv")
    # Again, with one result gone: that training alone is read from its folder and attacked anew.
    (folder / "trades-WAT-1" / "result.json").unlink()
    audits = []
    evaluate = acw.ClassWiseAudit.evaluate
    monkeypatch.setattr(acw.ClassWiseAudit, "evaluate", lambda self, *a: audits.append(1) or evaluate(self, *a))
    again = call()
    assert len(audits) == 1
    pd.testing.assert_frame_equal(again["runs"], runs)
    assert runs["examples"].eq("known").all()
    # In an empty store all are taken from the table, to the digits that it has.
    stored = tmp_path / "stored.csv"
    runs.to_csv(stored, index=False)
    (tmp_path / "store").rename(tmp_path / "before")
    taken = call("--known", str(stored), "--finished")["runs"]
    assert len(audits) == 1
    assert taken["examples"].eq("by class").all()
    own = [name for name in runs if name not in script.NOT_OF_A_RUN]
    pd.testing.assert_frame_equal(taken[own], runs[own])
    setups = {"tiny": {"digits": evaluation("class_policies")._size("tiny", "digits", epochs=3)}}
    with pytest.raises(SystemExit, match="holds trainings of another size: choose another --store"):
        call(SIZES=setups)


@pytest.mark.parametrize("name", REPAIRS)
def test_each_repair_can_be_trained(evaluation, name):
    """In a training of two epochs and in one of 110, with each kind of objective: a policy takes effect in both."""
    repair = evaluation("repairs").REPAIRS[name]
    for epochs in (2, 15, 110):
        length = evaluation("repairs").Length(weakest=3, epochs=epochs, n=800, eps=0.1, steps=13 * epochs)
        policy, options = repair.policy(length), repair.options(length)
        assert 0 <= options.get("ema_decay", 0.5) < 1
        if policy is None:
            assert repair.kind == "control"
            continue
        for beta in (None, 6.0):
            shares = torch.full((10,), 0.1, dtype=torch.float64)
            policy.begin(acw.policies.PolicyContext(10, shares, beta, 0.1, epochs, torch.device("cpu")))


def test_dividing_a_loss_is_made_up_for_by_rate_and_decay(evaluation):
    """SGD takes the same steps."""
    script = evaluation("class_policies")
    recipe, ends = plain_recipe("trades"), []
    for factor in (1.0, 7.0):
        weight = torch.nn.Parameter(torch.tensor([2.0, -1.0]))
        scaled = script._rescaled(recipe, factor)
        optimizer = scaled.optimizer(torch.nn.ParameterList([weight]))
        for _ in range(50):
            optimizer.zero_grad()
            ((weight - 1).pow(4).sum() / 100 / factor).backward()
            optimizer.step()
        ends.append(weight.detach())
    torch.testing.assert_close(*ends)
    assert not torch.allclose(ends[0], torch.tensor([2.0, -1.0]), atol=0.05)


def learnt(evaluation, monkeypatch):
    """Make the tiny size of digits long enough for an attack to move some, but not all."""
    evaluation("machine"), evaluation("setups")
    frame = evaluation("experiment")
    setup = replace(frame.SIZES["tiny"]["digits"], epochs=12, n_train=600, n_test=200)
    monkeypatch.setitem(frame.SIZES["tiny"], "digits", setup)


@pytest.mark.slow
def test_homing_is_measured_over_seeds(evaluation, run, monkeypatch):
    learnt(evaluation, monkeypatch)
    tables = run("class_exclusion", "--seeds", "2", "--classes", "1", "8", N_REACH={"tiny": 200})
    pairs, pooled, claims = tables["pairs"], tables[""], tables["claims"]
    assert set(pooled["excluded"]) == {1, 8}
    assert pooled["n"].sum() == pairs["n"].sum()
    assert pooled["n"].max() < 200  # moved examples, not all of the test's
    assert pooled["test examples"].eq(200).all()
    homed = (pairs["homed"] * pairs["n"]).groupby([pairs["seed"], pairs["excluded"]]).sum()
    for row in pooled.itertuples():
        assert homed[row.seed, row.excluded] == pytest.approx(row.homed * row.n, abs=0.01)
    # The claim's value: each seed's difference over all examples that have a control.
    known = pairs.dropna(subset=["control_homed"])
    weighted = (known["difference"] * known["n"]).groupby(known["seed"]).sum() / known["n"].groupby(known["seed"]).sum()
    homing, few, same = (claims.iloc[k] for k in range(3))
    assert homing["value"] == pytest.approx(100 * weighted.mean(), abs=0.1)
    assert f"{known['n'].sum():,} examples moved" in homing["n"]
    assert "2 seeds" in homing["n"]
    assert 0 <= few["value"] <= 100
    assert -100 / 3 <= same["value"] <= 200 / 3 + 0.01
    check_reach(tables["reach"])
    check_confounding(tables["confounding"])


def check_reach(table):
    """A row per class and seed; shares; who can be moved at all is in no column more often."""
    assert len(table) == 2 * 10
    shares = table[[f"to {k}" for k in range(10)]].to_numpy()
    for seed in (0, 1):
        assert np.isnan(np.diag(shares[table["seed"] == seed])).all()
    off = shares[~np.isnan(shares)]
    assert len(off) == 2 * 90
    assert off.min() >= 0
    assert off.max() <= 1
    assert off.max() > 0
    assert (np.nanmax(shares, axis=1) <= table["movable"] + 1e-4).all()
    assert (np.nansum(shares, axis=1) >= table["movable"] - 1e-3).all()
    assert (table.groupby("seed")["n"].sum() <= 200).all()  # those that are right without attack


def check_confounding(table):
    """Three classes each at most, the most frequent first, none its own."""
    assert (table["class"] != table["predicted"]).all()
    for _, rows in table.groupby(["seed", "class"]):
        assert 1 <= len(rows) <= 3
        assert rows["share"].is_monotonic_decreasing


def test_reach_is_counted_by_class(evaluation):
    script = evaluation("class_exclusion")
    labels = np.array([0, 0, 2, 2, 2, 2])
    reach = np.array([[0, 1, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]], dtype=bool)
    table = script.reach_matrix(script.Seen(None, None, labels, reach), ("a", "b", "c"))
    assert table["n"].tolist() == [2, 0, 4]
    assert table["movable"].tolist() == pytest.approx([1, np.nan, 0.25], nan_ok=True)
    assert table.loc["a", ["to a", "to b", "to c"]].tolist() == pytest.approx([np.nan, 1, 0.5], nan_ok=True)
    assert table.loc["c", ["to a", "to b", "to c"]].tolist() == pytest.approx([0.25, 0, np.nan], nan_ok=True)
    assert table.loc["b", ["to a", "to b", "to c"]].isna().all()


@pytest.mark.parametrize(("similar", "expected"), [(True, 100 * (1 - 3 / 9)), (False, 0)])
def test_common_targets_are_told_from_chance(evaluation, similar, expected):
    """All go to three classes, or anywhere: chosen on one half and counted on the other, no class is common."""
    script, rng = evaluation("class_exclusion"), np.random.default_rng(0)
    labels = np.repeat([0, 1], 500)
    reach = np.zeros((1000, 10), dtype=bool)
    targets = rng.integers(2, 5, 1000) if similar else 1 + rng.integers(0, 9, 1000)
    reach[np.arange(1000), np.where(targets == labels, 0, targets)] = True
    assert script.beyond_chance(labels, reach, np.arange(1000)) == pytest.approx(expected, abs=2.5)


def test_nothing_moved_is_nothing_seen(evaluation):
    script = evaluation("class_exclusion")
    nothing = (np.zeros(0, dtype=np.int64), lambda rows: 1 / 0)
    assert np.isnan(script.over_all([nothing, nothing], (0, 100))).all()
    some = (np.zeros(4, dtype=np.int64), lambda rows: 7.0)
    assert script.over_all([some, nothing], (0, 100)) == (7, 7, 7)


@pytest.mark.slow
def test_both_trainings_on_few_labels_take_as_many_steps(run, monkeypatch):
    """The seeds draw other labels."""
    steps, drawn, fit = [], [], acw.AdversarialTrainerMARTPyTorch.fit

    def counted(self, x, *arguments, **options):
        step = self._classifier.optimizer.register_step_post_hook(lambda *_: steps.__setitem__(-1, steps[-1] + 1))
        steps.append(0)
        drawn.append(x)
        try:
            return fit(self, x, *arguments, **options)
        finally:
            step.remove()

    monkeypatch.setattr(acw.AdversarialTrainerMARTPyTorch, "fit", counted)
    tables = run("mart_semi", "--seeds", "2")
    assert steps == [4, 4, 4, 4]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    runs, claims = tables[""], tables["claims"]
    assert runs["unlabelled"].tolist() == [0, 272, 0, 272]
    assert runs["labels"].eq(128).all()
    assert runs["confidence"].notna().tolist() == [False, True, False, True]
    assert runs["PGD-40 n"].eq(40).all()
    assert runs["AutoAttack n"].eq(2).all()
    assert runs[["clean", "PGD-40 robust", "PGD-40 worst class"]].stack().between(0, 1).all()
    gained = runs.set_index(["seed", "kind"])
    for row, attack in zip(claims.itertuples(), ("PGD-40", "AutoAttack"), strict=True):
        by_kind = gained[f"{attack} robust"].unstack()
        change = 100 * (by_kind["semi-supervised"] - by_kind["supervised"])
        assert row.value == pytest.approx(change.mean(), abs=0.01)
    # Again: all is read from the store.
    again = run("mart_semi", "--seeds", "2")
    assert len(steps) == 4
    pd.testing.assert_frame_equal(again[""], runs)


def test_a_gain_is_the_mean_over_classes(evaluation):
    """A class of one example counts as much as one of three."""
    script = evaluation("mart_semi")
    y, first = np.array([0, 1, 1, 1]), np.array([False, True, True, False])
    second = np.array([True, True, True, True])
    assert script.gain(y, first, second, np.arange(4)) == pytest.approx(100 * (1 + 1 / 3) / 2)
    assert script.gain(y, first, second, np.array([1, 2])) == 0


def test_a_class_that_isnt_there_is_named(evaluation, tmp_path):
    script = evaluation("class_exclusion")
    where = ("--store", str(tmp_path), "--out", str(tmp_path))
    with pytest.raises(SystemExit, match="^error: --classes: Unknown class '11'. Did you mean 1"):
        script.main(["--size", "tiny", "--datasets", "digits", "--seeds", "1", "--classes", "11", *where])
