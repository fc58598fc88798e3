"""Published networks: as their folder describes them, and what is computed of their audits."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional

import art_classwise as acw

LAYERS = [["norm", [0.5], [0.25]], ["flat"], ["lin", 64, 32], ["relu"], ["lin", 32, 10]]
FAMILY = {"digits_adv": "adversarially", "digits_cert": "provably (IBP)", "digits_nat": "naturally: a control"}


@pytest.fixture
def published_script(evaluation):
    return evaluation("published")


@pytest.fixture
def script(evaluation):
    for name in ("machine", "setups", "experiment", "published", "published_claims"):
        evaluation(name)
    return evaluation("published_networks")


@pytest.fixture
def claims(evaluation):
    evaluation("published")
    return evaluation("published_claims")


def described(folder, networks):
    (folder / "published").mkdir(parents=True, exist_ok=True)
    (folder / "published" / "nets.json").write_text(networks if isinstance(networks, str) else json.dumps(networks))


def network(**more):
    return {"spec": LAYERS, "data": "digits", "eps": "0.1", "train": "naturally", "src": "here", **more}


@pytest.fixture
def checkpoints(published_script, tmp_path):
    """Three networks for the digits, trained a little; their standardisation isn't among their weights."""
    digits = acw.load_dataset("digits", split="train")
    x, y = torch.from_numpy(np.asarray(digits.x)), torch.from_numpy(np.asarray(digits.y))
    folder = tmp_path / "checkpoints"
    described(folder, {name: network(train=train) for name, train in FAMILY.items()})
    for seed, name in enumerate(FAMILY):
        torch.manual_seed(seed)
        module = published_script.from_layers(LAYERS)
        optimizer = torch.optim.Adam(module.parameters(), 1e-2)
        for _ in range(30):
            optimizer.zero_grad()
            functional.cross_entropy(module(x), y).backward()
            optimizer.step()
        weights = {key: value for key, value in module.state_dict().items() if not key.startswith("0.")}
        torch.save(weights, folder / "published" / f"{name}.pt")
    return folder


def test_layers_compute_what_torchs_functions_do(published_script):
    layers = [["norm", [0.1, 0.2], [0.5, 2.0]], ["conv", 2, 4, 3, 1, 1, False], ["bn", 4], ["relu"]]
    layers += [["res", [["conv", 4, 4, 3, 1, 1]], [["conv", 4, 4, 1, 1, 0]]], ["max", 2], ["sigmoid"]]
    layers += [["res", [["conv", 4, 4, 3, 1, 1]], []], ["avg"], ["flat"], ["lin", 4, 3]]
    torch.manual_seed(0)
    module = published_script.from_layers(layers).eval()
    of = [v for k, v in module.state_dict().items() if not k.startswith("0.")]
    x = torch.rand(5, 2, 8, 8)
    h = (x - torch.tensor([0.1, 0.2])[:, None, None]) / torch.tensor([0.5, 2.0])[:, None, None]
    h = functional.conv2d(h, of[0], None, 1, 1)
    h = functional.batch_norm(h, of[3], of[4], of[1], of[2]).relu()
    h = functional.conv2d(h, of[6], of[7], 1, 1) + functional.conv2d(h, of[8], of[9])
    h = torch.sigmoid(functional.max_pool2d(h, 2))
    h = h + functional.conv2d(h, of[10], of[11], 1, 1)
    torch.testing.assert_close(module(x), functional.linear(h.mean((2, 3)), of[12], of[13]))


def test_what_is_no_layer_is_refused(published_script):
    good = ("norm", "conv", "bn", "lin", "relu", "sigmoid", "max", "avg", "flat", "res")
    values = (None, "x", -1, 1.5, [], [[]], {}, [["lin"]], [[-1]])
    wrong = [[kind, *two] for kind in good for two in product(values, repeat=2)]
    wrong += [None, {}, "relu", [], [[]], ["softmax"], [None], ["lin", 64], ["relu", True], ["bn", 4, 1e-5], ["avg", 3]]
    for layer in wrong:
        if layer in (["res", [], []], ["norm", [], []]):
            continue  # two identities; no channels
        with pytest.raises(acw.InputError, match="(?i)layer"):
            published_script.from_layers([layer])


