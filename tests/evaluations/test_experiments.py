"""The papers' experiments: what they compute beside what they run, and what each writes at its smallest size."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import art_classwise as acw
from art_classwise.datasets import DATASETS

SCRIPTS = ("diagnosis", "weight_norms", "attack_strength", "temperature_pgd", "consistency")


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """The trainings that the scripts share."""
    return tmp_path_factory.mktemp("trainings")


@pytest.fixture
def frame(evaluation):
    evaluation("machine"), evaluation("setups")
    return evaluation("experiment")


def claim(frame, value, low, high, **options):
    return frame.Claim("claim", "data", "statistic", value, low, high, "n = 9", **{"least": 5.0, **options})


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (8, 1, 15, "seen"),  # above nothing, and as large as the claim speaks of
        (4, 1, 7, "unclear"),  # surely something, but whether enough?
        (8, -1, 17, "unclear"),  # may be nothing
        (2, -1, 4, "not seen"),  # whatever it is, it's too small
        (4, 3, 4.9, "not seen"),
        (-8, -12, -4, "not seen"),
        (8, np.nan, np.nan, "unclear"),  # one value tells of no spread
        (np.nan, np.nan, np.nan, "unclear"),
    ],
)
def test_a_verdict_takes_size_and_chance_into_account(frame, value, low, high, verdict):
    one = claim(frame, value, low, high)
    assert one.verdict == verdict
    assert one.row()["verdict"] == verdict


def test_claims_of_rows_that_were_kept_keep_the_command_that_measured_them(frame):
    """With --keep, claims are made of all rows: told is the command of now where numbers are new, or the claim is."""
    header = "claim,data,value,low,high,n,p,hardware,versions,command"
    stored = "\n".join([header, "a,digits,1,0,2,n = 9,0.2,cpu,1,old", "b,digits,1,0,2,n = 9,0.2,cpu,1,old", ""])
    rows = [
        "a,digits,1,0,2,n = 9,0.3,gpu,2,new",
        "b,digits,1,0,3,n = 9,0.3,gpu,2,new",
        "c,digits,1,0,2,n = 9,,gpu,2,new",
    ]
    claims, _ = frame._with_origins("\n".join([header, *rows, ""]), stored)
    assert claims.splitlines()[1:] == ["a,digits,1,0,2,n = 9,0.3,cpu,1,old", *rows[1:]]


@pytest.mark.parametrize(
    ("interval", "p", "verdict"),
    [
        ((8, 1, 15), 0.049, "seen"),
        ((8, 1, 15), 0.05, "unclear"),  # one of dozens of intervals, some of which exclude nothing by chance
        ((8, 1, 15), 1.0, "unclear"),
        ((-8, -12, -4), 0.9, "not seen"),  # that it isn't so large needs no allowance
        ((4, 1, 7), 0.001, "unclear"),
    ],
)
def test_of_several_claims_one_is_seen_if_it_stays_after_adjustment(frame, interval, p, verdict):
    one = claim(frame, *interval, p=p)
    assert (one.verdict, one.row()["p"]) == (verdict, p)


def test_a_claim_is_shown_with_its_interval(frame):
    assert claim(frame, 8.04, 1, 15).shown == "8.0 (1.0 to 15.0) points"
    assert claim(frame, 0.512, 0.1, 1, unit="").shown == "0.51 (0.10 to 1.00)"
    assert claim(frame, 8, np.nan, np.nan).shown == "8.0 points"


def test_intervals_over_seeds_are_students_and_stay_within_what_can_be(frame):
    values = [0.3, 0.5, 0.45]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert frame.over_seeds(values) == pytest.approx((np.mean(values), expected.low, expected.high))
    assert frame.over_seeds([0.2, 0.9], within=(0, 1))[1:] == (0, 1)
    assert np.isnan(frame.over_seeds([0.4])[1:]).all()


def test_one_seeds_interval_is_that_of_its_examples(frame):
    """A mean over two classes: its bootstrap has the standard error of the sum of binomials."""
    rng = np.random.default_rng(0)
    y, right = np.repeat([0, 1], 400), rng.random(800) < 0.3
    value, low, high = frame.estimated([lambda rows: right[rows].mean()], [y])
    error = np.sqrt(np.mean([p * (1 - p) / 800 for p in (right[:400].mean(), right[400:].mean())]))
    assert value == right.mean()
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.15)
    two = frame.estimated([lambda rows: float(len(rows)), lambda rows: 3.0], [np.zeros(1), np.zeros(4)])
    assert two == pytest.approx(frame.over_seeds([1.0, 3.0]))


def test_seeds_and_examples_are_both_in_the_interval(frame):
    """Networks that are right half of the time over seeds and examples; over seeds alone it is often left out."""
    rng, y, inside, alone = np.random.default_rng(0), np.repeat(np.arange(4), 50), [], []
    for _ in range(40):
        hard = rng.standard_normal(200)
        rights = [hard + 0.1 * rng.standard_normal() + 0.3 * rng.standard_normal(200) > 0 for _ in range(3)]
        statistics = [lambda rows, right=right: float(right[rows].mean()) for right in rights]
        _, low, high = frame.estimated(statistics, [y] * 3, repeats=40)
        inside.append(low <= 0.5 <= high)
        _, low, high = frame.over_seeds([r.mean() for r in rights])
        alone.append(low <= 0.5 <= high)
    assert np.mean(inside) > 0.95 - 3.5 * np.sqrt(0.05 * 0.95 / 40)
    assert np.mean(alone) < np.mean(inside)


def test_p_is_the_error_at_which_the_interval_ends_at_zero(frame):
    """Over seeds alone it is Student's, over examples alone the t of their variance; both are crossed between."""
    values = [0.3, 0.5, 0.1]
    assert frame.p_over_both(values, 0, 199) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert frame.p_over_both([0.3], 0.02, 199) == pytest.approx(2 * stats.t.sf(0.3 / np.sqrt(0.02), 199))
    for variance in (0.001, 0.005, 0.01, 0.02, 0.05):
        _, low, high = frame.over_both(values, variance, 199)
        assert (frame.p_over_both(values, variance, 199) < 0.05) == (low > 0 or high < 0)
    assert np.isnan(frame.p_over_both([0.2, 0.2], 0, 199))


