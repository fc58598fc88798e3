"""Certified radii, against closed forms, ART's own certify and brute force; and what is asked of them."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from art.estimators.certification.deep_z.pytorch import PytorchDeepZ
from art.estimators.certification.interval.pytorch import PyTorchIBPClassifier
from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
from scipy.stats import binomtest, norm
from torch import nn

import art_classwise as acw
from art_classwise import InputError
from art_classwise._core.art_interface import logits_module
from art_classwise.certification import CertifiedResult, certified_accuracy, read_certificate
from art_classwise.certification.bounds import Bounds, bounds_of
from art_classwise.certification.smoothing import Smoothing, certified_radius
from art_classwise.metrics import clopper_pearson, per_class, worst_class

SHAPE, CLASSES = (3, 2, 2), ["ant", "bee"]


@pytest.fixture(scope="module")
def linear():
    torch.manual_seed(0)
    return acw.as_classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), SHAPE, 2, device="cpu")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((8, *SHAPE), dtype=np.float32)


@pytest.fixture(scope="module")
def data(linear, images):
    right = linear.predict(images).argmax(1)
    return acw.Dataset(images, np.where(np.arange(8) == 5, 1 - right, right), CLASSES, ids=np.arange(8) * 3 + 1)


def distances(linear, images):
    """Signed distances to the plane, in L2 and in Linf, of class 0's side."""
    layer = linear.model[1]
    w = (layer.weight[0] - layer.weight[1]).detach().double().numpy()
    offset = images.reshape(len(images), -1).astype(np.float64) @ w + float((layer.bias[0] - layer.bias[1]).detach())
    return offset / np.linalg.norm(w), offset / np.abs(w).sum()


def test_the_radius_of_a_linear_model_tends_to_the_distance_to_its_plane(linear, data):
    """Cohen et al., section 4: of a linear classifier the smoothed one's true radius is the distance itself."""
    exact = np.abs(distances(linear, data.x)[0])
    short = []
    for n in (200, 1600, 12800):
        found = acw.certify(linear, data, noise=0.5, n=n, batch_size=5000, verbose=False).examples
        assert (found["radius"] <= exact).all()  # each is above with probability 0.001 at most
        sure = exact > 0.1
        assert (found["prediction"] == np.where(found["radius"] > 0, linear.predict(data.x).argmax(1), -1)).all()
        short.append((exact - found["radius"])[sure].max())
    assert short[0] > short[1] > short[2]
    assert short[2] < 0.07


def test_votes_are_those_of_the_probability_under_noise(linear, data):
    method = Smoothing(0.5, 1, 1, 0.001, 7)
    p = norm.cdf(distances(linear, data.x)[0] / 0.5)
    for i, image in enumerate(torch.from_numpy(data.x)):
        votes = method.votes(logits_module(linear), image, i, 2, 4000, 4000, 1)
        assert votes.sum() == 4000
        assert binomtest(int(votes[0]), 4000, p[i]).pvalue > 1e-4


def test_it_decides_as_arts_certify_does(linear, data, monkeypatch):
    smoothed = smoothing(linear, scale=0.3, sample_size=50, alpha=0.01)
    ours = acw.certify(smoothed, data, n=200, n_selection=50, seed=3, verbose=False)
    assert (ours.certificate.noise, ours.certificate.alpha) == (0.3, 0.01)
    method, drawn = Smoothing(0.3, 200, 50, 0.01, 3), []

    def counts(x, n=None, batch_size=128):
        i = len(drawn) // 2
        drawn.append(n)
        image = torch.from_numpy(x)
        return method.votes(logits_module(linear), image, int(data.ids[i]), 2, 64, n, int(n == 200))

    monkeypatch.setattr(smoothed, "_prediction_counts", counts)
    predictions, radii = smoothed.certify(data.x, n=200)
    abstained = ours.examples["prediction"] == -1
    np.testing.assert_array_equal(ours.examples["prediction"][~abstained], predictions[~abstained])
    np.testing.assert_allclose(ours.examples["radius"], radii, atol=1e-6)
    assert drawn == [50, 200] * 8


