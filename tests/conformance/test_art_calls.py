"""ART's own parameters and calls, given to our classes: the same results, or a word on what differs."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, MomentumIterativeMethod, ProjectedGradientDescent
from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
from art.estimators.classification import PyTorchClassifier
from art.evaluations.security_curve import SecurityCurve
from scipy import stats
from torch import nn

import art_classwise as acw
from art_classwise import InputError
from art_classwise.attacks import PGD, AutoAttack, ClassWiseAttack, TemperaturePGD, TransferAttack

STEPS = {"eps": 0.1, "eps_step": 0.03, "max_iter": 5, "verbose": False}


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", [np.inf, 2])
def test_decay_is_arts_momentum(norm, targeted, classifier, images, own):
    y = (own + 1) % 4 if targeted else own
    shared = {**STEPS, "norm": norm, "targeted": targeted}
    expected = MomentumIterativeMethod(classifier, decay=0.7, **shared).generate(images, y)
    ours = PGD(classifier, decay=0.7, num_random_init=0, **shared)
    np.testing.assert_allclose(ours.generate(images, y), expected, atol=1e-5)
    changed = PGD(classifier, num_random_init=0, **shared)
    changed.set_params(decay=0.7)
    assert changed.decay == changed.momentum == 0.7
    assert np.array_equal(changed.generate(images, y), ours.generate(images, y))
    changed.set_params(decay=None)
    assert changed.momentum == 0
    with pytest.raises(InputError, match="`decay` is ART's name for `momentum`"):
        PGD(classifier, decay=0.7, momentum=0.5)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("norm", "step"), [(np.inf, 0.013), (2, 0.1)])
def test_minimal_is_arts_fast_gradient_method(norm, step, targeted, mask, classifier, images, own):
    y = (own + 1) % 4 if targeted else own
    shared = {"norm": norm, "eps": 9.5 * step, "eps_step": step, "targeted": targeted, "minimal": True}
    extra = {"mask": np.linspace(-1, 1, 108).reshape(3, 6, 6).clip(0) > 0.2} if mask else {}
    expected = FastGradientMethod(classifier, **shared).generate(images, y, **extra)
    ours = PGD(classifier, max_iter=1, num_random_init=0, batch_size=5, verbose=False, **shared)
    x_adv = ours.generate(images, y, **extra)
    np.testing.assert_allclose(x_adv, expected, atol=1e-5)
    sizes = np.linalg.norm((x_adv - images).reshape(16, -1), norm, axis=1)
    assert sizes.min() < 0.5 * sizes.max()
    lengths = np.arange(16) % 2 * 4.5 * step + 0.5 * step  # half of them shorter than a step
    ours.set_params(eps=lengths)
    stays = (ours.generate(images, y, **extra) == images).reshape(16, -1).all(1)
    assert np.array_equal(stays, lengths < step)


def test_minimal_is_for_one_step_from_x(classifier):
    for options in ({}, {"max_iter": 1}, {"num_random_init": 0}):
        with pytest.raises(InputError, match="`minimal` looks for the smallest step along one gradient"):
            PGD(classifier, minimal=True, **options)


def test_random_radii_are_those_of_kurakin_and_belong_to_the_examples(classifier, images, own):
    """A normal distribution truncated to [0, eps], of deviation eps / 2: as ART draws them, once for all examples."""
    x, y = np.repeat(images, 60, 0), np.repeat(own, 60)
    attack = PGD(classifier, eps=0.1, eps_step=0.1, max_iter=1, num_random_init=0, random_eps=True, verbose=False)
    x_adv = attack.generate(x, y)
    radii = np.abs(x_adv - x).reshape(len(x), -1).max(1)
    law = stats.truncnorm(0, 2, loc=0, scale=0.05)
    assert stats.kstest(radii, law.cdf).pvalue > 1e-3
    part = np.arange(300, 200, -1)
    np.testing.assert_allclose(attack.generate(x[part], y[part], example_ids=part), x_adv[part], atol=1e-6)
    attack.set_params(seed=1)
    assert not np.allclose(np.abs(attack.generate(x, y) - x).max((1, 2, 3)), radii, atol=1e-3)


def test_each_random_radius_bounds_its_own_example(classifier, images, own):
    attack = PGD(classifier, eps=0.1, max_iter=12, random_eps=True, verbose=False)
    whole = {k: PGD(classifier, eps=0.1, max_iter=12, seed=k, verbose=False).generate(images, own) for k in (0, 1)}
    small = attack.generate(images, own)
    sizes = np.abs(small - images).max((1, 2, 3))
    assert (sizes <= 0.1 + 1e-6).all()
    assert sizes.mean() < 0.07 < np.abs(whole[0] - images).max((1, 2, 3)).mean()


def test_random_radii_are_a_finding(classifier, images, own):
    data = acw.Dataset(images, own, tuple("abcd"))
    audit = acw.ClassWiseAudit(
        "Linf:0.1", {"mine": lambda c: PGD(c, random_eps=True, eps=0.1, max_iter=1, verbose=False)}, verbose=False
    )
    result = audit.evaluate({"net": classifier}, data)
    assert any("mine draws its radii at random" in finding.saw for finding in result.findings)


def test_what_is_new_leaves_fingerprints_as_they_were(classifier):
    """An audit's store knows an attack by them; these are of the version before."""
    from art_classwise.audit.provenance import parameters

    told = parameters(PGD(classifier))
    assert set(told) == {
        *("class", "norm", "eps", "eps_step", "max_iter", "num_random_init", "targeted", "momentum", "early_stop"),
        *("seed", "precision", "compile", "loss"),
    }
    assert parameters(PGD(classifier, decay=0.9)) == told | {"momentum": 0.9}
    assert parameters(PGD(classifier, random_eps=True)) == told | {"random_eps": True}


