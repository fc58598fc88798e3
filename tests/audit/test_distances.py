"""Distances in an audit: measured, kept, read again, asked about."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

import art_classwise as acw
from art_classwise import InputError
from art_classwise.attacks import ladder
from art_classwise.audit.comparison import Side
from art_classwise.audit.outcomes import MEASURED, OUTCOMES, cumulative, parts

EPS = 0.1
ATTACKS = ["pgd-5", "fmn-30", "margin-5"]


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    train = acw.load_dataset("digits", "train").first(300)
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    made = acw.as_classifier(network, (1, 8, 8), 10, optimizer=optimizer, device="cpu")
    acw.NaturalTrainerPyTorch(made, verbose=False).fit(train.x, train.y, batch_size=50, nb_epochs=8)
    return made


@pytest.fixture(scope="module")
def data():
    return acw.load_dataset("digits", "test").first(90)


@pytest.fixture(scope="module", autouse=True)
def several_shards():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("art_classwise.audit.audit._SHARD", 40)
        yield


def audited(classifier, data, attacks=ATTACKS, **options):
    audit = acw.ClassWiseAudit(f"Linf:{EPS}", attacks, checks=False, verbose=False, **options)
    return audit.evaluate({"net": classifier}, data)


@pytest.fixture(scope="module")
def result(classifier, data):
    return audited(classifier, data)


def test_the_name_is_the_attack(classifier):
    made = {name: make(classifier) for name, make in ladder(["fmn", "fmn-7"], "L2:0.5", batch_size=9).items()}
    assert [type(one) for one in made.values()] == [acw.MinimumNormAttack] * 2
    assert [(one.norm, one.eps, one.max_iter, one.batch_size) for one in made.values()] == [
        (2, None, 100, 9),
        (2, None, 7, 9),
    ]
    nearest = [make(classifier) for make in ladder(["fmn-malt", "fmn-7-malt"], "L2:0.5").values()]
    assert [(one.targets, one.max_iter) for one in nearest] == [(1, 100), (1, 7)]
    for name in ("fmn-0", "fmn-", "fmn-5x2", "fnm"):
        with pytest.raises(InputError, match=f"Unknown attack '{name}'"):
            ladder(name, "L2:0.5")


def test_an_example_is_broken_if_its_distance_is_within_the_radius(classifier, data, result):
    rows = result.rows("net", "fmn-30")
    attack = acw.MinimumNormAttack(classifier, max_iter=30, verbose=False)
    attack.generate(data.x, data.y)
    np.testing.assert_allclose(rows["distance"], attack.distance, rtol=1e-5)
    assert rows["distance"].dtype == np.float32
    assert np.array_equal(~rows["withstood"], rows["distance"] <= EPS)
    assert (rows["distance"] > EPS).sum() >= 10
    assert (rows["perturbation"] <= EPS * (1 + 1e-6)).all()
    assert np.array_equal(rows["distance"] == 0, rows["clean_prediction"] != rows["label"])
    others = result.outcomes[result.outcomes["attack"] != "fmn-30"]
    assert others["distance"].isna().all()


@pytest.mark.parametrize("worst_case", [False, True])
def test_distances_are_kept_and_sealed(classifier, data, result, tmp_path, worst_case):
    found = audited(classifier, data, store=tmp_path / "a", worst_case=worst_case)
    read = acw.read_audit(tmp_path / "a")
    pd.testing.assert_frame_equal(read.outcomes, found.outcomes)
    assert acw.verify(tmp_path / "a", models={"net": classifier}, data=data, recompute=1.0).ok
    found.save(tmp_path / "b")
    pd.testing.assert_frame_equal(acw.read_audit(tmp_path / "b").outcomes, found.outcomes)
    if worst_case:
        fmn = found.rows("net", "fmn-30")
        held = found.rows("net", "pgd-5")["withstood"].to_numpy()
        broken_before = ~held & (fmn["clean_prediction"] == fmn["label"]).to_numpy()
        assert np.array_equal(fmn["distance"].isna(), broken_before)
        pd.testing.assert_frame_equal(result.worst_case().outcomes, found.outcomes)
    else:
        pd.testing.assert_frame_equal(found.outcomes, result.outcomes)


def test_without_such_an_attack_nothing_changes(classifier, data, tmp_path):
    found = audited(classifier, data.first(20), ["pgd-5"], store=tmp_path)
    assert "distance" not in found.outcomes
    assert MEASURED.names == [*OUTCOMES.names, "distance"]
    with pytest.raises(InputError, match=r"No attack of the audit looked for the smallest .* at Linf:0.1 only"):
        found.robust_at(0.1)
    with pytest.raises(InputError, match="'pgd-5' doesn't look"):
        found.distances(attack="pgd-5")


def test_robust_at_is_the_class_table_at_the_audits_radius(result):
    for attack in ("fmn-30", acw.audit.WORST_CASE):
        at = result.robust_at([0, EPS], attack=attack)
        table = result.class_table("net", attack)
        for radius, kind in ((0.0, "clean"), (EPS, "robust")):
            for ours, theirs in (("robust", kind), ("low", f"{kind}_low"), ("high", f"{kind}_high"), ("n", "n")):
                np.testing.assert_array_equal(at.loc[radius][ours], table[theirs])
        assert (at["unknown"] == "").all()


def test_it_is_what_audits_at_other_radii_find(classifier, data, result):
    for eps in (0.05, 0.15):
        other = acw.ClassWiseAudit(f"Linf:{eps}", "fmn-30", checks=False, verbose=False).evaluate(
            {"net": classifier}, data
        )
        expected = other.class_table("net", "fmn-30")["robust"]
        np.testing.assert_allclose(result.robust_at(eps, attack="fmn-30").loc[eps]["robust"], expected, atol=0.01)


def test_all_attacks_together_are_the_nearest_of_any(result):
    of = parts(result.outcomes)
    fmn = of["net", "fmn-30"]["distance"].to_numpy().astype(float)
    broken = ~np.logical_and.reduce([of["net", a]["withstood"] for a in ATTACKS])
    expected = np.where(broken, np.minimum(fmn, EPS), fmn)
    label = of["net", "fmn-30"]["label"].to_numpy()
    at = result.robust_at([0.02, 0.12])
    for k in range(10):
        for eps in (0.02, 0.12):
            assert at.loc[(eps, result.classes[k]), "robust"] == (expected[label == k] > eps).mean()
    distances = result.distances(attack="fmn-30")
    assert distances.loc["0", "median"] == pytest.approx(np.median(fmn[(label == 0) & (fmn > 0)]))


def test_what_a_chain_broke_before_is_unknown_below_the_radius(result):
    chain = result.worst_case()
    at = chain.robust_at([0, 0.02, EPS, 0.2])
    pd.testing.assert_frame_equal(at.loc[[EPS, 0.2]], result.robust_at([EPS, 0.2]))
    assert at.loc[0.0]["robust"].notna().all()
    unknown = at.loc[0.02]["unknown"] != ""
    assert unknown.any()
    assert at.loc[0.02]["robust"][unknown].isna().all()


def test_models_are_compared_at_any_radius(classifier, data, result, command_line, tmp_path):
    """Against a loop over examples; the two audits have different radii."""
    other = acw.as_classifier(acw.build("digits-cnn", (1, 8, 8), 10, seed=5), (1, 8, 8), 10, device="cpu")
    weights = {name: 0.9 * value for name, value in classifier.model.state_dict().items()}
    other.model.load_state_dict(weights)
    audit = acw.ClassWiseAudit("Linf:0.03", "fmn-30", checks=False, verbose=False, store=tmp_path / "b")
    second = audit.evaluate({"scaled": other}, data)
    held = []
    for one in (result, second):
        rows = one.rows(attack="fmn-30")
        held.append((rows["distance"].to_numpy() > 0.06) & (rows["label"] == rows["clean_prediction"]).to_numpy())
    compared = acw.compare(result, second, attack="fmn-30", eps=0.06)
    assert str(compared.threat) == "Linf:0.06"
    assert compared.overall["first"] == held[0].mean()
    assert compared.overall["difference"] == pytest.approx(held[0].mean() - held[1].mean())
    assert 0.1 < held[0].mean() < 0.9
    own = acw.compare(result, second, attack="fmn-30", eps=EPS)
    assert own.overall["first"] == result.rows(attack="fmn-30")["withstood"].mean()
    result.save(tmp_path / "a")
    code, out, err = command_line("compare", tmp_path / "a", tmp_path / "b", "--attack", "fmn-30", "--radius", "6/100")
    assert (code, err) == (0, "")
    assert f"{100 * held[0].mean():.1f}" in out
    code, _, err = command_line("compare", tmp_path / "a", tmp_path / "b", "--attack", "fmn-30")
    assert code == 2
    assert "a radius of your choice can be given, --radius" in err
    near = {"fmn-30": lambda c: acw.MinimumNormAttack(c, eps=0.15, max_iter=10, verbose=False)}
    few = data.first(10)
    searched = audited(classifier, few, near), audited(other, few, near)
    for given, says in (
        ((result, second, {"attack": "pgd-5", "eps": 0.06}), "'pgd-5'"),
        ((result, second, {"attack": "fmn-30", "eps": 0}), "`eps`"),
        ((result, second, {"kind": "clean", "eps": 0.06}), "no radius"),
        ((*searched, {"attack": "fmn-30", "eps": 0.2}), "isn't known at 0.2, beyond 0.15"),
        ((result.worst_case(), audited(other, data, worst_case=True), {"eps": 0.02}), "broken by other attacks"),
    ):
        with pytest.raises(InputError, match=says):
            acw.compare(given[0], given[1], **given[2])


def test_standings_are_shown_at_any_radius(classifier, data, command_line, tmp_path):
    """What `metrics.compare_with_best` says of verdicts by hand."""
    audit = acw.ClassWiseAudit("Linf:0.03", "fmn-10", checks=False, verbose=False, store=tmp_path / "a")
    models = {"net": classifier}
    for name, share in (("scaled", 0.8), ("weak", 0.5)):
        models[name] = acw.as_classifier(acw.build("digits-cnn", (1, 8, 8), 10, seed=5), (1, 8, 8), 10, device="cpu")
        weights = {key: share * value for key, value in classifier.model.state_dict().items()}
        models[name].model.load_state_dict(weights)
    several = audit.evaluate(models, data.first(60))
    rows = [several.rows(name) for name in models]
    held = [((of["distance"] > 0.06) & (of["label"] == of["clean_prediction"])).tolist() for of in rows]
    code, out, err = command_line("compare", tmp_path / "a", "--radius", "0.06")
    assert (code, err) == (0, "")
    document = json.loads(command_line("compare", tmp_path / "a", "--radius", "0.06", "--json")[1])
    for measure, title in (("mean", "mean over classes"), ("worst", "worst class")):
        expected = acw.metrics.compare_with_best(rows[0]["label"], held, 10, models=[*models], measure=measure)
        pd.testing.assert_frame_equal(several.compare_with_best(measure=measure, eps=0.06), expected)
        own = several.compare_with_best(measure=measure)
        assert measure == "worst" or not expected["accuracy"].equals(own["accuracy"])
        told = pd.DataFrame(document["compared_with_best"][measure]).set_index("name")
        assert told["accuracy"].to_dict() == pytest.approx(expected["accuracy"].to_dict())
        words = " ".join(out.split())
        shown = words[words.rindex(f"{title}, robust accuracy under all attacks at Linf:0.06") :]
        assert f"{100 * expected['accuracy'].iloc[0]:.1f}" in shown
    best = acw.metrics.best_worst_class(rows[0]["label"], held, 10, models=[*models])
    assert several.best_worst_class(eps=0.06)["accuracy"] == best["accuracy"]
    for options, says in (({"eps": -1}, "`eps`"), ({"eps": 0.06, "kind": "clean"}, "no radius")):
        with pytest.raises(InputError, match=says):
            several.compare_with_best(**options)


def test_documents_and_tables_have_the_distances(result, capsys):
    from art_classwise.cli._documents import AuditDocument
    from art_classwise.cli._json import audit_content
    from art_classwise.report import print_tables, render

    told = audit_content(result, {})["models"][0]["distances"]
    assert told["searched"] == np.inf  # any, null in JSON
    at, distances = result.robust_at([0, EPS / 2, EPS, 1.5 * EPS, 2 * EPS]), result.distances()
    assert [row["eps"] for row in told["radii"]] == sorted({*at.index.get_level_values("eps")})
    for row in told["radii"]:
        assert [one["robust"] for one in row["classes"]] == at.loc[row["eps"]]["robust"].tolist()
    assert [one["half"] for one in told["classes"]] == distances["half"].tolist()
    assert "distances" in AuditDocument.model_fields["models"].annotation.__args__[0].model_fields
    print_tables(result)
    out = capsys.readouterr().out
    nearest = distances["half"].idxmin()
    line = next(
        line for line in out[out.index("smallest perturbations") :].splitlines() if line.startswith(f" {nearest} ")
    )
    assert f"{distances.loc[nearest, 'median']:.3g} (" in line
    page = render(result)
    assert "smallest perturbations found (Linf)" in page
    assert 'download="robust_at.csv"' in page
    without = audit_content(result.worst_case(), {})["models"][0]["distances"]
    assert any(one["unknown"] and np.isnan(one["robust"]) for one in without["radii"][1]["classes"])


def test_beyond_a_limit_it_is_unknown(classifier, data):
    attacks = {"near": lambda c: acw.MinimumNormAttack(c, eps=0.15, max_iter=10, verbose=False)}
    found = audited(classifier, data.first(40), attacks)
    at = found.robust_at([0.15, 0.2])
    assert at.loc[0.15]["robust"].notna().any()
    assert at.loc[0.2]["robust"].isna().all()
    assert at.loc[0.2]["unknown"].str.contains("beyond 0.15").all()
    assert found.rows()["distance"].replace(np.inf, 0).max() <= 0.15 * (1 + 1e-6)


@pytest.mark.parametrize(
    ("others", "known"),
    [
        ([], {0.03: True, 0.05: True, 0.07: False, EPS: True, 0.12: False}),
        (["pgd-5"], {0.03: True, 0.05: True, EPS: True, 0.12: False}),
    ],
)
def test_an_attack_that_looks_less_far_than_the_audit_leaves_the_rest_unknown(classifier, data, others, known):
    """But for the audit's own radius, whose verdicts its tables have."""
    attacks = {"near": lambda c: acw.MinimumNormAttack(c, eps=0.05, max_iter=10, verbose=False)}
    attacks |= ladder(others, f"Linf:{EPS}") if others else {}
    found = audited(classifier, data, attacks)
    at = found.robust_at(list(known))
    present = found.class_table(None, "all attacks")["n"] > 0
    for radius, is_known in known.items():
        assert at.loc[radius]["robust"].notna()[present].all() == is_known, radius
        assert (at.loc[radius]["unknown"] == "").all() == is_known, radius
    assert at.loc[EPS]["robust"].equals(found.class_table(None, "all attacks")["robust"].rename("robust"))
    # Between, what another attack broke is unknown from the one's limit to the other's perturbation.
    between = found.robust_at(0.07)
    rows = found.rows()
    broken = rows[(rows["label"] == rows["clean_prediction"]) & ~rows["withstood"]]
    unknown = between.droplevel("eps").index[between["robust"].isna()] if others else []
    for name in unknown:
        assert (broken[broken["label"] == int(name)]["perturbation"] > 0.07).any()
    ax = acw.figures.accuracy_by_radius(found)
    assert any(EPS in line.get_xdata() for line in ax.lines)
    if not others:
        with pytest.raises(InputError, match="isn't known at 0.07, beyond 0.05"):
            Side(found, "net", "near", "net", 0.07).right("robust")
        assert Side(found, "net", "near", "net", EPS).right("robust")[2].any()