def test_the_gap_isnt_widened_by_choosing(evaluation):
    """Ten equal classes have a gap between the largest and the smallest accuracy; held out there is none."""
    script, rng = evaluation("diagnosis"), np.random.default_rng(0)
    y = np.repeat(np.arange(10), 60)
    plain, held_out = [], []
    for _ in range(60):
        right = rng.random(600) < 0.5
        by_class = right.reshape(10, 60).mean(1)
        plain.append(np.ptp(by_class))
        held_out.append(script.held_out_gap(y, right, 20))
    assert np.mean(plain) > 0.15
    assert abs(np.mean(held_out)) < 3 * np.std(held_out) / np.sqrt(60) + 0.005
    right = np.r_[rng.random(1000) < 0.9, rng.random(1000) < 0.2, rng.random(1000) < 0.5]
    apart = right[:1000].mean() - right[1000:2000].mean()
    assert script.held_out_gap(np.repeat([4, 7, 8], 1000), right) == pytest.approx(apart, abs=0.003)
    assert np.isnan(script.held_out_gap(np.arange(3), np.ones(3, bool)))


def test_the_weakest_thirds_part_is_held_out(evaluation):
    script, rng = evaluation("attack_strength"), np.random.default_rng(0)
    y = np.repeat(np.arange(6), 200)
    weak = rng.random(1200) < np.repeat([0.2, 0.3, 0.8, 0.85, 0.9, 0.95], 200)
    only_weak = weak & ~(y < 2)  # the two weakest lose all they have
    found = script.falls(y, weak, only_weak)
    assert found["share of the weakest third"] == 1
    assert found["third"] == pytest.approx(2 / 6)
    assert found["correlation"] < -0.5
    # Each class loses a tenth of its examples: a third of the losses, and no correlation.
    strong = weak & (np.arange(1200) % 200 >= 20)
    weak[np.arange(1200) % 200 < 20] = True
    even = script.falls(y, weak, strong)
    assert even["share of the weakest third"] == pytest.approx(1 / 3, abs=0.03)
    assert abs(even["correlation"]) < 0.3
    assert np.isnan(script.falls(y, weak, weak)["share of the weakest third"])


def test_a_split_is_the_metrics_own(evaluation, monkeypatch):
    """One split, of which nothing is left to chance: two examples of each class, both alike."""
    script = evaluation("attack_strength")
    y = np.repeat(np.arange(3), 2)
    weak, strong = np.repeat([True, True, False], 2), np.repeat([True, False, False], 2)
    monkeypatch.setattr(script, "SPLITS", 1)
    table = acw.metrics.attack_strength(y, weak, strong, 3, split_seed=0)
    assert script.falls(y, weak, strong)["share of the weakest third"] == table["share"].iloc[0]


