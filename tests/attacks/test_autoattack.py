"""AutoAttack beside pyautoattack called directly, and its verdicts beside the model's own."""

from __future__ import annotations

import logging
import random

import numpy as np
import pyautoattack
import pytest
import torch
from art.defences.preprocessor import SpatialSmoothing
from art.estimators.classification import BlackBoxClassifier, PyTorchClassifier
from art.exceptions import EstimatorError
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_base import FABAttack
from pyautoattack.square import SquareAttack
from torch import nn

from art_classwise import InputError
from art_classwise._core.state import float32
from art_classwise.attacks._apgd import APGD
from art_classwise.attacks.autoattack import AutoAttack
from art_classwise.errors import GradientMaskingWarning
from art_classwise.zoo import as_classifier

MEMBERS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
SHORT = {"n_iter": 10, "n_queries": 100, "verbose": False}
SHAPE = (3, 8, 8)
EPS = {np.inf: 0.012, 2: 0.12, 1: 1.0}
NAMES = {np.inf: "Linf", 2: "L2", 1: "L1"}


def build(n_classes, module=None, clip_values=(0.0, 1.0), **options):
    if module is None:
        torch.manual_seed(n_classes)
        module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, n_classes))
    loss = nn.CrossEntropyLoss()
    return PyTorchClassifier(module, loss, SHAPE, n_classes, clip_values=clip_values, device_type="cpu", **options)


@pytest.fixture
def classifier():
    return build(10)


@pytest.fixture
def images():
    return np.random.default_rng(0).random((24, *SHAPE), dtype=np.float32)


@pytest.fixture
def labels(classifier, images):
    """What the classifier takes the images for; three labels are wrong."""
    y = predicted(classifier, images)
    y[[2, 9, 20]] = (y[[2, 9, 20]] + 1) % 10
    return y


def predicted(classifier, x):
    return classifier.predict(x).argmax(1)


def size(delta, norm):
    return np.linalg.norm(delta.reshape(len(delta), -1).astype(np.float64), norm, axis=1)


def broken(classifier, x, y, norm=np.inf, eps=EPS[np.inf], **options):
    """Attack; check what is promised of every result; return who is misclassified afterwards."""
    before, (low, high) = x.copy(), classifier.clip_values
    x_adv = AutoAttack(classifier, norm=norm, eps=eps, **{**SHORT, **options}).generate(x, y)
    assert np.array_equal(x, before)
    assert (x_adv.dtype, x_adv.shape) == (np.float32, x.shape)
    assert low <= x_adv.min() <= x_adv.max() <= high
    assert size(x_adv - x, norm).max() <= eps * (1 + 1e-5)
    wrong = predicted(classifier, x_adv) != y
    right_before = predicted(classifier, x) == y
    changed = (x_adv != x).reshape(len(x), -1).any(1)
    assert np.array_equal(changed, wrong & right_before)  # the others are returned as they are
    return wrong


def directly(model, x, y, norm, eps, batch_size=250, **options):
    """Who is misclassified after pyautoattack's own standard evaluation, with shorter searches."""
    n_iter, n_queries = (options.get(name, SHORT[name]) for name in ("n_iter", "n_queries"))
    attack = pyautoattack.AutoAttack(model, norm=NAMES[norm], eps=eps, seed=0)
    for apgd in (attack.apgd, attack.apgd_targeted):
        apgd.n_iter = apgd.n_iter_orig = n_iter
        apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = (max(int(s * n_iter), 1) for s in (0.22, 0.06, 0.03))
    attack.fab.n_iter, attack.square.n_queries = n_iter, n_queries
    x_adv, _ = attack.run_standard_evaluation(torch.from_numpy(x), torch.from_numpy(y), batch_size=batch_size)
    with torch.no_grad():
        return (model(x_adv).argmax(1) != torch.from_numpy(y)).numpy()


@pytest.mark.parametrize(("norm", "batch_size"), [(np.inf, 250), (2, 250), (1, 250), (np.inf, 7)])
def test_breaks_what_pyautoattack_breaks(classifier, images, labels, norm, batch_size):
    ours = broken(classifier, images, labels, norm, EPS[norm], batch_size=batch_size, precision="fp32")
    assert np.array_equal(ours, directly(classifier.model, images, labels, norm, EPS[norm], batch_size))
    assert 5 < ours.sum() < 22  # an attack that breaks all or none would agree with anything