def test_a_folder_describes_its_networks(published_script, checkpoints):
    found = published_script.catalog(checkpoints)
    assert list(found)[: len(published_script.NETWORKS)] == list(published_script.NETWORKS)
    assert [found[name.replace("_", "-")].family for name in FAMILY] == ["adversarial", "certified", "natural"]
    assert found["digits-cert"].threat == "Linf:0.1"
    assert published_script.catalog(checkpoints / "elsewhere") == published_script.NETWORKS
    classifier = published_script.load_published("digits-nat", checkpoints, device="cpu")
    test = acw.load_dataset("digits", split="test")
    assert (classifier.predict(test.x).argmax(1) == test.y).mean() > 0.8


@pytest.mark.parametrize(
    ("networks", "said"),
    [
        ("{", "must describe each network"),
        ([], "must describe each network"),
        ({"net": []}, "must describe each network"),
        ({"net": {"spec": []}}, "must describe each network.*KeyError: 'train'"),
        ({"net": network(train="somehow")}, "train must begin with adversarially, provably, naturally"),
        ({"net": network(data="moons")}, "data be one of"),
        ({"net": network(spec=3)}, "must describe each network"),
        ({"net": network(train=None)}, "must describe each network"),
        ({"net": network(eps="wide")}, "wide"),
        ({"cifar10_cnn_a": network()}, "describes cifar10-cnn-a, which are known already"),
    ],
)
def test_a_description_that_is_wrong_is_refused(published_script, tmp_path, networks, said):
    described(tmp_path, networks)
    with pytest.raises(acw.InputError, match=said):
        published_script.catalog(tmp_path)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (LAYERS[:-1], "The weights of net don't fit its layers: they are 4 tensors, where 2 are needed"),
        ([*LAYERS[:-1], ["lin", 32, 11]], "(?s)The weights of net don't fit its layers:.*size mismatch"),
        ([*LAYERS, ["lin", 10, "x"]], "The layer .* can't be made"),
    ],
)
def test_weights_of_another_network_are_refused(published_script, checkpoints, layers, said):
    described(checkpoints, {"net": network(spec=layers)})
    (checkpoints / "published" / "digits_nat.pt").rename(checkpoints / "published" / "net.pt")
    with pytest.raises(acw.InputError, match=said):
        published_script.load_published("net", checkpoints)