def test_the_best_temperature_is_measured_where_it_wasnt_chosen(evaluation):
    script, rng = evaluation("temperature_pgd"), np.random.default_rng(0)
    y, plain = np.repeat(np.arange(10), 20), np.zeros(200, bool)
    chance = [script.gain(y, plain, rng.random((200, 4)) < 0.3) for _ in range(100)]
    assert np.mean(chance) == pytest.approx(0.3, abs=0.01)  # the maximum of four is above it
    better = np.zeros((200, 4), bool)
    better[::2, 2] = True
    assert script.gain(y, plain, better) == pytest.approx(0.5, abs=0.15)


def test_a_confident_network_has_no_gradient_without_the_guard(evaluation):
    """Logits 20 apart, times 50: the other classes' probabilities are below float32's smallest number."""
    script = evaluation("temperature_pgd")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 3))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[20.0, 0.0], [0.0, 20.0], [0.0, 0.0]]))
        network[1].bias.zero_()
    x = np.array([[1, 0], [0, 1], [0.51, 0.5], [0, 1]], np.float32).reshape(4, 1, 1, 2)
    data = acw.Dataset(x, np.array([0, 1, 0, 0]), ("a", "b", "c"))  # the last one is wrong, and isn't counted
    classifier = acw.as_classifier(network, (1, 1, 2), 3, device="cpu")
    sharp = 50.0
    without = script.zero_gradients(classifier, data, lambda z, t: script.unguarded(z, t, sharp))
    guarded = script.zero_gradients(classifier, data, lambda z, t: acw.losses.soft_margin(z, t, sharp))
    assert (without, guarded) == (pytest.approx(2 / 3), 0)


def test_stand_ins_have_the_shape_of_what_they_stand_for(frame, evaluation):
    data_of, setups = evaluation("data"), evaluation("setups")
    for dataset, spec in DATASETS.items():
        if dataset == "digits":  # at hand everywhere
            continue
        data = data_of.stand_in(dataset, "test", 12, image_size=32 if dataset == "imagenet" else None)
        assert data.name == f"synthetic stand-in for {dataset}"
        assert (data.x.shape[1:], len(data.classes)) == (
            (3, 32, 32) if dataset == "imagenet" else spec.shape,
            spec.n_classes,
        )
    assert set(setups.SIZES["full"]) == {"mnist", "cifar10", "cifar100", "svhn", "stl10", "imagenet"}


def test_networks_have_the_weights_they_say(evaluation):
    setups = evaluation("setups")
    for make, shape in ((setups.few_channels, (2, 1, 28, 28)), (setups.cnn_a, (2, 3, 32, 32))):
        network = make()
        assert f"{sum(p.numel() for p in network.parameters()):,} weights" in make.__doc__
        assert network(torch.zeros(shape)).shape == (2, 10)
    before = torch.get_rng_state()
    one, other = (setups.network("cnn-a", seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, one.parameters(), other.parameters()))


def run(evaluation, script, store, out, *options):
    evaluation(script).main(["--size", "tiny", "--store", str(store), "--out", str(out), *options])
    return {path.stem.removeprefix(f"{script}_tiny").lstrip("_"): pd.read_csv(path) for path in out.glob("*.csv")}