@pytest.mark.parametrize("norm", list(EPS))
def test_members_have_the_parameters_of_the_standard_version(classifier, images, labels, norm, monkeypatch):
    seen = []

    def record(member, x, y):
        kept = {k: v for k, v in vars(member).items() if isinstance(v, (bool, int, float, str))}
        seen.append({"thr_decr": 0.75, "eot_iter": 1, "use_largereps": norm == 1} | kept)
        return x

    for kind in (APGD, APGDAttack, APGDAttack_targeted, FABAttack, SquareAttack):
        monkeypatch.setattr(kind, "perturb", record)
    AutoAttack(classifier, norm=norm, eps=EPS[norm], verbose=False).generate(images, labels)
    ours, seen[:] = seen[:], []
    reference = pyautoattack.AutoAttack(classifier.model, norm=NAMES[norm], eps=EPS[norm], seed=0)
    reference.run_standard_evaluation(torch.from_numpy(images), torch.from_numpy(labels))
    assert len(ours) == len(seen) == 4
    for place, (mine, theirs) in enumerate(zip(ours, seen, strict=True)):
        shared = mine.keys() & theirs.keys()
        assert {k: mine[k] for k in shared} == {k: theirs[k] for k in shared}
        assert mine.keys() - shared <= {"to_the_edge", *({"n_target_classes"} if place == 0 else ())}
        assert {"norm", "eps", "seed", "n_queries" if place == 3 else "n_iter"} <= shared


def test_agrees_with_pyautoattack_on_a_published_network(published, cifar10):
    x, y = cifar10.x[:24], cifar10.y[:24]
    classifier = published("cifar10-cnn-a")
    expected = directly(classifier.model, x, y, np.inf, 4 / 255)
    assert 8 <= expected.sum() <= 16
    assert np.array_equal(broken(classifier, x, y, eps=4 / 255, precision="fp32"), expected)
    coarse = broken(classifier, x, y, eps=4 / 255, precision="bf16")
    assert abs(coarse.sum() - expected.sum()) <= 1


@pytest.mark.parametrize(("precision", "allowed"), [("auto", True), ("bf16", True), ("fp32", False)])
def test_fab_and_square_may_search_in_tf32_and_nobody_else(precision, allowed, classifier, images, labels, monkeypatch):
    """Verdicts, and APGD on the network itself, are float32 to the last digit."""
    asked = []

    def recorded(device_type, *, tf32=False):
        asked.append(tf32)
        return float32(device_type, tf32=tf32)

    monkeypatch.setattr("art_classwise.attacks.autoattack.float32", recorded)
    for member in ("apgd-ce", "fab-t", "square"):
        asked.clear()
        broken(classifier, images[:4], labels[:4], attacks=member, precision=precision)
        assert set(asked) == ({False} if member == "apgd-ce" else {allowed}) or (member, asked) == ("apgd-ce", [])