def test_the_builder_agrees_with_the_networks_own(published_script, shared):
    folder = shared / "checkpoints" / "published"
    if not (folder / "load.py").is_file():
        pytest.skip(f"needs {folder}")
    spec = importlib.util.spec_from_file_location("load", folder / "load.py")
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    known = published_script.catalog(shared / "checkpoints")
    described_ = {name for name, network in known.items() if network.layers}
    assert len(described_) == 16
    for name in described_:
        classifier = published_script.load_published(name, shared / "checkpoints", device="cpu")
        x = torch.rand(2, *classifier.input_shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.equal(classifier.model(x), theirs.load(name.replace("-", "_"), folder)(x)), name


@pytest.mark.slow
@pytest.mark.parametrize(("name", "percent"), [("cifar100-resnet20-at8", 61.94), ("cifar100-resnet20-nat", 67.31)])
def test_networks_reach_what_their_authors_print(published_script, shared, tmp_path, name, percent):
    unpack = shared / "data" / "unpack_more.py"
    if not (unpack.is_file() and name in published_script.catalog(shared / "checkpoints")):
        pytest.skip(f"needs {unpack} and the published networks")
    subprocess.run([sys.executable, unpack, tmp_path, "cifar100_test"], check=True, capture_output=True)
    data = acw.load_dataset(tmp_path / "cifar100_test.npz", "test")
    classifier = published_script.load_published(name, shared / "checkpoints")
    right = classifier.predict(np.asarray(data.x), batch_size=500).argmax(1) == data.y
    assert 100 * right.mean() == pytest.approx(percent, abs=0.011)  # a tie that another processor decides otherwise


def test_networks_are_audited_at_both_radii(script):
    def entry(dataset, threat, family):
        return script.Published(dataset, threat, family)

    known = {
        "small": entry("cifar10", "Linf:2/255", "adversarial"),
        "large": entry("cifar10", "Linf:8/255", "certified"),
        "natural": entry("cifar10", "Linf:8/255", "natural"),
        "cifar10-resnet20-at8": entry("cifar10", "Linf:8/255", "adversarial"),
        "other": entry("digits", "Linf:0.1", "natural"),
    }
    found = [(e.name, e.threat, e.n, e.is_main) for e in script.entries(known, "quick", 500, 100)]
    assert found == [
        ("small", "Linf:2/255", 500, True),
        ("large", "Linf:2/255", 500, False),
        ("large", "Linf:8/255", 500, True),
        ("natural", "Linf:2/255", 500, True),
        ("cifar10-resnet20-at8", "Linf:2/255", 100, False),
        ("cifar10-resnet20-at8", "Linf:8/255", 100, True),
        ("other", "Linf:0.1", 500, True),
    ]
    assert {e.n for e in script.entries(known, "full")} == {None}
    assert {e.n for e in script.entries(known, "tiny", 1000)} == {40}


def test_networks_that_take_long_are_known(script, shared):
    known = script.catalog(shared / "checkpoints")
    if len(known) < 20:
        pytest.skip("needs the published networks")
    assert set(script.LARGE) <= known.keys()


@pytest.mark.slow
def test_a_run_in_small(script, checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["lib.published_claims"], "REPEATS", 10)
    monkeypatch.setattr(sys.modules["lib.published_claims"], "PARTS", 2)
    out = tmp_path / "out"
    options = [
        "--size",
        "tiny",
        "--checkpoints",
        str(checkpoints),
        "--store",
        str(tmp_path / "store"),
        "--out",
        str(out),
    ]
    names = ("digits-adv", "digits-cert", "digits-nat", "mnist-lenet5-natural")
    script.main([*options, "--root", str(tmp_path), "--networks", *names])
    assert "left out: mnist-lenet5-natural" in capsys.readouterr().err
    read = {
        end: pd.read_csv(out / f"published_networks_tiny{end}.csv") for end in ("", "_classes", "_networks", "_claims")
    }
    board = read[""]
    assert sorted(board["model"]) == ["digits-adv", "digits-cert", "digits-nat"]
    assert board["rank by worst class"].is_monotonic_increasing
    assert (board["held_out"] <= board["mean"] + 1e-9).all()
    assert (board["mean"] <= board[[c for c in board if c.startswith("mean, ")]].min(axis=1) + 1e-4).all()
    assert board["command"].str.startswith("python evaluations/zoo/published_networks.py --size tiny").all()
    assert len(read["_classes"]) == 3 * 5 * 10  # networks, attacks and all of them, classes
    measured, told = read["_networks"], read["_claims"]
    assert set(measured["claim"].str[0]) == set("02345")
    assert len(measured) == 3 * 7
    assert set(told["verdict"]) <= {"seen", "not seen", "unclear"}
    assert (out / "published_networks_tiny.svg").read_text().count("<svg") == 1
    monkeypatch.setattr(acw.PGD, "generate", None)  # what is in the store isn't computed again
    script.main([*options, "--networks", names[0]])
    (tmp_path / "store" / "tiny" / "published").rename(tmp_path / "elsewhere")
    with pytest.raises(SystemExit, match="^3$"):
        script.main([*options, "--finished", "--networks", names[0]])


def test_of_stored_audits_the_one_with_most_attacks_and_images_is_taken(script, tmp_path):
    """Also of one that was stopped, what is finished; of a network whose name only begins alike, nothing."""
    data = acw.load_dataset("digits", "test")
    net = acw.as_classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (1, 8, 8), 10)

    def audit(name, attacks, n):
        made = acw.ClassWiseAudit("Linf:0.1", attacks, store=tmp_path / name, checks=False, verbose=False)
        return made.evaluate({"net": net}, data.take(np.arange(n)))

    audit("net-Linf-0.1-30", ["fgsm", "pgd-2"], 30)
    audit("net-Linf-0.1-60", ["fgsm"], 60)
    assert script.stored(tmp_path, "net-Linf-0.1").attacks == ("fgsm", "pgd-2")
    stopped = audit("net-Linf-0.1-700", ["fgsm", "pgd-2"], 700)
    audit("net-Linf-0.1-2-90", ["fgsm", "pgd-2"], 90)
    (tmp_path / "net-Linf-0.1-99").mkdir()
    (last,) = (tmp_path / "net-Linf-0.1-700" / "outcomes").glob("*/attack=pgd-2/*-00001-*")
    last.unlink()
    assert len(script.stored(tmp_path, "net-Linf-0.1").rows("net")) == stopped.manifest.shard_size
    with pytest.raises(acw.InputError, match="No audit of it lies in"):
        script.stored(tmp_path, "other")