def smoothing(linear, **options):
    return PyTorchRandomizedSmoothing(
        *(linear.model, nn.CrossEntropyLoss(), SHAPE, 2),
        **{"clip_values": (0.0, 1.0), "device_type": "cpu", **options},
    )


def test_radii_of_counts():
    for k in (0, 50, 60, 99, 100):
        low = binomtest(k, 100, alternative="greater").proportion_ci(0.999, "exact").low
        assert certified_radius(k, 100, 0.25, 0.001) == pytest.approx(0.25 * norm.ppf(low))
    assert Smoothing(0.5, 1000, 1, 0.001, 0).reach == pytest.approx(0.5 * norm.ppf(0.001 ** (1 / 1000)))
    assert Smoothing(0.5, 5, 1, 0.001, 0).reach == 0  # five samples prove nothing
    for k, n in ((0, 7), (3, 7), (7, 7), (1, 1), (400, 1000)):
        exact = binomtest(k, n).proportion_ci(0.9, "exact")
        assert clopper_pearson(k, n, 0.9) == pytest.approx((exact.low, exact.high))
    assert np.isnan(clopper_pearson(0, 0)).all()


def test_results_belong_to_the_example(linear, data):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    whole = acw.certify(linear, data, noise=0.25, n=70, verbose=False).examples
    pieces = [
        acw.certify(linear, data.take(np.array(rows)), noise=0.25, n=70, batch_size=size, verbose=False).examples
        for rows, size in (([6, 0, 3], 9), ([1], 33), ([7, 5, 4, 2], 200))
    ]
    again = pd.concat(pieces).sort_values("example", ignore_index=True)
    pd.testing.assert_frame_equal(whole, again)
    other = acw.certify(linear, data, noise=0.25, n=70, seed=1, verbose=False).examples
    assert not whole["radius"].equals(other["radius"])
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_an_interrupted_call_goes_on(linear, data, tmp_path, monkeypatch):
    options = {"noise": 0.25, "n": 50, "verbose": False}
    whole = acw.certify(linear, data, **options)
    monkeypatch.setattr("art_classwise.certification.certifying._BLOCK", 2)
    monkeypatch.setattr("art_classwise.certification.certifying._SECONDS", 0.0)
    certify, asked = Smoothing.certify, []

    def interrupted(self, module, image, example, *more):
        asked.append(example)
        if len(asked) == 6:
            raise KeyboardInterrupt
        return certify(self, module, image, example, *more)

    monkeypatch.setattr(Smoothing, "certify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        acw.certify(linear, data, store=tmp_path, **options)
    with pytest.raises(InputError, match="isn't finished: 4 of 8 examples"):
        read_certificate(tmp_path)
    with pytest.raises(InputError, match="another certificate: noise"):
        acw.certify(linear, data, store=tmp_path, **{**options, "noise": 0.5})
    asked[:] = [0] * 6
    found = acw.certify(linear, data, store=tmp_path, **options)
    assert asked[6:] == data.ids[4:].tolist()
    for one in (found, read_certificate(tmp_path), acw.certify(linear, data, store=tmp_path, **options)):
        pd.testing.assert_frame_equal(one.examples, whole.examples)
        assert one.certificate == whole.certificate
    with pytest.raises(InputError, match="name the folder"):
        read_certificate(tmp_path / "none")
    text = (tmp_path / "certificate.json").read_text()
    for broken in (text[:-5], text.replace('"prediction": [', '"prediction": [9, '), text.replace("L2", "L3")):
        (tmp_path / "certificate.json").write_text(broken)
        with pytest.raises(InputError, match="is damaged"):
            read_certificate(tmp_path)


@pytest.fixture(scope="module")
def found(linear, data):
    rng = np.random.default_rng(1)
    classes = ("ant", "bee", "cow", "none")
    label = rng.integers(0, 3, 300)
    prediction = np.where(rng.random(300) < 0.7, label, rng.integers(-1, 3, 300))
    radius = np.where(prediction < 0, 0.0, certified_radius(rng.integers(600, 1001, 300), 1000, 0.25, 0.001))
    examples = pd.DataFrame({"example": np.arange(300), "label": label, "prediction": prediction, "radius": radius})
    of = acw.certify(linear, data, noise=0.25, n=1000, verbose=False).certificate
    return CertifiedResult(examples, of.updated(classes=classes, n_examples=300))


def test_certified_accuracy_is_counted(found):
    radii = [0, 0.2, 0.5]
    table = found.certified_at(radii, confidence=0.9)
    for (radius, name), row in table.iterrows():
        of = found.examples[found.examples["label"] == found.classes.index(name)]
        k = sum(p == y and r >= radius for p, y, r in zip(of["prediction"], of["label"], of["radius"], strict=True))
        assert row["n"] == len(of)
        if name == "none":
            assert row[["certified", "low", "high"]].isna().all()
            continue
        exact = binomtest(k, len(of)).proportion_ci(0.9, "exact")
        assert row["certified"] == k / len(of)
        assert row["low"] == pytest.approx(exact.low - 0.001)
        assert row["high"] == pytest.approx(exact.high)
    beyond = found.certified_at([0.1, 0.7]).loc[0.7]
    assert beyond[["certified", "low", "high"]].isna().all(axis=None)
    assert beyond["unknown"].str.contains("the largest radius that 1,000 samples at noise 0.25 can certify").all()
    summary = found.summary([0.0, 0.2, 0.7])
    certified = (found.examples["prediction"] == found.examples["label"]) & (found.examples["radius"] >= 0.2)
    worst = worst_class(found.examples["label"].to_numpy(), certified.to_numpy(), 4, classes=found.classes)
    assert summary.at[0.2, "held_out"] == worst["accuracy"] == found.worst_class(0.2)["accuracy"]
    assert summary.at[0.2, "worst_low"] == worst["low"] - 0.001
    assert summary.at[0.2, "mean"] == pytest.approx(table.loc[0.2, "certified"].mean())
    assert summary.loc[0.7].drop("abstained").isna().all()
    assert summary["abstained"].eq((found.examples["prediction"] == -1).mean()).all()
    assert "smoothing, noise 0.25" in repr(found)
    assert found._repr_html_().startswith("<table")


def test_tables_are_written(found, tmp_path):
    found.to_csv(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "t.csv", index_col=["radius", "class"], keep_default_na=False, na_values=[""]).drop(
            columns="unknown"
        ),
        found.certified_at().drop(columns="unknown"),
    )
    found.save(tmp_path)
    pd.testing.assert_frame_equal(read_certificate(tmp_path).examples, found.examples)