def test_the_seed_decides(classifier, images, labels):
    results = [
        AutoAttack(classifier, eps=EPS[np.inf], attacks="apgd-ce", seed=seed, **SHORT).generate(images, labels)
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


@pytest.mark.parametrize("n_classes", [2, 3, 4, 10])
@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_at_every_number_of_classes(member, n_classes, images):
    classifier = build(n_classes)
    y = predicted(classifier, images)
    if n_classes < {"apgd-t": 4, "apgd-dlr": 3}.get(member, 2):
        with pytest.raises(InputError, match=f'"{member}" compares . classes, and the model has {n_classes}: take'):
            AutoAttack(classifier, attacks=member)
    else:
        assert broken(classifier, images, y, eps=0.3, attacks=member).mean() > 0.5


def test_standard_leaves_out_what_cant_be_and_says_so(images):
    for n_classes, expected in ((3, ("apgd-ce", "fab-t", "square")), (4, ("apgd-ce", "apgd-t", "fab-t", "square"))):
        assert AutoAttack(build(n_classes)).members == expected
    classifier = build(2)
    attack = AutoAttack(classifier, eps=0.3, **SHORT)
    with pytest.warns(UserWarning, match='ran without "apgd-t", which compares 4 classes, and the model has 2'):
        x_adv = attack.generate(images)
    assert attack.left_out == {"apgd-t": "compares 4 classes, and the model has 2"}
    assert (predicted(classifier, x_adv) != predicted(classifier, images)).mean() > 0.5


class Rescaled(nn.Module):
    def __init__(self, module, low, high):
        super().__init__()
        self.module, self.low, self.width = module, low, high - low

    def forward(self, x):
        return self.module((x - self.low) / self.width)


@pytest.mark.parametrize(("norm", "low", "high"), [(np.inf, 0.0, 255.0), (2, -1.0, 1.0), (1, 0.0, 255.0)])
def test_other_clip_values_break_the_same_examples(classifier, images, labels, norm, low, high):
    rescaled = build(10, Rescaled(classifier.model, low, high), (low, high))
    x = low + images * np.float32(high - low)
    ours = broken(rescaled, x, labels, norm, EPS[norm] * (high - low))
    expected = broken(classifier, images, labels, norm, EPS[norm])
    assert (ours != expected).sum() <= 1  # rounding: 255 x / 255 isn't x


def test_several_members_in_the_order_given(classifier, images, labels, monkeypatch):
    ran = []
    for kind in (APGD, SquareAttack):
        monkeypatch.setattr(kind, "perturb", lambda self, x, y: ran.append(type(self).__name__) or x)
    AutoAttack(classifier, attacks=["square", "apgd-ce"], verbose=False).generate(images, labels)
    assert ran == ["SquareAttack", "APGD"]


def test_nothing_is_left_behind(classifier, images, labels, monkeypatch):
    model = classifier.model.train()
    model[0].eval()
    model[0].weight.requires_grad_(False)
    model[3].weight.grad = gradient = torch.ones_like(model[3].weight)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    monkeypatch.setattr("torch.cuda._lazy_call", lambda *a, **k: pytest.fail("queued a seed for CUDA"))
    AutoAttack(classifier, **SHORT).generate(images, labels)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert [m.training for m in model.modules()] == [True, False, True, True, True]
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert model[3].weight.grad is gradient
    assert torch.equal(gradient, torch.ones_like(gradient))
    assert model[3].bias.grad is None


def test_quiet_unless_verbose(classifier, images, labels, capsys, caplog, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")  # in a log, too
    caplog.set_level(logging.DEBUG)
    AutoAttack(classifier, **SHORT).generate(images, labels)
    assert capsys.readouterr() == ("", "")
    assert not caplog.records
    AutoAttack(classifier, **{**SHORT, "verbose": True}, attacks="apgd-ce").generate(images, labels)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "AutoAttack apgd-ce" in shown.err


class Lies(nn.Module):
    """Is the module on these images, if ``honest``; anywhere else it names another class than the module."""

    def __init__(self, module, images, *, honest):
        super().__init__()
        self.module, self.images, self.honest = module, torch.from_numpy(images), honest

    def forward(self, x):
        logits = self.module(x)
        known = (x[:, None] == self.images).flatten(2).all(2).any(1)
        return torch.where((known & self.honest)[:, None], logits, -logits)


@pytest.mark.parametrize("honest", [False, True])
@pytest.mark.parametrize("member", ["apgd-ce", "apgd-t", "fab-t", "square"])
def test_a_copy_that_lies_about_success_changes_no_verdict(member, honest, classifier, images, labels, monkeypatch):
    """Dishonest at x, it has members give up at once; honest there, it has them return what breaks nothing."""
    # What remains after some successes is attacked again with other random numbers: so none or all succeed.
    for eps in (1e-6, 0.4) if honest else (1e-6, 0.012, 0.4):
        expected = broken(classifier, images, labels, eps=eps, attacks=member, precision="fp32")
        assert eps == 0.012 or expected.sum() in (3, 24)
        with monkeypatch.context() as patch:
            patch.setattr(
                "art_classwise.attacks.autoattack.fast_network", lambda c, *_: Lies(c.model, images, honest=honest)
            )
            ours = broken(classifier, images, labels, eps=eps, attacks=member, precision="bf16")
        assert np.array_equal(ours, expected)


def test_one_example_and_batches_of_any_size(classifier, images, labels):
    for norm in EPS:
        broken(classifier, images[:1], labels[:1], norm, EPS[norm])
    assert broken(classifier, images[2:3], labels[2:3]).all()  # wrong from the start
    for batch_size in (1, 23, 24):
        assert broken(classifier, images, labels, eps=0.1, attacks="apgd-ce", batch_size=batch_size).all()


def test_no_member_runs_where_nothing_is_left(classifier, images, labels, monkeypatch):
    monkeypatch.setattr(SquareAttack, "perturb", lambda *_: pytest.fail("ran"))
    assert broken(classifier, images, labels, eps=0.1, attacks=["apgd-ce", "square"]).all()
    wrong = (predicted(classifier, images) + 1) % 10
    attack = AutoAttack(classifier, attacks="square", verbose=False)
    assert np.array_equal(attack.generate(images, wrong), images)


def test_labels_may_be_absent_or_one_hot(classifier, images):
    y = predicted(classifier, images)
    attack = AutoAttack(classifier, eps=0.012, attacks="apgd-ce", **SHORT)
    expected = attack.generate(images, y)
    assert np.array_equal(attack.generate(images), expected)
    assert np.array_equal(attack.generate(images, np.eye(10)[y]), expected)


def test_preprocessing_defences_take_part(classifier, images):
    smoothing = SpatialSmoothing(channels_first=True, clip_values=(0.0, 1.0))  # on arrays; standardisation on tensors
    for options in ({"preprocessing_defences": [smoothing]}, {"preprocessing": (0.5, 0.25)}):
        defended = build(10, classifier.model, **options)
        assert broken(defended, images, predicted(defended, images), eps=0.2).mean() > 0.5


class Rounding(nn.Module):
    """No gradient gets through for images whose first pixel is above a half."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(torch.where(x[:, :1, :1, :1] > 0.5, (x * 8).round() / 8, x))


def test_masked_gradients_are_told(classifier, images, labels, caplog):
    masked = build(10, Rounding(classifier.model))
    y = predicted(masked, images)
    y[5] = (y[5] + 1) % 10
    attack = AutoAttack(masked, eps=0.05, **SHORT)
    assert attack.zero_gradient.shape == (0,)
    hidden = (images[:, 0, 0, 0] > 0.5) & (np.arange(24) != 5)
    with pytest.warns(GradientMaskingWarning, match=f"{hidden.sum() / 23:.0%} of the examples .* masked gradients"):
        attack.generate(images, y)
    assert np.array_equal(attack.zero_gradient, hidden)
    assert not caplog.records
    attack = AutoAttack(classifier, eps=0.05, attacks="apgd-ce", **SHORT)
    attack.generate(images, labels)
    assert not attack.zero_gradient.any()


class Root(nn.Module):
    """The gradient is infinite where a pixel is 0."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x.sqrt())


@pytest.mark.parametrize("norm", list(EPS))
def test_gradients_that_are_not_finite_give_finite_images(classifier, images, norm):
    dark = (images * 0.05).astype(np.float32)
    rooted = build(10, Root(classifier.model))
    broken(rooted, dark, predicted(rooted, dark), norm, EPS[norm])  # checks the images


class LostUnderAttack(nn.Module):
    """Gives NaN or infinity for all but these images; ``argmax`` takes that for class 0."""

    def __init__(self, images, value):
        super().__init__()
        self.images, self.value = torch.from_numpy(images), value
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(images[0].size, 5))
        with torch.no_grad():
            self.inner[1].bias[0] += 10

    def forward(self, x):
        moved = (x[:, None] != self.images).flatten(2).any(2).all(1)
        return torch.where(moved[:, None], self.value, self.inner(x))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("norm", list(EPS))
def test_logits_lost_under_attack_are_no_robustness(images, norm, value):
    """Of class 0, no example would be broken."""
    some = images[:3]
    classifier = as_classifier(LostUnderAttack(some, value), some.shape[1:], 5, device="cpu")
    assert (classifier.predict(some).argmax(1) == 0).all()
    for member in MEMBERS:
        attack = AutoAttack(classifier, norm, EPS[norm], attacks=member, n_iter=3, n_queries=2, verbose=False)
        with pytest.raises(InputError, match="not finite for attacked images, among those of examples 0 to 2"):
            attack.generate(some)


def test_equal_logits_dont_stop_it(images):
    constant = build(4, nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))
    nn.init.zeros_(constant.model[1].weight), nn.init.zeros_(constant.model[1].bias)
    with pytest.warns(GradientMaskingWarning, match="100% of the examples"):
        assert not broken(constant, images, np.zeros(24, dtype=np.int64)).any()