def test_what_is_wrong_is_said(script, checkpoints, tmp_path, capsys):
    where = [f"--{name}={tmp_path / 'none'}" for name in ("root", "model-dir", "store", "out")]
    with pytest.raises(SystemExit, match="there is no network nonsense, only cifar10-cnn-a, "):
        script.main(["--networks", "nonsense", *where])
    with pytest.raises(SystemExit, match="^3$"):
        script.main(["--size", "tiny", f"--checkpoints={tmp_path}", *where])
    assert "error: no network is available: give --checkpoints or --model-dir" in capsys.readouterr().err
    described(checkpoints, "{")
    with pytest.raises(SystemExit, match="must describe each network"):
        script.main(["--size", "tiny", f"--checkpoints={checkpoints}", *where])


def test_the_zoo_is_what_lies_in_the_folder(script, tmp_path):
    assert script.zoo(str(tmp_path), "cifar10") == {}
    (file,) = acw.zoo.robustbench_files("Wong2020Fast", model_dir=tmp_path)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    found = script.zoo(str(tmp_path), "cifar10")
    assert set(found) == {"Wong2020Fast"}
    assert found["Wong2020Fast"].args == ("Wong2020Fast", "cifar10", "Linf", str(tmp_path))


def of_table(name, label, outcomes, classes, *, examples=None, clean=None, dataset="digits", **more):
    """A network's audit: whether each example withstood each attack."""
    parts = []
    for attack, withstood in outcomes.items():
        first = label if clean is None else np.where(clean, label, (label + 1) % len(classes))
        columns = {"example": np.arange(len(label)) if examples is None else examples, "label": label}
        columns |= {"clean_prediction": first, "prediction": np.where(withstood, label, (label + 1) % len(classes))}
        margin = np.where(withstood, 1.0, -1.0)
        parts.append(
            pd.DataFrame({"model": name, "attack": attack, **columns, "withstood": withstood, "margin": margin})
        )
    table = pd.concat(parts, ignore_index=True).astype({"model": "category", "attack": "category"})
    manifest = acw.audit.Manifest.of_table(table, classes, acw.ThreatModel.parse("Linf:0.1"))
    examples = manifest.examples.model_copy(update={"dataset": dataset, "n": len(label)})
    return acw.AuditResult(table, manifest.updated(examples=examples))


def test_networks_are_ranked_anew_by_their_worst_class(script, claims):
    """A network that is better on average and worse in its worst class."""
    label = np.repeat([0, 1, 2], 40)
    shares = {"even": (0.5, 0.5, 0.5), "uneven": (0.9, 0.9, 0.1)}
    networks = []
    for name, by_class in shares.items():
        withstood = np.concatenate([np.arange(40) < 40 * share for share in by_class])
        networks.append(claims.Audited(name, of_table(name, label, {"pgd-20": withstood}, ("a", "b", "c"))))
    board = script.leaderboard(networks).set_index("model")
    assert board.index.tolist() == ["even", "uneven"]
    assert board["rank by mean"].tolist() == [2, 1]
    assert board["rank by worst class"].tolist() == [1, 2]
    assert board.loc["uneven", "worst_class"] == "c"
    assert board.loc["uneven", "gap"] == pytest.approx(0.8, abs=0.05)
    hidden, swapped, _ = claims.by_board({"board": networks})
    assert swapped.value == 100
    assert hidden.value == pytest.approx(100 * ((1.9 / 3 - 0.1) + 0.0) / 2, abs=4)  # "even" has no worst class


def test_networks_on_fewer_images_stand_beside_others(claims):
    """Tried on some of the images, in another order: each image is compared with itself."""
    rng = np.random.default_rng(0)
    label, right = rng.integers(0, 3, 60), rng.random(60) < 0.5
    some = rng.permutation(60)[:25]
    all_, few = (
        claims.Audited(name, of_table(name, label[rows], {"pgd-20": right[rows]}, ("a", "b", "c"), examples=100 + rows))
        for name, rows in (("all", np.arange(60)), ("few", some))
    )
    y, withstood, tried = claims.together([few, all_])
    np.testing.assert_array_equal(y, label)
    assert tried[:, 1].all()
    assert set(np.flatnonzero(tried[:, 0])) == set(some)
    np.testing.assert_array_equal(withstood[:, 1], right)
    np.testing.assert_array_equal(withstood[some, 0], right[some])