class Net(nn.Module):
    """ART's conversions take convolutions, dense layers and ReLU, in the order that they are called in."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.relu, self.out = nn.Conv2d(3, 6, 2), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.relu(self.conv(x)).flatten(1))


def bounded(kind, network, n_classes=3, shape=SHAPE, **options):
    given = {"clip_values": (0.0, 1.0), "device_type": "cpu", **options}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # ART prints and warns
        warnings.simplefilter("ignore")
        return kind(network, nn.CrossEntropyLoss(), shape, n_classes, **given)


@pytest.mark.parametrize("kind", [PyTorchIBPClassifier, PytorchDeepZ])
def test_bounds_hold_whatever_is_tried(kind, images):
    network = Net()
    classifier = bounded(kind, network)
    classifier.model.set_forward_mode("concrete")
    data = acw.Dataset(images, network(torch.from_numpy(images)).argmax(1).numpy(), list("abc"))
    result = acw.certify(classifier, data, max_radius=0.2, verbose=False)
    assert classifier.model.forward_mode == "concrete"
    assert (result.examples["prediction"] == data.y).all()
    radius = result.examples["radius"].to_numpy()
    assert (radius > 0).all()
    rng = np.random.default_rng(0)
    for x, y, r in zip(images, data.y, radius, strict=True):
        corners = np.clip(x + r * rng.choice([-1, 1], (4000, *SHAPE)), 0, 1).astype(np.float32)
        assert (network(torch.from_numpy(corners)).argmax(1) == y).all()
    again = acw.certify(classifier, data, max_radius=0.2, batch_size=3, verbose=False)
    pd.testing.assert_frame_equal(result.examples, again.examples)


def test_zonotopes_of_a_linear_model_are_exact(linear):
    """Away from the box's faces, the Linf distance to a plane is the difference over the weights' L1 norm."""
    layer = nn.Linear(12, 2)
    layer.load_state_dict(linear.model[1].state_dict())
    x = np.random.default_rng(2).uniform(0.3, 0.7, (6, 12)).astype(np.float32)
    exact = np.abs(distances(linear, x)[1])
    result = {}
    for kind in (PyTorchIBPClassifier, PytorchDeepZ):
        classifier = bounded(kind, nn.Sequential(layer), 2, (12,))
        _, result[kind] = Bounds(bounds_of(classifier), 0.25).certify(classifier, x)
    assert (exact < 0.25).all()
    np.testing.assert_allclose(result[PytorchDeepZ], exact, atol=0.25 / 2**12 + 1e-6)
    assert (result[PyTorchIBPClassifier] <= result[PytorchDeepZ] + 1e-6).all()


def test_no_radius_is_claimed_that_is_larger_than_the_one_tried(images, monkeypatch):
    """In float32, half of all radii are rounded down."""
    classifier, tried = bounded(PyTorchIBPClassifier, Net()), []
    predict = classifier.predict_intervals

    def recorded(x, bounds, limits):
        tried.append(np.ravel(np.asarray(bounds, np.float64)[0]) if np.ndim(bounds) else None)
        return predict(x, bounds=bounds, limits=limits)

    monkeypatch.setattr(classifier, "predict_intervals", recorded)
    _, radii = Bounds("interval", 0.17).certify(classifier, images)
    for place, radius in enumerate(radii):
        above = [bounds[place] for bounds in tried[1:] if bounds[place] >= radius]
        assert min(above) == pytest.approx(radius, rel=1e-6)


def test_an_audit_beside_the_certificate(images):
    network = Net()
    y = network(torch.from_numpy(images)).argmax(1).numpy()
    data = acw.Dataset(images, y, list("abc"))
    plain = acw.as_classifier(network, SHAPE, 3, device="cpu")
    audits = {
        threat: acw.ClassWiseAudit(threat, "pgd-5", checks=False, verbose=False).evaluate({"net": plain}, data)
        for threat in ("Linf:0.02", "L2:0.02", "Linf:0.25")
    }
    result = acw.certify(bounded(PytorchDeepZ, network), data, max_radius=0.2, verbose=False)
    for threat in ("Linf:0.02", "L2:0.02"):
        table = result.beside(audits[threat])
        present = table[table["n"] > 0]
        assert (present["certified"] <= present["robust"]).all()
        np.testing.assert_allclose(present["undecided"], present["robust"] - present["certified"])
        assert (present["contradictions"] == 0).all()
    assert result.beside(audits["Linf:0.25"])["certified"].isna().all()
    wrong = CertifiedResult(result.examples.assign(radius=0.2), result.certificate)
    withstood = audits["Linf:0.02"].outcomes["withstood"]
    assert wrong.beside(audits["Linf:0.02"])["contradictions"].sum() == (~withstood).sum()
    with pytest.raises(InputError, match="isn't the network that was certified"):
        CertifiedResult(result.examples.assign(prediction=-1), result.certificate).beside(audits["L2:0.02"])
    smoothed = acw.certify(plain, data, noise=0.1, n=50, verbose=False)
    assert smoothed.beside(audits["L2:0.02"])["undecided"].isna().all()
    with pytest.raises(InputError, match="Audit in L2"):
        smoothed.beside(audits["Linf:0.02"])


def test_it_is_a_metric_per_class(linear, data):
    options = {"noise": 0.25, "n": 50}
    table = per_class(certified_accuracy, radius=0.05, **options)(linear, data.x, data.y, classes=CLASSES)
    for k, name in enumerate(CLASSES):
        own = acw.Dataset(data.x[data.y == k], data.y[data.y == k], CLASSES)
        one = acw.certify(linear, own, verbose=False, **options).certified_at(0.05)
        assert table.at[name, "value"] == one.loc[(0.05, name), "certified"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "no certificate without noise"),
        ({"noise": 0}, "`noise` must be a finite number above 0"),
        ({"noise": np.nan}, "`noise`"),
        ({"noise": "0.25"}, "`noise`"),
        ({"noise": 0.25, "n": 0}, "`n` must be a whole number"),
        ({"noise": 0.25, "n_selection": 0}, "`n_selection`"),
        ({"noise": 0.25, "alpha": 0}, "`alpha`"),
        ({"noise": 0.25, "alpha": 0.5}, "`alpha`"),
        ({"noise": 0.25, "alpha": 1e-17}, "`alpha` must be a number from 1e-09 to below 0.5"),
        ({"noise": 0.25, "n": 9}, "With 9 samples nothing can be certified at `alpha=0.001`: take at least 10"),
        ({"noise": 0.25, "n": 1}, "With one sample nothing"),
        ({"noise": 0.25, "n": 2, "alpha": 0.25}, "take at least 3"),
        ({"noise": 0.25, "n": 10**17}, r"`n` must be at most 2\*\*53"),
        ({"noise": 0.25, "n_selection": 2**60}, r"`n_selection` must be at most 2\*\*53"),
        ({"noise": 0.25, "seed": -1}, "`seed`"),
        ({"noise": 0.25, "batch_size": 0}, "`batch_size`"),
        ({"noise": 0.25, "max_radius": 0.1}, "`max_radius` is for bounds"),
    ],
)
def test_bad_options(linear, data, options, says):
    with pytest.raises(InputError, match=says):
        acw.certify(linear, data, **{"verbose": False, **options})


def test_bad_classifiers_and_examples(linear, data, found):
    with pytest.raises(InputError, match="must be an ART PyTorchClassifier, but is a Linear"):
        acw.certify(nn.Linear(2, 2), data, noise=0.25)
    for other in (0.25, "x", np.array([0.3, 0.3])):
        with pytest.raises(InputError, match="is smoothed with noise 0.3"):
            acw.certify(smoothing(linear, scale=0.3), data, noise=other)
    interval = bounded(PyTorchIBPClassifier, Net())
    with pytest.raises(InputError, match="`noise` is for randomised smoothing"):
        acw.certify(interval, data, noise=0.25)
    for option in ({"n": 50}, {"n_selection": 100}, {"alpha": 0.001}, {"seed": 0}):
        with pytest.raises(InputError, match=f"`{next(iter(option))}` is for randomised smoothing.*leave it out"):
            acw.certify(interval, data, **option)
    with pytest.raises(InputError, match="`n` and `seed` are for randomised smoothing.*leave them out"):
        acw.certify(interval, data, n=50, seed=1)
    for empty in ((data.x[:0], data.y[:0]), {"x": data.x[:0], "y": data.y[:0]}, []):
        with pytest.raises(InputError, match="empty: it needs at least one example"):
            acw.certify(linear, empty, noise=0.25)
    with pytest.raises(InputError, match="3 classes, but the data set has 2"):
        acw.certify(interval, data)
    with pytest.raises(InputError, match="preprocessing"):
        acw.certify(bounded(PyTorchIBPClassifier, Net(), preprocessing=(0.5, 0.5)), data)
    with pytest.raises(InputError, match="don't repeat"):
        acw.certify(linear, acw.Dataset(data.x, data.y, CLASSES, ids=np.zeros(8, int)), noise=0.25)
    for radii, says in (([0.2, 0.1], "must rise"), (-1, "at least 0"), ([], "at least 0"), (np.inf, "at least 0")):
        for method in (found.certified_at, found.summary):
            with pytest.raises(InputError, match=f"`radii` .*{says}"):
                method(radii)
    for several in ([0.0, 0.1], np.array([0.1]), None, "0.1", np.nan, -0.1):
        with pytest.raises(InputError, match="`radius` must be a number of at least 0, and finite, but got"):
            found.worst_class(several)
        with pytest.raises(InputError, match="`radius` must be a number of at least 0, and finite, but got"):
            certified_accuracy(linear, data.x, data.y, radius=several, noise=0.25)
    with pytest.raises(InputError, match="must be an ART PyTorchClassifier, but is a Linear"):
        certified_accuracy(nn.Linear(2, 2), data.x, data.y, radius=0.1, noise=0.25)
    with pytest.raises(InputError, match="beyond"):
        found.worst_class(3.0)
    with pytest.raises(InputError, match="between 0 and 1"):
        found.certified_at(0.1, confidence=1)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_logits_that_are_not_finite_are_refused(data, value):
    """Of two that are infinite, `argmax` takes the first: all would be certified for it."""

    class Broken(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :2] * 0 + value

    classifier = acw.as_classifier(Broken(), SHAPE, 2, device="cpu")
    with pytest.raises(InputError, match="example 1 under noise 0.25 aren't finite"):
        acw.certify(classifier, data, noise=0.25, n=20, verbose=False)


def test_what_is_no_audit_or_no_attack_stands_beside_no_certificate(found, linear, data):
    with pytest.raises(InputError, match="`audit` must be an audit's result"):
        found.beside("runs/audit")
    options = {"corruptions": ["gaussian_noise:1"], "checks": False, "verbose": False}
    with pytest.warns(UserWarning, match="images are made from the clean ones"):
        audit = acw.ClassWiseAudit("L2:0.05", "fgsm", **options).evaluate({"net": linear}, data)
    certified = acw.certify(linear, data, noise=0.25, n=20, verbose=False)
    assert len(certified.beside(audit)) == 2
    for corruption in (*audit.corruptions, "mean corruption", "all corruptions"):
        with pytest.raises(InputError, match=f"nothing of corruptions such as '{corruption}'"):
            certified.beside(audit, attack=corruption)
    for given in (found, "net", [("net", found)]):
        with pytest.raises(InputError, match="`certificates` must be a mapping from models' names"):
            audit.to_html("report.html", certificates=given)


def test_the_figure_shows_the_table(found, linear, data):
    ax = acw.figures.certified_by_radius(found)
    reach = found.certificate.reach
    curves = {tuple(line.get_ydata()) for line in ax.get_lines() if len(line.get_xdata()) == 61}
    table = found.certified_at(np.linspace(0, reach, 61).tolist())["certified"].unstack("class")
    for name in ("ant", "bee", "cow"):
        assert tuple(100 * table[name]) in curves
    assert ax.get_ylabel() == "certified accuracy (%)"
    assert "(L2)" in ax.get_xlabel()
    with pytest.raises(InputError, match="a larger `n`"):
        acw.figures.certified_by_radius(
            CertifiedResult(found.examples, found.certificate.model_copy(update={"reach": 0.0}))
        )
    with pytest.raises(InputError, match="must be what certify"):
        acw.figures.certified_by_radius(data)