class Output(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output
        self.weight = nn.Parameter(torch.ones(192, 4))

    def forward(self, x):
        return self.output(x.flatten(1) @ self.weight)


def nan_from_3(logits):
    return torch.where(torch.arange(len(logits))[:, None] >= 3, torch.nan, logits)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (lambda z: (z, z), "returned tuple"),
        (lambda z: z[:, :3], r"logits of shape \(24, 4\)"),
        (nan_from_3, "not finite, first for example 3"),
    ],
)
def test_a_model_without_logits_is_named(output, says, images):
    with pytest.raises(InputError, match=says):
        AutoAttack(build(4, Output(output)), verbose=False).generate(images, np.zeros(24, dtype=int))


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"norm": 3}, "`norm` must be"),
        ({"eps": 0}, "radius must be a finite number above 0"),
        ({"eps": np.full(24, 0.1)}, "radius must be a finite number"),
        ({"eps": {0: 0.1}}, "radius must be a finite number"),
        ({"attacks": "apgd"}, "Did you mean apgd-"),
        ({"attacks": ("apgd-ce", "nonsense")}, "Unknown member of AutoAttack 'nonsense'"),
        ({"attacks": ("standard",)}, "Unknown member of AutoAttack 'standard'"),
        ({"attacks": ("square", "square")}, "names 'square' twice"),
        ({"attacks": ()}, "`attacks` must be"),
        ({"attacks": 5}, "`attacks` must be"),
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1"),
        ({"n_iter": 1.5}, "`n_iter` must be a whole number of at least 1"),
        ({"n_iter": 2, "norm": 1}, "`n_iter` must be a whole number of at least 3"),
        ({"n_queries": 0}, "`n_queries` must be"),
        ({"seed": -1}, "`seed` must be"),
        ({"precision": "fp16"}, "`precision` must be"),
        ({"verbose": 1}, "`verbose` must be True or False"),
    ],
)
def test_bad_parameters(parameters, says, classifier):
    with pytest.raises(InputError, match=says):
        AutoAttack(classifier, **parameters)
    attack = AutoAttack(classifier)
    with pytest.raises(InputError, match=says):
        attack.set_params(**parameters)