@pytest.mark.parametrize(("norm", "known"), [(np.inf, True), (2, False), (1, False)])
def test_a_limit_in_a_norm_of_smaller_balls_is_none_in_the_audits(classifier, data, norm, known):
    attacks = {"other": lambda c: acw.MinimumNormAttack(c, norm=norm, eps=0.5, max_iter=10, verbose=False)}
    at = audited(classifier, data.first(40), attacks).robust_at([0.05, 0.2])
    assert (at["unknown"] == "").all() == known
    assert known or at["unknown"].str.contains("beyond 0").all()


def test_corruptions_are_no_attacks_whose_distances_count(classifier, data):
    options = {"corruptions": "made:gaussian_noise:5", "checks": False, "verbose": False}
    found = acw.ClassWiseAudit("Linf:0.02", ["fmn-10"], **options).evaluate({"net": classifier}, data.first(40))
    whole, alone = (found.robust_at([0.01, 0.02, 0.3], attack=name) for name in ("all attacks", "fmn-10"))
    pd.testing.assert_frame_equal(whole, alone)
    corrupted = (~found.rows(None, found.corruptions[0])["withstood"]).to_numpy()
    assert (corrupted & (found.rows(None, "fmn-10")["distance"].to_numpy() > 0.02)).any()


def test_broken_examples_leave_with_their_distance(result):
    """Against a loop over examples."""
    tables = list(parts(result.outcomes).values())
    carried = [*cumulative(tables)]
    for i in range(len(tables[0])):
        wrong = tables[0]["clean_prediction"][i] != tables[0]["label"][i]
        before = not tables[0]["withstood"][i] and not wrong
        expected = np.nan if before else tables[1]["distance"][i]
        assert np.array_equal(carried[1]["distance"][i], expected, equal_nan=True)