def check(tables, script, out):
    """What holds for each experiment: where it ran, shares within [0, 1], verdicts, a figure."""
    for table in tables.values():
        assert len(table)
        assert table["command"].str.match(rf"python evaluations/(claims|zoo)/{script}\.py --size tiny").all()
        assert table[["hardware", "versions"]].notna().all(axis=None)
        shares = table.filter(regex="^(clean|robust|worst$|held_out|attack rate|zero gradients)").select_dtypes(
            "number"
        )
        values = shares.to_numpy()[shares.notna()]
        assert ((values >= 0) & (values <= 1)).all()
    claims = tables["claims"]
    assert set(claims["verdict"]) <= {"seen", "not seen", "unclear"}
    assert claims["n"].str.contains("n = ").all()
    assert (claims["low"].isna() | (claims["low"] <= claims["value"] + 1e-4)).all()
    figures = [*out.glob(f"{script}_tiny*.svg")]
    assert figures
    assert all(figure.read_text().count("<svg") == 1 for figure in figures)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_each_experiment_runs_and_writes(evaluation, store, tmp_path, capsys, script):
    tables = run(evaluation, script, store, tmp_path, "--datasets", "digits", "--seeds", "2")
    check(tables, script, tmp_path)
    printed = capsys.readouterr().out
    assert all(claim in printed for claim in tables["claims"]["claim"])
    main = tables[""]
    if script == "diagnosis":
        assert len(main) == 2 * 2 * 10  # networks, seeds, classes
        assert set(tables["epochs"]["epoch"]) == {1, 2}
        assert len(tables["epochs"]) == 2 * 2 * 2 * 10
    elif script == "weight_norms":
        assert len(main) == 2 * 4 * 3  # seeds, trainings, correlations
        assert set(tables["repair"]["head"]) == {"tau 0", "tau 0.5", "tau 1"}
        norms = tables["classes"].query("network == 'natural' and seed == 0")["norm"]
        assert len(norms) == 10
        assert (norms > 0).all()
    elif script == "attack_strength":
        assert len(main) == 2 * 3 * 2  # seeds, trainings, stronger attacks
        classes = tables["classes"]
        np.testing.assert_allclose(classes["drop"], classes["weak"] - classes["strong"], atol=1e-4)
    elif script == "temperature_pgd":
        assert set(main["1/T"].dropna()) == {0.5, 1, 2, 5, 10, 50, np.inf}
        assert set(main["attack"]) == {
            "pgd-20",
            "margin-20",
            "autoattack",
            *(f"tpgd{t}-20" for t in (0.5, 2, 5, 10, 50)),
        }
        assert len(tables["guard"]) == 2 * 4
    else:
        assert len(main) == 2 * (3 * 1 + 3 + 3)  # pairs of attacks on each network, of networks, and the control


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["mnist", "cifar10", "cifar100", "svhn", "stl10", "imagenet"])
def test_the_commands_for_absent_data_sets_are_ready(evaluation, tmp_path, dataset):
    options = ("--stand-in", "--datasets", dataset, "--seeds", "1")
    tables = run(evaluation, "diagnosis", tmp_path / "store", tmp_path / "out", *options)
    check(tables, "diagnosis", tmp_path / "out")
    assert "--stand-in" in tables[""]["command"].iloc[0]
    assert tables["claims"]["data"].str.startswith(f"synthetic stand-in for {dataset}").all()


def test_a_trained_network_is_read_not_trained_again(evaluation, store, monkeypatch, tmp_path):
    setups = evaluation("setups")
    setup = setups.SIZES["tiny"]["digits"]
    first = setups.Trainings(setup, None, store / "tiny")
    weights = first.trained("standard", 0).model.state_dict()
    monkeypatch.setattr(acw.AdversarialTrainerStandardPyTorch, "fit", None)
    again = setups.Trainings(setup, None, store / "tiny").trained("standard", 0)
    assert not again.model.training
    assert all(torch.equal(v, weights[k]) for k, v in again.model.state_dict().items())
    held = store / "tiny" / "digits" / "size.json"
    assert json.loads(held.read_text())["epochs"] == setup.epochs
    with pytest.raises(SystemExit, match="holds trainings of another size: choose another --store"):
        setups.check_size(held.parent, {"epochs": 3})


def test_what_is_wrong_on_the_command_line_is_said(evaluation, tmp_path, capsys):
    script = evaluation("diagnosis")
    where = ("--store", str(tmp_path), "--out", str(tmp_path))
    with pytest.raises(
        SystemExit, match="at --size quick there are digits, mnist, cifar10, cifar100, svhn, stl10, but not imagenet"
    ):
        script.main(["--datasets", "imagenet", *where])
    with pytest.raises(SystemExit, match="mnist .train. is not in"):
        script.main(["--size", "tiny", "--datasets", "mnist", "--root", str(tmp_path), *where])
    for wrong, said in (("--seeds=0", "must be a whole number above 0, but is '0'"), ("--size=big", "invalid choice")):
        with pytest.raises(SystemExit):
            script.main([wrong])
        assert said in capsys.readouterr().err


