"""What page, terminal and notebook show is computed once, from the audit's own tables."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pandas as pd
import pytest
from results import make_result

from art_classwise.attacks import ladder
from art_classwise.audit import AuditResult
from art_classwise.errors import InputError
from art_classwise.metrics import class_groups
from art_classwise.report import print_tables, render
from art_classwise.report.data import comparisons, pairs, report_data, upper_bounds
from art_classwise.report.limits import limits
from art_classwise.report.radii import radii_grid
from art_classwise.studies import RadiusSweep

CLASSES = ["ant", "bee", "cow", "doe"]


@pytest.fixture(scope="module")
def result():
    return make_result(CLASSES, models=("one", "two", "three"), attacks=("fgsm", "pgd-20"))


def test_it_holds_the_numbers_of_the_audits_tables(result):
    data, summary = report_data(result), result.summary()
    assert [model.name for model in data.models] == list(summary.sort_values("mean", ascending=False).index)
    assert data.order == result.models
    for model in data.models:
        row, table = summary.loc[model.name], result.class_table(model.name)
        assert (model.robust.low, model.robust.value, model.robust.high) == tuple(
            row[["mean_low", "mean", "mean_high"]]
        )
        assert (model.worst, model.gap, model.p) == pytest.approx((table["robust"].min(), row["mcd"], row["p"]))
        assert model.best.name == table["robust"].idxmax()
        assert [one.n for one in model.measured] == [40] * 3
        for one in model.classes:
            of = table.loc[one.name]
            numbers = (one.robust.value, one.robust.low, one.robust.high)
            assert numbers == pytest.approx(tuple(of[["robust", "robust_low", "robust_high"]]), nan_ok=True)
            by_attack = [result.class_table(model.name, attack).loc[one.name, "robust"] for attack in result.attacks]
            assert one.by_attack == pytest.approx(tuple(by_attack), nan_ok=True)
        robust = [one.robust.value for one in model.measured]
        assert robust == sorted(robust)


def test_it_is_computed_once_and_forgotten_with_the_audit(monkeypatch, capsys):
    made, asked = make_result(CLASSES), []
    summary = AuditResult.summary
    monkeypatch.setattr(AuditResult, "summary", lambda self, *a: (asked.append(self), summary(self, *a))[1])
    render(made)
    print_tables(made)
    made._repr_html_()
    assert len(asked) == 1
    assert report_data(made) is report_data(made)
    assert comparisons(made) is comparisons(made)
    gone = weakref.ref(made)
    asked.clear()
    del made
    gc.collect()
    assert gone() is None


def test_the_terminal_and_the_notebook_say_what_the_page_says(result, capsys):
    data = report_data(result)
    assert data.bound == "At most: no strong attack, such as standard AutoAttack, was run."
    print_tables(result)
    shown = " ".join(capsys.readouterr().out.split())
    for sentence in (data.bound, data.checked, comparisons(result).verdict):
        assert sentence in shown
        assert sentence in " ".join(repr(result).split())
    page = render(result)
    assert data.checked in page
    assert comparisons(result).verdict in page


@pytest.mark.parametrize(
    ("attacked", "said"),
    [
        (("one", "two", "three"), ""),
        (("two",), "At most: no strong attack, such as standard AutoAttack, was run on one, three."),
    ],
)
def test_only_models_without_a_strong_attack_have_upper_bounds(attacked, said, monkeypatch):
    monkeypatch.setattr(AuditResult, "strongly_attacked", attacked)
    made = make_result(CLASSES, models=("one", "two", "three"))
    assert report_data(made).bound == said


def test_a_quick_estimate_is_called_so_and_is_no_autoattack(capsys):
    made = make_result(CLASSES, models=("one",), attacks=tuple(ladder("fast", "Linf:0.1")))
    data = report_data(made)
    assert data.bound.startswith(
        "A quick estimate, an upper bound of robust accuracy: the ladder fast isn't AutoAttack"
    )
    print_tables(made)
    shown = " ".join(capsys.readouterr().out.split())
    assert "one: quick estimate of accuracy in % at Linf:0.1" in shown
    assert data.bound in shown
    assert data.bound in limits(data, data.models[0])
    page = render(made).replace("&#39;", "'")
    assert "<title>Quick estimate of robustness by class" in page
    assert data.bound in page
    assert made.strongly_attacked == ()
    with pytest.raises(InputError, match="autoattack"):
        made.check("overall@autoattack >= 0.01")


def test_whatever_leaves_the_audit_says_that_it_is_a_quick_estimate(tmp_path):
    """Tables for LaTeX, comparisons, audits over radii: each is read without the others."""
    fast = tuple(ladder("fast", "Linf:0.1"))
    made = make_result(CLASSES, models=("one", "two"), attacks=fast)
    for table in made.to_latex().split("\\begin{table}")[1:]:
        assert "quick estimate" in table
        assert "the ladder fast isn't AutoAttack" in table
    compared = made.compare("one", "two")
    assert compared.about == "quick estimate of robust accuracy under all attacks at Linf:0.1"
    assert "quick estimate of robust accuracy" in compared.to_latex()
    compared.to_csv(tmp_path / "compared.csv")
    assert pd.read_csv(tmp_path / "compared.csv")["about"].str.startswith("quick estimate").all()
    assert "quick" not in made.compare("one", "two", kind="clean").about
    assert "quick" not in made.compare("one", "two", attack="margin-20x3").about
    others = [made, make_result(CLASSES, models=("one", "two"), attacks=fast, eps=0.3)]
    grid = radii_grid(RadiusSweep(tuple(others)), 80)
    assert grid.title.startswith("Quick estimate of robust accuracy")
    assert any("isn't AutoAttack" in note for note in grid.notes)


def test_corruptions_beside_the_fast_ladder_make_it_no_less_of_an_estimate(monkeypatch):
    made = make_result(CLASSES, models=("one",), attacks=(*ladder("fast", "Linf:0.1"), "fog:3"))
    monkeypatch.setattr("art_classwise.audit.outcomes.is_described_corruption", lambda given: given == {})
    manifest = made.manifest.model_copy(update={"attacks": {**made.manifest.attacks}})
    manifest.attacks["fog:3"] = manifest.attacks["fog:3"].model_copy(update={"parameters": {}})
    made = AuditResult(made.outcomes, manifest)
    assert made.corruptions == ("fog:3",)
    assert made.is_quick_estimate
    assert upper_bounds(made).startswith("A quick estimate")
    assert "quick" not in upper_bounds(make_result(CLASSES, attacks=("fog:3",)))


def test_tables_for_latex_say_of_which_models_accuracies_are_upper_bounds(monkeypatch):
    note = "at most: no strong attack, such as standard AutoAttack, was run"
    assert make_result(CLASSES).to_latex().count(f"{note}.") == 3
    monkeypatch.setattr(AuditResult, "strongly_attacked", ("one",))
    models, one, two = make_result(CLASSES).to_latex().split("\\begin{table}")[1:]
    assert f"{note} on two." in models
    assert note not in one
    assert f"{note} on two." in two
    monkeypatch.setattr(AuditResult, "strongly_attacked", ("one", "two"))
    assert "at most" not in make_result(CLASSES).to_latex()


def test_audits_over_radii_say_at_which_accuracies_are_upper_bounds(monkeypatch):
    sweep = RadiusSweep(tuple(make_result(CLASSES, eps=eps) for eps in (0.1, 0.3)))
    note = "at most: no strong attack, such as standard AutoAttack, was run"
    assert [n for n in radii_grid(sweep, 80).notes if "AutoAttack" in n] == [note]
    assert f"{note}." in sweep.to_latex()
    strong = property(lambda self: self.models if self.threat.eps < 0.2 else ("one",))
    monkeypatch.setattr(AuditResult, "strongly_attacked", strong)
    assert [n for n in radii_grid(sweep, 80).notes if "AutoAttack" in n] == [f"Linf:0.3: {note} on two"]


def test_models_with_other_examples_are_left_out_of_the_comparison():
    made = make_result(CLASSES, models=("one", "two", "three"))
    outcomes = made.outcomes[(made.outcomes["model"] != "one") | (made.outcomes["example"] > 3)]
    other = AuditResult(outcomes, made.manifest)
    compared = comparisons(other)
    assert compared.reason
    assert set(compared.models) in ({"two", "three"}, set())
    assert all({pair.first, pair.second} <= set(compared.models) for pair in pairs(other))
    assert compared.reason.partition(":")[0] in render(other).replace("&#39;", "'")


def test_one_model_is_compared_with_nothing():
    made = make_result(CLASSES, models=("only",))
    assert (comparisons(made).models, comparisons(made).verdict, pairs(made)) == ((), "", ())
    assert np.isfinite(report_data(made).models[0].robust.low)


@pytest.mark.parametrize("n", [1, 2])
def test_an_audit_of_one_example_per_class_is_shown(n, capsys):
    """As of ImageNet's first images: nothing is known of the worst class, but of the mean over classes."""
    made = make_result([f"c{k}" for k in range(40)], models=("one", "two", "three"), n=n)
    print_tables(made)
    assert {"one", "two", "three"} <= set(capsys.readouterr().out.split())
    assert set(comparisons(made).models) == {"one", "two", "three"}
    for text in (render(made), made._repr_html_()):
        assert ">nan" not in text
    worst = made.compare_with_best(measure="worst")
    assert (worst["all_ranks_low"] == 1).all()
    assert (worst["all_ranks_high"] == 3).all()