def test_cifar100_is_told_by_its_superclasses(claims, script):
    classes = ("apple", "pear", "orange", "bed", "chair", "couch", "wolf", "bear", "lion")
    groups = dict(zip(classes, np.repeat(["fruit", "furniture", "carnivores"], 3), strict=True))
    label = np.tile(np.arange(9), 20)
    withstood = np.isin(label, [0, 1, 3]) & (np.arange(180) < 170)
    one = claims.Audited("net", of_table("net", label, {"pgd-20": withstood}, classes), norms=np.arange(9.0))
    one = type("Grouped", (claims.Audited,), {"groups": groups})(
        **{f: getattr(one, f) for f in one.__dataclass_fields__}
    )
    assert one.names == ("carnivores", "fruit", "furniture")
    by_hand = pd.Series(withstood).groupby([groups[classes[k]] for k in label]).mean()
    assert one.accuracies(withstood).tolist() == by_hand.tolist()
    row = script.leaderboard([one]).iloc[0]
    assert (row["classes"], row["worst_class"]) == (3, "carnivores")
    assert row["mean"] == pytest.approx(by_hand.mean())
    known = claims.Audited("net", of_table("net", label, {"pgd-20": withstood}, classes, dataset="cifar100"))
    assert known.groups == "cifar100"


def test_measures_are_those_of_their_definitions(claims, monkeypatch):
    """Where PGD leaves what the margin and one temperature break, and norms follow robustness."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(5), 60)
    hard = rng.random(300)
    limits = np.linspace(0.2, 0.9, 5)[label]
    outcomes = {"fgsm": hard < limits + 0.05, "pgd-20": hard < limits, "margin-20": hard < limits - 0.1}
    outcomes |= {"tpgd2-20": hard < limits, "tpgd50-20": hard < limits - 0.1}
    norms = np.array([1.0, 2, 3, 5, 4])
    monkeypatch.setattr(claims, "REPEATS", 20)
    one = claims.Audited("net", of_table("net", label, outcomes, tuple("abcde")), "adversarial", norms)
    found = {c.statistic.split(",")[0]: c for c in claims.measures(one)}
    gap = found["gap between best and worst class"]
    by_class = one.accuracies(outcomes["margin-20"])
    assert gap.value == pytest.approx(
        100 * (by_class.max() - by_class.min()), abs=6
    )  # the choice on half of the images costs
    more = 100 * (outcomes["pgd-20"].mean() - outcomes["margin-20"].mean())
    assert found["attack rate of PGD on the margin minus that of PGD on cross-entropy"].value == pytest.approx(more)
    assert found["attack rate of the best 1/T above 1 minus that of PGD"].value == pytest.approx(more, abs=1e-9)
    assert found["Spearman's correlation of norm and robust accuracy"].value == pytest.approx(0.9)  # 1 - 6 * 2 / 120
    assert np.isnan(found["Spearman's correlation of norm and clean accuracy"].value)  # all right: no order
    assert found["mean Kendall's tau between fgsm"].value > 0.8


def test_a_family_is_the_mean_of_its_networks(claims):
    label = np.zeros(30, dtype=int)
    result = of_table("net", label, {"pgd-20": label == 0}, ("a", "b"))

    def of(family, value, said="2. Larger norms"):
        claim = claims.Claim(said, "net", "correlation", value, value - 0.5, value + 0.5, "n = 30 images", 0.3, unit="")
        return claims.Audited("net", result, family), claim

    measured = [of("natural", 0.1), of("adversarial", 0.7), of("adversarial", 0.9), of("adversarial", np.nan)]
    first, second = claims.by_family(measured)
    assert first.data == "adversarial networks"
    assert first.value == pytest.approx(0.8)
    half = 12.70620 * 0.1  # Student's t with a degree of freedom times the standard error
    assert (first.low, first.high) == (pytest.approx(0.8 - half, rel=1e-4), 1)
    assert "2 networks, 1 more without variation" in first.n
    assert "seen on 2 of them alone" in first.n
    assert (second.data, second.value, second.low) == ("natural networks: net", 0.1, pytest.approx(-0.4))


def test_jackknife_of_a_mean_is_its_standard_error(claims):
    values = np.random.default_rng(0).normal(0, 0.1, 400)
    value, low, high = claims.jackknifed(lambda rows: float(values[rows].mean()), len(values), parts=400)
    assert value == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 399) * values.std(ddof=1) / 20)