@pytest.fixture
def summary(evaluation, frame, tmp_path):
    script = evaluation("summary")
    results = tmp_path / "results"
    for name, size in product(("consistency", "diagnosis"), ("quick", "full")):
        (results / name).mkdir(parents=True, exist_ok=True)
        rows = [claim(frame, 8, 1, 15, published="40|50" if size == "full" else "").row()]
        rows += [claim(frame, -8, -9, -7).row()] if size == "quick" else []
        told = {"hardware": "2 cores", "versions": "Python", "command": f"python evaluations/{name}.py --size {size}"}
        pd.DataFrame(rows).assign(**told).to_csv(results / name / f"{name}_{size}_claims.csv", index=False)
    (results / "diagnosis" / "README.md").write_text(f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n")
    readme = tmp_path / "README.md"
    readme.write_text(
        f"before\n{script.OVERVIEW}\nold\n{script.OVERVIEW_END}\n{script.BY_DATA}\n{script.BY_DATA_END}\nafter\n"
    )
    return script, results, readme


def test_an_experiments_table_is_written_into_its_page(summary):
    script, results, readme = summary
    page = results / "diagnosis" / "README.md"
    script.main(["--results", str(results), "--readme", str(readme)])
    text = page.read_text()
    assert text.startswith(f"before\n{script.BEGIN}\n\n### Full size")
    assert text.endswith(f"{script.END}\nafter\n")
    assert "old" not in text
    assert [line for line in text.splitlines() if line.startswith("### ")] == ["### Full size", "### Quick size"]
    assert "[diagnosis_quick_claims.csv](diagnosis_quick_claims.csv)" in text
    assert "| claim | data; n = 9 | statistic | 8.0 (1.0 to 15.0) points | 40\\|50 | **seen** |" in text
    script.main(["--results", str(results), "--readme", str(readme)])
    assert page.read_text() == text
    assert (results / "consistency" / "README.md").read_text().startswith("# Are the same classes weak")
    assert not (results / "weight_norms").exists()
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="must hold the lines"):
        script.main(["--results", str(results), "--readme", str(readme)])


def test_the_overview_has_a_row_per_experiment(summary):
    script, results, readme = summary
    script.main(["--results", str(results), "--readme", str(readme)])
    text = readme.read_text()
    assert text.startswith(f"before\n{script.OVERVIEW}\n\n| experiment")
    assert text.endswith(f"{script.BY_DATA_END}\nafter\n")
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert [row.split("]")[0][3:] for row in rows] == [experiment.name for experiment in script.EXPERIMENTS]
    assert rows[0].startswith("| [diagnosis](results/diagnosis/README.md) | Does robust accuracy differ")
    assert rows[0].endswith("| data | 9 | 2 seen, 1 not seen | `python evaluations/diagnosis.py --size full` |")
    assert "| not run |" in rows[2]
    readme.write_text("nothing")
    with pytest.raises(SystemExit, match="must hold the lines"):
        script.main(["--results", str(results), "--readme", str(readme)])


def test_the_stored_pages_are_what_the_stored_claims_say(evaluation, tmp_path):
    """And every experiment has a page: nothing that was measured is without its conditions."""
    script = evaluation("summary")
    copy = tmp_path / "evaluations"
    shutil.copytree(script.HERE, copy, ignore=shutil.ignore_patterns("*.svg", "__pycache__"))
    for svg in script.HERE.glob("results/*/*.svg"):
        (copy / svg.relative_to(script.HERE)).touch()
    script.main(["--results", str(copy / "results"), "--readme", str(copy / "README.md")])
    pages = [Path("README.md"), *(Path("results", e.name, "README.md") for e in script.EXPERIMENTS)]
    assert [(copy / page).read_text() for page in pages] == [(script.HERE / page).read_text() for page in pages]


def test_an_experiment_that_fails_is_named_and_the_others_run(summary, monkeypatch, capsys):
    script, results, readme = summary
    ran = []

    def run(command):
        ran.append(command[1:])
        name = Path(command[1]).stem
        return type("Done", (), {"returncode": {"weight_norms": 1, "mart_cifar10": 3}.get(name, 0)})

    monkeypatch.setattr(script.subprocess, "run", run)
    options = ("--run", "--root", "data", "--results", str(results), "--readme", str(readme))
    with pytest.raises(SystemExit, match="these experiments failed, see above: weight_norms$"):
        script.main(options)
    assert [Path(command[0]).stem for command in ran] == list(script.RUN)
    for command in ran:
        out = results / Path(command[0]).stem
        assert command[1:] == ["--size", "quick", "--root", "data", "--out", str(out)]
    assert all((script.HERE / experiment.script).is_file() for experiment in script.EXPERIMENTS)
    assert "networks are missing (see above): mart_cifar10" in capsys.readouterr().out
    assert "before" in readme.read_text()