def test_new_parameters_are_kept_on_another_classifier(classifier, network):
    from art_classwise.attacks.transfer import rebind

    other = acw.as_classifier(network, (3, 6, 6), 4, device="cpu")
    for options in (
        {"decay": 0.9},
        {"random_eps": True},
        {"minimal": True, "max_iter": 1, "num_random_init": 0},
        {"momentum": 0.5},
    ):
        attack = PGD(classifier, **options)
        again = rebind(attack, other)
        assert again.estimator is other
        assert {n: getattr(again, n) for n in attack.attack_params} == {
            n: getattr(attack, n) for n in attack.attack_params
        }


@pytest.mark.parametrize("make", [PGD, TemperaturePGD, ClassWiseAttack, AutoAttack])
def test_estimators_that_predict_otherwise_are_refused(make, network, images):
    """Their networks' logits aren't what they predict: an attack would find out about another model."""
    from art.defences.postprocessor import ReverseSigmoid

    options = {"clip_values": (0, 1), "device_type": "cpu"}
    smoothed = PyTorchRandomizedSmoothing(network, nn.CrossEntropyLoss(), (3, 6, 6), 4, scale=0.5, **options)
    with pytest.raises(InputError, match="a PyTorchRandomizedSmoothing, which predicts otherwise"):
        make(smoothed)
    processed = PyTorchClassifier(
        network, nn.CrossEntropyLoss(), (3, 6, 6), 4, postprocessing_defences=ReverseSigmoid(), **options
    )
    with pytest.raises(InputError, match="has postprocessing defences"):
        make(processed)

    class Mine(PyTorchClassifier):
        def predict(self, x, *args, **kwargs):
            return -super().predict(x, *args, **kwargs)

    with pytest.raises(InputError, match="is a Mine, which predicts otherwise"):
        make(Mine(network, nn.CrossEntropyLoss(), (3, 6, 6), 4, **options))
    patched = PyTorchClassifier(network, nn.CrossEntropyLoss(), (3, 6, 6), 4, **options)
    patched.predict = lambda x: np.zeros((len(x), 4), np.float32)
    with pytest.raises(InputError, match="predicts otherwise"):
        make(patched)


