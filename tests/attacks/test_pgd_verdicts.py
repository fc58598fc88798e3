"""What PGD promises of its verdicts, whatever network it is searched on, and what it refuses and warns of."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from art.summary_writer import SummaryWriter
from torch import nn
from torch.nn import functional

import art_classwise as acw
from art_classwise import InputError, as_classifier
from art_classwise.attacks import PGD
from art_classwise.errors import GradientMaskingWarning

SHAPE = (3, 6, 6)
QUIET = {"verbose": False}


def build(module, n_classes=4):
    return as_classifier(module, SHAPE, n_classes, device="cpu")


def wrong(classifier, x, y):
    return classifier.predict(x).argmax(1) != y


class Lies(nn.Module):
    """Names another class than the module, for images whose first pixel is above a value."""

    def __init__(self, module, above):
        super().__init__()
        self.module, self.above = module, above

    def forward(self, x):
        logits = self.module(x)
        return torch.where((x[:, 0, 0, 0] > self.above)[:, None], -logits, logits)


def lie(monkeypatch, above):
    def fast_network(estimator, *args, **kwargs):
        return Lies(estimator.model, above)

    monkeypatch.setattr("art_classwise.attacks._base.fast_network", fast_network)


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("above", [-1.0, 0.5])
def test_what_the_fast_network_wrongly_takes_for_a_success_goes_on_on_the_exact_one(
    above, targeted, restarts, classifier, images, own, monkeypatch
):
    """All that it claims is claimed at the start: so the whole search is run on the exact network."""
    images[:, 0, 0, 0] = np.where(np.arange(16) % 3 == 0, 0.9, 0.1)
    own = classifier.predict(images).argmax(1)
    y = classifier.predict(images).argmin(1) if targeted else own  # -logits has the target
    options = {"eps": 0.08, "max_iter": 10, "num_random_init": restarts, "targeted": targeted, **QUIET}
    expected = PGD(classifier, early_stop=True, **options).generate(images, y)
    lie(monkeypatch, above)
    found = PGD(classifier, early_stop=True, **options).generate(images, y)
    broken = wrong(classifier, expected, y) != targeted
    assert broken.sum() > 0
    assert np.array_equal(wrong(classifier, found, y) != targeted, broken)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - images).max() <= 0.08 + 1e-6


def test_a_fast_network_that_is_wrong_at_x_claims_nothing(classifier, images, own, monkeypatch):
    """Whether x itself is misclassified is asked of the exact network."""
    lie(monkeypatch, -1.0)
    x_adv = PGD(classifier, eps=1e-4, max_iter=2, early_stop=True, **QUIET).generate(images, own)
    assert not wrong(classifier, x_adv, own).any()
    assert not any(np.array_equal(a, b) for a, b in zip(x_adv, images, strict=True))
    y = (own + 1) % 4  # wrong at x, and the fast network doesn't see it: searched for, in vain or not, it stays wrong
    assert wrong(classifier, PGD(classifier, eps=1e-4, early_stop=True, **QUIET).generate(images, y), y).all()


def test_restarts_compete_on_the_exact_network(classifier, images, own, monkeypatch):
    """A fast network turned upside down searches the wrong way: what is kept is the least bad in truth."""
    lie(monkeypatch, -1.0)
    options = {"eps": 0.2, "max_iter": 3, **QUIET}

    def margin(x_adv):
        z = classifier.predict(x_adv)
        others = np.where(np.eye(4, dtype=bool)[own], -np.inf, z).max(1)
        return others - z[np.arange(16), own]

    one = margin(PGD(classifier, num_random_init=1, **options).generate(images, own))
    many = margin(PGD(classifier, num_random_init=5, **options).generate(images, own))
    assert (many >= one - 1e-5).all()
    assert (many > one + 1e-3).any()


class Recorder(SummaryWriter):
    def __init__(self):
        self.updates = []

    def update(self, batch_id, global_step, grad=None, patch=None, estimator=None, x=None, y=None, **kwargs):
        self.updates.append((x, y))

    def reset(self):
        pass


def test_the_summary_writer_is_told_the_labels_of_what_goes_on(classifier, images, monkeypatch):
    images[:, 0, 0, 0] = np.where(np.arange(16) >= 8, 0.9, 0.1)
    y = classifier.predict(images).argmax(1)
    lie(monkeypatch, 0.5)
    recorder = Recorder()
    PGD(classifier, eps=0.01, max_iter=1, early_stop=True, summary_writer=recorder, **QUIET).generate(images, y)
    assert [len(x) for x, _ in recorder.updates] == [16, 8]
    for x, told in recorder.updates:
        near = np.abs(x[:, None] - images).max((2, 3, 4)).argmin(1)
        assert np.array_equal(told, np.eye(4)[y[near]])


class Output(nn.Module):
    def __init__(self, module, output):
        super().__init__()
        self.module, self.output = module, output

    def forward(self, x):
        return self.output(x, self.module(x))


def broken_where_bright(value):
    return lambda x, z: torch.where((x[:, :1, 0, 0] > 0.8) & (torch.arange(4) == 2), value, z)


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_name_the_first_example(value, early_stop, network, images, own):
    images[:, 0, 0, 0] = 0.5
    images[[13, 10, 11], 0, 0, 0] = 0.9
    classifier = build(Output(network, broken_where_bright(value)))
    attack = PGD(classifier, eps=0.01, max_iter=2, batch_size=4, early_stop=early_stop, **QUIET)
    for y in (np.full(16, 1), None):
        with pytest.raises(InputError, match="logits that are not finite, first for example 10"):
            attack.generate(images, y)
    assert attack.generate(images[:10], own[:10]).shape == (10, *SHAPE)


def test_logits_that_stop_being_finite_on_the_way_are_named(network, images):
    images[:, 0, 0, 0] = 0.3
    images[5, 0, 0, 0] = 0.8

    def output(x, z):
        first = x[:, :1, 0, 0]
        return torch.where((first > 0.6) & ((first - 0.8).abs() > 0.03), torch.nan, z)

    classifier, y = build(Output(network, output)), np.full(16, 3)
    PGD(classifier, eps=0.02, eps_step=0.02, max_iter=3, num_random_init=0, **QUIET).generate(images, y)
    with pytest.raises(InputError, match="first for example 5"):
        PGD(classifier, eps=0.1, eps_step=0.04, max_iter=3, num_random_init=0, **QUIET).generate(images, y)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (lambda x, z: (z, z), "must return a tensor of logits, but returned tuple"),
        (lambda x, z: {"logits": z}, "returned dict"),
        (lambda x, z: z[:, :3], r"logits of shape \(\d+, 4\) for \d+ examples of 4 classes, but returned \(\d+, 3\)"),
        (lambda x, z: z[:8], r"but returned \(8, 4\)"),
        (lambda x, z: z[:, :, None], r"but returned \(\d+, 4, 1\)"),
    ],
)
@pytest.mark.parametrize(
    "options", [{}, {"early_stop": True}, {"num_random_init": 2}, {"loss": "kl"}, {"precision": "bf16"}], ids=str
)
def test_a_model_without_logits_is_named(output, says, options, network, images, labels):
    with pytest.raises(InputError, match=says):
        PGD(build(Output(network, output)), max_iter=2, **options, **QUIET).generate(images, labels)


class Explode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return torch.where(x[:, :1, :1, :1] > 0.5, torch.inf, gradient)


class Rounded(nn.Module):
    """No gradient gets through for images whose first pixel is above a half; if ``explodes``, an infinite one."""

    def __init__(self, module, explodes):
        super().__init__()
        self.module, self.explodes = module, explodes

    def forward(self, x):
        if self.explodes:
            return self.module(Explode.apply(x))
        return self.module(torch.where(x[:, :1, :1, :1] > 0.5, (x * 8).round() / 8, x))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", [{}, {"num_random_init": 2, "early_stop": True}, {"targeted": True}], ids=str)
@pytest.mark.parametrize("explodes", [False, True], ids=["zero", "not finite"])
def test_a_twentieth_of_masked_gradients_is_warned_of(explodes, options, network, images):
    classifier = build(Rounded(network, explodes))
    attack = PGD(classifier, eps=0.01, max_iter=3, batch_size=8, **options, **QUIET)
    assert attack.zero_gradient.shape == (0,)
    x = np.concatenate([images, images[:5]])
    x[:, 0, 0, 0] = 0.1
    x[19, 0, 0, 0] = 0.9
    y = classifier.predict(x).argmax(1)
    y = (y + 1) % 4 if "targeted" in options else y
    with pytest.warns(GradientMaskingWarning, match="^5% of the examples met a gradient that was zero or not finite"):
        x_adv = attack.generate(x[:20], y[:20])
    assert np.array_equal(attack.zero_gradient, np.arange(20) == 19)
    assert np.isfinite(x_adv).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack.generate(x, y)  # one of 21 is less
        assert np.array_equal(attack.zero_gradient, np.arange(21) == 19)
        attack.generate(x[:19], y[:19])
        assert not attack.zero_gradient.any()


@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr"])
def test_an_example_that_is_broken_is_no_sign_of_masked_gradients(loss, classifier, images, own):
    """The difference of logits ratio is constant once the label ranks third: then the attack has succeeded."""
    attack = PGD(classifier, eps=0.2, max_iter=10, loss=loss, **QUIET)
    assert wrong(classifier, attack.generate(images, own), own).all()
    assert not attack.zero_gradient.any()


def test_bf16_gives_float32_images_in_the_ball_and_nearly_the_same_robust_accuracy(classifier):
    x = np.random.default_rng(4).random((256, *SHAPE), dtype=np.float32)
    y = classifier.predict(x).argmax(1)
    for norm, eps in ((np.inf, 0.03), (2, 0.25)):
        options = {"norm": norm, "eps": eps, "max_iter": 6, "early_stop": True, **QUIET}
        results = [PGD(classifier, precision=p, **options).generate(x, y) for p in ("fp32", "bf16")]
        accuracies = [1 - wrong(classifier, x_adv, y).mean() for x_adv in results]
        assert 0.2 < accuracies[0] < 0.9
        assert abs(accuracies[1] - accuracies[0]) <= 0.02
        assert results[1].dtype == np.float32
        size = np.linalg.norm((results[1] - x).reshape(256, -1).astype(np.float64), norm, axis=1)
        assert size.max() <= eps * (1 + 1e-5)
        assert results[1].min() >= 0
        assert results[1].max() <= 1
        assert not np.array_equal(*results)  # it did search in another precision


def test_verdicts_are_exact_under_autocast_too(classifier, images, own):
    attack = PGD(classifier, eps=0.05, max_iter=5, early_stop=True, precision="fp32", num_random_init=2, **QUIET)
    expected = wrong(classifier, attack.generate(images, own), own)
    with torch.autocast("cpu", torch.bfloat16):
        x_adv = attack.generate(images, own)
    assert x_adv.dtype == np.float32
    assert abs(int(wrong(classifier, x_adv, own).sum()) - int(expected.sum())) <= 1


def test_dlr_and_kl_are_refused_where_they_have_no_meaning(classifier):
    two = build(nn.Sequential(nn.Flatten(), nn.Linear(108, 2)), 2)
    for estimator, options, says in (
        (classifier, {"loss": "dlr", "targeted": True}, "take ClassWiseAttack"),
        (two, {"loss": "dlr"}, '"dlr" compares three classes, and the model has two: take "margin"'),
        (classifier, {"loss": "kl", "targeted": True}, '"kl" moves away .* no targeted form'),
        (classifier, {"loss": "kl", "num_random_init": 0}, 'gradient of the loss "kl" is zero at x itself'),
        (classifier, {"loss": "marign"}, "Unknown loss 'marign'. Did you mean margin"),
        (classifier, {"loss": "ce"}, "Unknown loss 'ce'"),
    ):
        with pytest.raises(InputError, match=says):
            PGD(estimator, **options)
        attack = PGD(estimator)
        with pytest.raises(InputError, match=says):
            attack.set_params(**options)
    PGD(build(nn.Sequential(nn.Flatten(), nn.Linear(108, 3)), 3), loss="dlr")
    PGD(two, loss="margin")


def test_the_loss_is_part_of_what_the_attack_shows(classifier):
    assert "loss=margin" in repr(PGD(classifier, loss="margin"))


def test_the_temperature_cross_entropy_has_plain_pgds_direction_where_it_underflows(network, images):
    """Logits x 2000: the gradient of -log p_y is zero in float32, that of PGD's loss isn't."""
    confident = build(Output(network, lambda x, z: 2000 * z))
    y = confident.predict(images).argmax(1)
    x = torch.from_numpy(images).requires_grad_()
    (plain,) = torch.autograd.grad(functional.cross_entropy(confident.model(x), torch.from_numpy(y)), x)
    assert (plain == 0).float().mean() > 0.5
    attack = PGD(confident, eps=0.2, max_iter=10, **QUIET)
    assert wrong(confident, attack.generate(images, y), y).all()
    assert not attack.zero_gradient.any()


def test_early_stop_finds_as_much_where_the_caller_computes_roughly(digits):
    """Under autocast (as under TF32) logits claim what float32 denies: the search must then go on in float32."""
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    classifier = acw.as_classifier(network, (1, 8, 8), 10, optimizer=optimizer, device="cpu")
    train = acw.load_dataset("digits", "train")
    trainer = acw.AdversarialTrainerStandardPyTorch(classifier, eps=0.1, max_iter=3, verbose=False)
    trainer.fit(train.x, train.y, batch_size=64, nb_epochs=5)
    attack = PGD(classifier, eps=0.1, eps_step=0.002, max_iter=60, early_stop=True, **QUIET)
    x, y = digits.x[:300], digits.y[:300]
    plain = wrong(classifier, attack.generate(x, y), y).sum()
    with torch.autocast("cpu", torch.bfloat16):
        rough = attack.generate(x, y)
    assert 20 < plain < 280
    assert abs(int(wrong(classifier, rough, y).sum()) - int(plain)) <= 2


def test_minus_infinity_is_a_fault_where_no_class_is_excluded(images, labels):
    """Such as the logarithm of a softmax that underflows."""
    build = nn.Sequential(nn.Flatten(), nn.Linear(108, 4), Underflowing())
    classifier = acw.as_classifier(build, (3, 6, 6), 4, device="cpu")
    with pytest.raises(InputError, match="not finite, first for example 0"):
        PGD(classifier, **QUIET).generate(images, labels)


class Underflowing(nn.Module):
    def forward(self, x):
        return (1e4 * x).softmax(1).log()