def test_the_worst_group_is_named_where_single_classes_are_too_small():
    """Of 12 examples of each class of CIFAR-100, one superclass withstands little, the others most."""
    names = [
        "ray",
        "shark",
        "trout",
        "flatfish",
        "aquarium_fish",
        "beaver",
        "dolphin",
        "otter",
        "seal",
        "whale",
        "bear",
        "leopard",
        "lion",
        "tiger",
        "wolf",
    ]
    groups = class_groups("cifar100", names)
    made = make_result([*names, "boy"], models=("net",), n=12)  # no boys
    of = np.array([groups[k] for k in made.outcomes["label"]])
    rng = np.random.default_rng(0)

    def audit(weak, dataset="cifar100"):
        withstood = rng.random(len(of)) < np.where(of == weak, 0.2, 0.8)
        outcomes = made.outcomes.assign(withstood=withstood)
        examples = made.manifest.examples.model_copy(update={"dataset": dataset})
        manifest = made.manifest.model_copy(update={"classes": (*names, "boy"), "examples": examples})
        return AuditResult(outcomes, manifest)

    result = audit("fish")
    name, estimate = report_data(result).models[0].worst_group
    assert name == "fish"
    assert (estimate.low, estimate.high) == tuple(result.worst_group("net", "cifar100")[["low", "high"]])
    assert 0.05 < estimate.value < 0.35
    assert "of the group <em>fish</em>" in render(result)
    for other in (audit(None), audit("fish", "mine")):  # by chance alone; of other data
        assert report_data(other).models[0].worst_group is None
        assert "of the group" not in render(other)