def test_a_transfer_may_be_onto_any_classifier(network, classifier, images, own):
    smoothed = PyTorchRandomizedSmoothing(
        network, nn.CrossEntropyLoss(), (3, 6, 6), 4, scale=0.01, clip_values=(0, 1), device_type="cpu"
    )
    attack = PGD(classifier, eps=0.1, max_iter=2, verbose=False)
    assert np.array_equal(TransferAttack(smoothed, attack).generate(images, own), attack.generate(images, own))


@pytest.mark.parametrize("make", [PGD, TemperaturePGD, ClassWiseAttack, AutoAttack])
def test_one_output_for_two_classes_is_refused_with_the_way_to_two(make, images):
    torch.manual_seed(0)
    one = nn.Sequential(nn.Flatten(), nn.Linear(108, 1))
    options = {"clip_values": (0, 1), "device_type": "cpu"}
    classifier = PyTorchClassifier(one, nn.BCEWithLogitsLoss(), (3, 6, 6), 2, **options)
    cheap = {"attacks": "apgd-ce", "n_iter": 2} if make is AutoAttack else {"max_iter": 2}
    with pytest.raises(InputError, match=r"returned \(16, 1\)\. A network with one output z .*torch\.cat\(\[-z / 2, z"):
        make(classifier, verbose=False, **cheap).generate(images, np.arange(16) % 2)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = one

        def forward(self, x):
            z = self.one(x)
            return torch.cat([-z / 2, z / 2], 1)

    two = acw.as_classifier(Two(), (3, 6, 6), 2, device="cpu")
    with torch.no_grad():
        sigmoid = torch.sigmoid(one(torch.from_numpy(images)))[:, 0].numpy()
    y = (sigmoid > 0.5).astype(int)
    np.testing.assert_allclose(stats.logistic.cdf(np.diff(two.predict(images))[:, 0]), sigmoid, atol=1e-6)
    x_adv = make(two, eps=0.4, verbose=False, **cheap).generate(images, y)
    assert (two.predict(x_adv).argmax(1) == y).mean() < 0.5


@pytest.mark.parametrize("make", [PGD, TemperaturePGD, ClassWiseAttack, AutoAttack])
def test_a_radius_as_wide_as_the_box_is_a_warning(make, classifier, images, own):
    cheap = {"attacks": "apgd-ce", "n_iter": 3} if make is AutoAttack else {"max_iter": 3}
    for eps, says in ((1.0, r"\[0, 1\]: usual .* Any image may become any other"), (8.0, 'mean "Linf:8/255"')):
        with pytest.warns(UserWarning, match=says):
            x_adv = make(classifier, eps=eps, verbose=False, **cheap).generate(images, own)
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
        assert (classifier.predict(x_adv).argmax(1) == own).mean() < 0.3