def test_its_curves_are_drawn_on_page_and_figure(result, tmp_path):
    ax = acw.figures.accuracy_by_radius(result)
    table = result.robust_at([0, EPS])["robust"]
    drawn = [np.array(line.get_data()) for line in ax.lines]
    for name in result.classes:
        expected = [100 * table[0.0][name], 100 * table[EPS][name]]
        at = [np.array([y[0], y[np.flatnonzero(x == EPS)[0]]]) for x, y in drawn if EPS in x and len(x) > 2]
        assert any(np.allclose(one, expected) for one in at), name
    result.to_html(tmp_path / "with.html")
    assert "Robust accuracy by class at every radius" in (tmp_path / "with.html").read_text()
    chain = result.worst_case()
    acw.figures.accuracy_by_radius(chain)
    without = result.outcomes.drop(columns="distance")
    other = acw.AuditResult(without, result.manifest)
    with pytest.raises(InputError, match="looked for the smallest"):
        acw.figures.accuracy_by_radius(other)
    other.to_html(tmp_path / "without.html")
    assert "every radius" not in (tmp_path / "without.html").read_text()


def test_the_command_line_takes_it(command_line, tmp_path):
    options = {"architecture": "digits-cnn", "classes": list("0123456789"), "input_shape": (1, 8, 8)}
    acw.save_checkpoint(tmp_path / "net.pt", acw.build("digits-cnn", (1, 8, 8), 10, seed=0), **options)
    code, _, err = command_line(
        "audit", "--model", "net.pt", "--dataset", "digits", "--examples", 30, "--threat", "Linf:0.1",
        "--attacks", "fmn-5", "--no-checks", "--out", "runs", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    assert acw.read_audit(tmp_path / "runs").robust_at(0.3)["robust"].notna().all()