@pytest.mark.parametrize(
    ("clip_values", "says"),
    [
        (None, "are absent"),
        ((np.zeros(SHAPE), np.ones(SHAPE)), "are infinite or arrays"),
        ((0, np.inf), "are infinite"),
    ],
)
def test_clip_values_are_two_numbers(clip_values, says):
    with pytest.raises(InputError, match=f"two finite numbers, such as .0, 1., but they {says}"):
        AutoAttack(build(4, clip_values=clip_values))


def test_bad_input(classifier, images, labels):
    attack = AutoAttack(classifier, verbose=False)
    for keywords, says in (
        ({"mask": np.ones_like(images)}, "takes no mask: PGD"),
        ({"example_ids": np.arange(24)}, "got example_ids; it takes x and y"),
        ({"y": labels[:3]}, "differ in length"),
        ({"y": labels + 10}, "outside the 10 classes"),
        ({"x": images[:0]}, "x is empty"),
        ({"x": images[:, :2]}, "takes images of shape"),
        ({"x": images * 255}, "clip_values"),
        ({"x": np.full_like(images, np.nan)}, "not finite"),
    ):
        with pytest.raises(InputError, match=says):
            attack.generate(**{"x": images, "y": labels, **keywords})
    assert attack.generate(images[:1], labels[:1], mask=None).shape == (1, *SHAPE)
    with pytest.warns(UserWarning, match="covers every image"):
        AutoAttack(classifier, eps=8.0, attacks="apgd-ce", n_iter=1).generate(images, labels)
    with pytest.raises(EstimatorError):
        AutoAttack(BlackBoxClassifier(lambda x: np.eye(4)[np.zeros(len(x), dtype=int)], SHAPE, 4, clip_values=(0, 1)))


def test_is_an_art_attack(classifier):
    attack = AutoAttack(classifier, eps=0.1)
    assert attack.targeted is False
    assert all(hasattr(attack, name) for name in attack.attack_params)
    attack.set_params(eps=0.2, attacks=("fab",))
    assert (attack.eps, attack.members) == (0.2, ("fab",))