def test_arts_security_curve_runs_with_ours(classifier, images, own, monkeypatch):
    curves = []
    one_hot = np.eye(4, dtype=np.float32)[own]
    for kind in (ProjectedGradientDescent, PGD):
        monkeypatch.setattr("art.evaluations.security_curve.security_curve.ProjectedGradientDescent", kind)
        curve = SecurityCurve(eps=4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            eps, robust, clean = curve.evaluate(
                classifier, images, one_hot, eps_step=0.05, max_iter=4, num_random_init=0, verbose=False
            )
        curves.append(robust)
        assert eps == [0.25, 0.5, 0.75, 1.0]
        assert clean == 1
        assert not curve.detected_obfuscating_gradients
    assert curves[0] == curves[1]


@pytest.mark.parametrize("make", [PGD, TemperaturePGD, ClassWiseAttack, AutoAttack])
def test_numpys_numbers_and_flags_are_taken(make, classifier, images, own):
    cheap = {"attacks": "apgd-ce", "n_iter": np.int64(3)} if make is AutoAttack else {"max_iter": np.int32(3)}
    given = make(
        classifier,
        norm=np.float64(np.inf),
        eps=np.float64(0.1),
        batch_size=np.int16(7),
        seed=np.uint8(3),
        verbose=np.bool_(False),
        **cheap,
    )
    plain = {n: getattr(given, n) for n in ("batch_size", "seed", "verbose", *cheap)}
    usual = make(classifier, norm=np.inf, eps=0.1, **{**plain, "seed": 3, "batch_size": 7})
    assert plain["verbose"] is False
    assert {type(value) for value in plain.values()} <= {bool, int, str}
    assert np.array_equal(given.generate(images, own), usual.generate(images, own))
    if make in (PGD, TemperaturePGD):
        flags = {name: np.bool_(True) for name in ("targeted", "early_stop")}
        assert make(classifier, **flags).targeted is True


@pytest.mark.parametrize("make", [PGD, TemperaturePGD, ClassWiseAttack, AutoAttack])
def test_parameters_that_are_refused_change_nothing(make, classifier, tmp_path):
    attack = make(classifier, verbose=False)
    before = dict(vars(attack))
    refused = [
        {"eps": 0.2, "seed": -1},
        {"seed": 3, "nonsense": 1},
        {"batch_size": 5, "norm": "L7"},
        {"verbose": True, "summary_writer": 7},
        {"eps": 0.2, "summary_writer": str(tmp_path / "new"), "batch_size": 0},
    ]
    for parameters in refused:
        with pytest.raises(InputError):
            attack.set_params(**parameters)
        assert vars(attack) == before
    if make is not AutoAttack:
        with pytest.raises(InputError):
            make(classifier, summary_writer=str(tmp_path / "new"), seed=-1)
    assert not (tmp_path / "new").exists()


def test_a_summary_writer_may_be_set_later(classifier, images, own, tmp_path):
    attack = PGD(classifier, eps=0.02, max_iter=1, verbose=False)
    attack.set_params(summary_writer=str(tmp_path / "run"))
    attack.generate(images, own)
    assert list((tmp_path / "run").iterdir())
    attack.set_params(summary_writer=False)
    assert attack.summary_writer is None


def test_autoattack_takes_none_and_arts_attacks(classifier, images, own):
    """As ART's: each attack on what withstood those before it; here what comes back is brought into the ball, too."""
    assert AutoAttack(classifier, attacks=None).attacks == "standard"
    changed = AutoAttack(classifier, attacks="square")
    changed.set_params(attacks=None)
    assert changed.members == AutoAttack(classifier).members
    asked = []

    def asking(kind, **options):
        attack = kind(classifier, **options)
        real = attack.generate

        def generate(x, y=None, **extra):
            asked.append(x.copy())
            assert np.array_equal(y.argmax(1), classifier.predict(x).argmax(1))
            return real(x, y, **extra)

        attack.generate = generate
        return attack

    members = [
        asking(FastGradientMethod, eps=0.05),
        asking(ProjectedGradientDescent, eps=0.06, eps_step=0.01, max_iter=5, verbose=False),
        asking(PGD, eps=0.3, max_iter=5, verbose=False),
    ]
    attack = AutoAttack(classifier, eps=0.06, attacks=members, verbose=False)
    x_adv = attack.generate(images, own)
    wrong = classifier.predict(x_adv).argmax(1) != own
    assert attack.members == ()
    assert np.abs(x_adv - images).max() <= 0.06 + 1e-6
    assert np.array_equal(x_adv[~wrong], images[~wrong])
    alone = FastGradientMethod(classifier, eps=0.05).generate(images, own)
    broken = classifier.predict(alone).argmax(1) != own
    assert 0 < broken.sum() < wrong.sum() < 16
    np.testing.assert_allclose(x_adv[broken], alone[broken], atol=1e-6)
    assert [len(x) for x in asked[:2]] == [16, 16 - broken.sum()]
    both = AutoAttack(classifier, eps=0.06, attacks=["apgd-ce", members[1]], n_iter=5, verbose=False)
    assert (classifier.predict(both.generate(images, own)).argmax(1) != own).sum() >= wrong.sum() - 1
    with pytest.raises(InputError, match="among `attacks` is targeted"):
        AutoAttack(classifier, attacks=[ProjectedGradientDescent(classifier, targeted=True)])
    members[0].generate = lambda x, y, **extra: x[:1]
    with pytest.raises(InputError, match="must return finite images"):
        attack.generate(images, own)
