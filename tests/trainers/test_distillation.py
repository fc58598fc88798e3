"""Distillation: its losses, its attack, its steps against a literal transcription, its teachers."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import trainable
from art.estimators.classification import BlackBoxClassifier
from torch import nn
from trainable import SMALL, Seen, Smooth, make

import art_classwise as acw
from art_classwise import InputError, losses
from art_classwise.policies import ABSLD, DAFA, FAAL, FairARD, absld_temperatures, fair_ard_weights
from art_classwise.trainers.engine.adversary import BoundarySearch, Budgets, InnerSearch, StepCount
from art_classwise.trainers.engine.soft_labels import TeacherLabels

DISTILLATION = acw.AdversarialTrainerDistillationPyTorch
METHODS = ("ard", "rslad", "fair-ard", "absld")
C = 10


def softmax(z, temperature=1.0):
    e = [math.exp((v - max(z)) / temperature) for v in z]
    return [v / sum(e) for v in e]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


# The losses.


def test_ard_is_the_formula():
    torch.manual_seed(0)
    z, z_adv, t = 3 * torch.randn(3, 5, 4, dtype=torch.float64)
    y = [0, 1, 2, 3, 1]
    for alpha, temperature in ((1.0, 30.0), (0.7, 2.0), (0.0, 1.0)):
        values = losses.ard(z, z_adv, t, torch.tensor(y), alpha, temperature).tolist()
        for i, value in enumerate(values):
            softened = (softmax(v[i].tolist(), temperature) for v in (t, z_adv))
            right = -math.log(softmax(z[i].tolist())[y[i]])
            assert value == pytest.approx((1 - alpha) * right + alpha * temperature**2 * kl(*softened), rel=1e-11)
    assert torch.equal(losses.ard(None, z_adv, t, torch.tensor(y)), losses.ard(z, z_adv, t, torch.tensor(y)))
    with pytest.raises(InputError, match="ARD needs the clean logits"):
        losses.ard(None, z_adv, t, torch.tensor(y), alpha=0.5)


@pytest.mark.parametrize("bad", [-0.1, 1.5, math.nan, "half", None])
def test_shares_of_the_losses_are_checked(bad):
    z, y = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(InputError, match="`alpha` must be a number from 0 to 1"):
        losses.ard(z, z, z, y, bad)
    with pytest.raises(InputError, match="`alpha` must be a number from 0 to 1"):
        losses.rslad(z, z, z, alpha=bad)


@pytest.mark.parametrize("bad", [0, -1, 1e-30, 1e30, 1e200, math.nan, math.inf, "warm"])
def test_temperatures_that_float32_can_not_compute_with_are_refused(bad):
    z, y = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(InputError, match="`temperature` must be a number from 0.001 to 1000, but got"):
        losses.ard(None, z, z, y, temperature=bad)


@pytest.mark.parametrize("temperature", [losses.SHARPEST, losses.SOFTEST])
def test_at_the_ends_of_their_range_losses_and_gradients_are_right(temperature):
    torch.manual_seed(0)
    z, t = 5 * torch.randn(2, 20, 10)
    found = []
    for kind in (torch.float32, torch.float64):
        logits = z.to(kind).requires_grad_()
        value = losses.ard(None, logits, t.to(kind), torch.zeros(20, dtype=torch.int64), temperature=temperature)
        found.append((value.detach(), *torch.autograd.grad(value.sum(), logits)))
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=0.02, atol=0.02 * float(double.abs().max()))


def test_rslad_is_the_formula():
    torch.manual_seed(0)
    z, z_adv, t, t_adv = 3 * torch.randn(4, 5, 4, dtype=torch.float64)
    for given, labels in (((t,), t), ((t, t_adv), t_adv)):
        for i, value in enumerate(losses.rslad(z, z_adv, *given).tolist()):
            clean, attacked = (
                kl(*(softmax(v[i].tolist()) for v in (t, z))),
                kl(*(softmax(v[i].tolist()) for v in (labels, z_adv))),
            )
            assert value == pytest.approx(clean / 6 + 5 * attacked / 6, rel=1e-11)
    assert losses.rslad(t, t, t).abs().max() < 1e-12  # nothing is to be learnt of a teacher by itself


# The attack, and the steps.


@pytest.fixture(scope="module")
def data():
    return acw.load_dataset("digits", "train").first(120)


def teacher_of(seed=5):
    return acw.as_classifier(Smooth(seed), (1, 8, 8), C, device="cpu")


def half(*shape):
    return torch.full(shape, 0.5)


@pytest.mark.parametrize("method", ["rslad", "absld"])
def test_the_attack_moves_away_from_the_teacher(method, data):
    student, teacher = make(Smooth), teacher_of()
    trainer = DISTILLATION(student, teacher, method, **SMALL)
    temperatures = torch.linspace(0.5, 2.0, C)
    if method == "absld":
        trainer._labels.temperatures = temperatures, torch.ones(C)
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    given = {"start": trainer._start, "loss": trainer._ascended, "attacked": "all"}
    x_adv = trainer._adversary(**given)(student.model, x, y, half)
    labels = teacher.model(x).detach()
    labels = (labels / temperatures[y, None] if method == "absld" else labels).softmax(1)
    delta = torch.full_like(x, 0.001 * math.sqrt(-2 * math.log(0.5)) * math.cos(math.pi))
    iterate = (x + delta).clamp(0, 1)
    for _ in range(SMALL["max_iter"]):
        iterate = iterate.detach().requires_grad_()
        divergence = -(labels * student.model(iterate).log_softmax(1)).sum()  # but for what doesn't depend on it
        (gradient,) = torch.autograd.grad(divergence, iterate)
        moved = iterate.detach() + SMALL["eps"] / 4 * gradient.sign()
        iterate = torch.min(torch.max(moved, x - SMALL["eps"]), x + SMALL["eps"]).clamp(0, 1)
    torch.testing.assert_close(x_adv, iterate, rtol=0, atol=1e-5)


def literal_training(method, seen, teacher, n_batches, alpha=None, exact=False, temperature=30.0):
    """The methods as their papers' algorithms have them, batch after batch and example after example."""
    model = Smooth(0).double()
    model.load_state_dict(make(Smooth).model.state_dict())
    stepper = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    alpha = (1.0 if "ard" in method else 5 / 6) if alpha is None else alpha
    weights, soft = [1.0] * C, [[1.0] * C, [1.0] * C]  # temperatures under attack, and clean
    kappa, risks = {}, [{}, {}]
    losses_of_epochs, total = [], []
    for number, (x, y, x_adv, budgets) in enumerate(seen, 1):
        withstood = None if budgets is None else budgets.count.n_withstood
        values = []
        with torch.no_grad():
            taught = teacher.model(x).double()
        z, z_adv = model(x.double()), model(x_adv.double())
        for i, k in enumerate(y.tolist()):
            if "ard" in method:
                t, p = (v[i] / temperature for v in (taught, z_adv))
                t, p = t.softmax(0), p.softmax(0)
                value = (1 - alpha) * -z[i].softmax(0)[k].log()
                value = value + alpha * temperature**2 * (t * (t / p).log()).sum() / (C if exact else 1)
            else:
                attacked, clean = ((taught[i] / soft[j][k]).softmax(0) for j in (0, 1))
                p_adv, p = z_adv[i].softmax(0), z[i].softmax(0)
                value = alpha * (attacked * (attacked / p_adv).log()).sum()
                value = (value + (1 - alpha) * (clean * (clean / p).log()).sum()) / (C if exact else 1)
            values.append(weights[k] * value)
            for j, logits in enumerate((z_adv, z)):
                risks[j].setdefault(k, []).append(float(-logits[i].detach().softmax(0)[k].log()))
            if withstood is not None:
                kappa.setdefault(k, []).append(int(withstood[i]))
        stepper.zero_grad()
        (sum(values) / len(values)).backward()
        stepper.step()
        total += [float(v.detach()) for v in values]
        if number % n_batches == 0:
            losses_of_epochs.append(sum(total) / len(total))
            total = []
            if method == "fair-ard":
                means = [sum(kappa[k]) / len(kappa[k]) for k in range(C)]
                inverse = [1 / (m + 1e-5) ** 2 for m in means]
                weights = [min(5 / 2, max(5 / 6, C * v / sum(inverse))) for v in inverse]
                kappa = {}
            if method == "absld":
                for j in (0, 1):
                    r = [sum(risks[j][k]) / len(risks[j][k]) for k in range(C)]
                    gaps = [v - sum(r) / C for v in r]
                    soft[j] = [
                        min(5, max(0.5, s - 0.1 * g / max(map(abs, gaps)))) for s, g in zip(soft[j], gaps, strict=True)
                    ]
                risks = [{}, {}]
    return model.state_dict(), losses_of_epochs, weights, soft


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ard", {}),
        ("ard", {"alpha": 0.6, "temperature": 4.0, "exact": True}),
        ("rslad", {}),
        ("rslad", {"exact": True, "alpha": 0.5}),
        ("fair-ard", {"temperature": 2.0}),
        ("absld", {}),
    ],
)
def test_training_is_that_of_the_papers(method, options, data):
    student, teacher = make(Smooth), teacher_of()
    trainer = DISTILLATION(student, teacher, method, **SMALL, **options)
    seen = Seen(trainer)
    history = trainer.fit(data.x, data.y, batch_size=40, nb_epochs=3)
    weights, values, class_weights, temperatures = literal_training(method, seen, teacher, 3, **options)
    for name, value in student.model.state_dict().items():
        np.testing.assert_allclose(value, weights[name], rtol=0, atol=1e-4, err_msg=name)
    # T^2 times the divergence of predictions that are all but even loses digits in float32; its gradient does not.
    np.testing.assert_allclose(history["loss"], values, rtol=1e-3)
    assert history["clean"].isna().all() == ("ard" in method and "alpha" not in options)
    if method == "fair-ard":  # of the last epoch, which those after it don't change
        assert history[[f"weight_{k}" for k in range(C)]].nunique().max() == 3
        assert len({round(w, 6) for w in class_weights}) > 1
    if method == "absld":
        again = DISTILLATION(make(Smooth), teacher, method, **SMALL)
        longer = again.fit(data.x, data.y, batch_size=40, nb_epochs=4).iloc[-1]
        for name, expected in zip(("temperature", "clean_temperature"), temperatures, strict=True):
            assert [longer[f"{name}_{k}"] for k in range(C)] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", [InnerSearch, BoundarySearch])
def test_a_search_counts_the_iterates_that_are_withstood(kind, data):
    """Those at which it computes a gradient, of which the n-th is where a search of n steps ends."""
    model, x = Smooth(), torch.from_numpy(data.x)
    y = model(x).argmax(1)
    bounds = acw.ThreatModel("Linf", 0.2), 0.05
    low, high = torch.tensor(0.0), torch.tensor(1.0)
    count = StepCount()
    kind(*bounds, 4, low, high)(model, x, y, half, Budgets(count=count))
    iterates = [InnerSearch(*bounds, n, low, high)(model, x, y, half) for n in range(4)]
    expected = sum((model(iterate).argmax(1) == y).long() for iterate in iterates)
    assert torch.equal(count.n_withstood, expected)
    assert len(set(expected.tolist())) > 3


# The policies' formulas.


def test_fair_ards_weights_are_those_of_the_released_code():
    kappa = [1.0, 2.0, 3.0, 4.0, 0.5]
    inverse = [(1 / (k + 1e-5)) ** 2 for k in kappa]
    expected = [min(2.5, max(5 / 6, 5 * v / sum(inverse))) for v in inverse]
    assert fair_ard_weights(kappa).tolist() == pytest.approx(expected, rel=1e-12)
    unclipped = fair_ard_weights(kappa, 1.0, 1e-9, 1e9)
    assert unclipped.mean() == pytest.approx(1)
    assert (unclipped * (np.array(kappa) + 1e-5)).std() < 1e-9  # proportional to 1 / kappa
    assert fair_ard_weights([3.0, 3.0, math.nan]).tolist() == [1, 1, 1]
    assert np.isfinite(fair_ard_weights([0.0, 10.0], power=99.0)).all()
    assert fair_ard_weights([0.0, 10.0]).tolist() == pytest.approx([2, 5 / 6])
    assert fair_ard_weights([math.nan, math.nan]).tolist() == [1, 1]


def test_temperatures_go_against_the_risks():
    t = [1.0, 2.0, 0.55, 4.95]
    assert absld_temperatures(t, [4.0, 2.0, 6.0, 0.0]).tolist() == pytest.approx([1 - 0.1 / 3, 2 + 0.1 / 3, 0.5, 5.0])
    assert absld_temperatures(t, [1.0] * 4).tolist() == t
    assert absld_temperatures(t, [math.nan, 1.0, math.nan, 3.0]).tolist() == pytest.approx([1, 2.1, 0.55, 4.85])
    assert absld_temperatures(t, [math.nan] * 4).tolist() == t


@pytest.mark.parametrize("rate", [0.1, 5.0, 100.0])
def test_no_temperature_reaches_0(rate):
    t = np.ones(3)
    for _ in range(30):
        t = absld_temperatures(t, [5.0, 1.0, 0.1], rate)
        assert ((t >= 0.5) & (t <= 5)).all()


@pytest.mark.parametrize(
    ("make_policy", "says"),
    [
        (
            lambda: ABSLD(lowest=0),
            "`lowest` must be a number from 0.001 to 1, but got 0. Logits are divided by .* reach 0",
        ),
        (lambda: ABSLD(lowest=-1), "may not reach 0"),
        (lambda: ABSLD(lowest=2), "`lowest`"),
        (lambda: ABSLD(lowest=1e-30), "may not reach 0"),  # of whose quotients nothing is left in float32
        (lambda: ABSLD(highest=0.5), "`highest` must be a number from 1 to 1000"),
        (lambda: ABSLD(highest=1e300), "`highest`"),
        (lambda: ABSLD(highest=math.inf), "`highest`"),
        (lambda: ABSLD(rate=-0.1), "`rate`"),
        (lambda: ABSLD(rate="much"), "`rate`"),
        (lambda: ABSLD(exact=1), "`exact`"),
        (lambda: FairARD(power=-1), "`power`"),
        (lambda: FairARD(power=math.nan), "`power`"),
        (lambda: FairARD(lowest=0), "`lowest`"),
        (lambda: FairARD(lowest=1.5), "`lowest`"),
        (lambda: FairARD(highest=0.9), "`highest`"),
    ],
)
def test_policies_refuse_bad_numbers(make_policy, says):
    with pytest.raises(InputError, match=says):
        make_policy()


def test_with_exact_both_labels_have_both_temperatures(data):
    teacher = teacher_of()
    trainer = DISTILLATION(make(Smooth), teacher, "absld", class_policy=ABSLD(exact=True), **SMALL)
    history = trainer.fit(data.x, data.y, batch_size=40, nb_epochs=2)
    y = torch.from_numpy(data.y[:30])
    trainer._labels.see(torch.from_numpy(data.x[:30]), y)
    adversarial, clean = trainer._labels.temperatures
    assert torch.equal(adversarial, clean)
    assert torch.equal(trainer._labels.logits, trainer._labels.logits_adv)
    assert history["temperature_3"].iloc[-1] != history["clean_temperature_3"].iloc[-1]
    expected = teacher.model(torch.from_numpy(data.x[:30])) / clean.float()[y, None]
    torch.testing.assert_close(trainer._labels.logits, expected)


def test_labels_at_the_exact_switchs_default_are_two():
    labels = TeacherLabels(teacher_of(), C)
    labels.temperatures = torch.full((C,), 2.0), torch.full((C,), 4.0)
    labels.see(torch.rand(4, 1, 8, 8), torch.arange(4))
    torch.testing.assert_close(labels.logits_adv, 2 * labels.logits)


# Teachers.


def test_the_teacher_stays_as_it_is(data):
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, C)
    )
    network.train()
    network[1].eval()
    network[0].weight.requires_grad_(False)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    teacher = acw.as_classifier(network, (1, 8, 8), C, device="cpu")
    modes, before = [m.training for m in network.modules()], copy.deepcopy(network.state_dict())
    flags = [p.requires_grad for p in network.parameters()]
    for method in METHODS:
        DISTILLATION(make(Smooth), teacher, method, **SMALL).fit(data.x, data.y, batch_size=40, nb_epochs=1)
        assert [m.training for m in network.modules()] == modes
        assert [p.requires_grad for p in network.parameters()] == flags
        assert all((p.grad == 1).all() for p in network.parameters())
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_any_art_classifier_teaches(data):
    """One that predicts by a function of arrays teaches the same as the network in it."""
    teacher = teacher_of()
    other = BlackBoxClassifier(teacher.predict, (1, 8, 8), C, clip_values=(0, 1))
    ends = []
    for each in (teacher, other):
        student = make(Smooth)
        DISTILLATION(student, each, "rslad", **SMALL).fit(data.x, data.y, batch_size=40, nb_epochs=1)
        ends.append(trainable.weights(student))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-6)


def test_a_student_comes_closer_to_its_teacher(data):
    teacher = make()
    acw.AdversarialTrainerStandardPyTorch(teacher, **SMALL).fit(data.x, data.y, batch_size=40, nb_epochs=6)
    for method in METHODS:
        student = make(Smooth)
        labels = torch.from_numpy(teacher.predict(data.x))
        before = losses.kl(labels, torch.from_numpy(student.predict(data.x))).mean()
        DISTILLATION(student, teacher, method, **SMALL).fit(data.x, data.y, batch_size=40, nb_epochs=6)
        assert losses.kl(labels, torch.from_numpy(student.predict(data.x))).mean() < 0.5 * before


def test_excluded_classes_have_no_share_of_the_labels(data):
    """As a teacher would have taught that never had them: one whose logits of them are -10,000."""
    teacher, without = teacher_of(), teacher_of()
    with torch.no_grad():
        without.model.layers[-1].bias[[2, 5]] = -1e9
    for method in METHODS:
        ends = []
        for each in (teacher, without):
            student = make()
            history = DISTILLATION(student, each, method, excluded=[2, 5], **SMALL).fit(
                data.x, data.y, batch_size=40, nb_epochs=2
            )
            ends.append(trainable.weights(student))
            assert np.isfinite(history["loss"]).all()
        torch.testing.assert_close(*ends, rtol=0, atol=1e-6)
        assert not np.isin(student.predict(data.x).argmax(1), [2, 5]).any()


@pytest.mark.parametrize("policy", [None, FAAL(), DAFA(lamb=0.1, warmup=1)])
def test_class_policies_weigh_its_terms(policy, data):
    student = make(Smooth)
    trainer = DISTILLATION(student, teacher_of(), "rslad", class_policy=policy, awp_gamma=1e-3, ema_decay=0.9, **SMALL)
    history = trainer.fit(data.x, data.y, batch_size=40, nb_epochs=2, validation_data=(data.x[:40], data.y[:40]))
    assert ("weight_0" in history) == (policy is not None)
    assert np.isfinite(history["loss"]).all()


def a_teacher(n_classes=C, shape=(1, 8, 8), clip_values=(0, 1)):
    from art.estimators.classification import PyTorchClassifier

    network = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), n_classes))
    return PyTorchClassifier(
        network, nn.CrossEntropyLoss(), shape, n_classes, clip_values=clip_values, device_type="cpu"
    )


@pytest.mark.parametrize(
    ("teacher", "options", "says"),
    [
        (lambda s: None, {}, "Distillation needs a `teacher`: an ART classifier"),
        (lambda s: s, {}, "The teacher is the network that is trained"),
        (lambda s: acw.as_classifier(s.model, (1, 8, 8), C, device="cpu"), {}, "The teacher is the network"),
        (lambda s: s.model, {}, "`teacher` must be an ART classifier, but is a Smooth; as_classifier"),
        (lambda s: a_teacher(7), {}, "The teacher has 7 classes, but the classifier has 10: they must be the same"),
        (
            lambda s: a_teacher(shape=(1, 8, 9)),
            {},
            r"takes images of shape \(1, 8, 9\), but the classifier takes \(1, ",
        ),
        (lambda s: a_teacher(clip_values=(0, 255)), {}, "takes images within"),
        (lambda s: a_teacher(), {"method": "rsald"}, "Unknown method of distillation 'rsald'. Did you mean rslad"),
        (lambda s: a_teacher(), {"alpha": 1.5}, "`alpha` must be a number from 0 to 1"),
        (lambda s: a_teacher(), {"alpha": "x"}, "`alpha`"),
        (lambda s: a_teacher(), {"method": "ard", "temperature": 0}, "`temperature` must be a number from 0.001 to"),
        (lambda s: a_teacher(), {"method": "ard", "temperature": 1e-30}, "`temperature`"),  # its square is 0
        (lambda s: a_teacher(), {"method": "fair-ard", "temperature": 1e200}, "`temperature`"),  # and that overflows
        (lambda s: a_teacher(), {"temperature": 2.0}, '`temperature` is a parameter of the methods "ard"'),
        (lambda s: a_teacher(), {"method": "absld", "temperature": 2.0}, "class by class"),
        (lambda s: a_teacher(), {"exact": "yes"}, "`exact`"),
        (lambda s: a_teacher(), {"label_smoothing": 0.1}, "`label_smoothing` is that of a cross-entropy"),
        (lambda s: a_teacher(), {"method": "ard", "label_smoothing": 0.1}, "with `alpha` below 1: leave it out"),
        (lambda s: a_teacher(), {"method": "absld", "class_policy": FAAL()}, "sets its own class policy, ABSLD"),
        (lambda s: a_teacher(), {"method": "fair-ard", "class_policy": FAAL()}, 'take the method "ard"'),
    ],
)
def test_what_can_not_teach_is_refused(teacher, options, says):
    student = make(Smooth)
    with pytest.raises(InputError, match=says):
        DISTILLATION(student, teacher(student), **SMALL, **options)


@pytest.mark.parametrize("method", ["ard", "absld"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_teacher_without_numbers_is_told_from_a_training_that_diverges(data, method, value):
    teacher = a_teacher()
    with torch.no_grad():
        teacher.model[1].bias[3] = value
    with pytest.raises(InputError, match="teacher's logits aren't finite"):
        DISTILLATION(make(Smooth), teacher, method, **SMALL).fit(data.x, data.y, batch_size=40, nb_epochs=1)


class Sharper(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return 2 * self.network(x)


def test_a_teacher_with_weights_of_the_student_is_refused():
    """It would change as the student does."""
    student = make()
    around = acw.as_classifier(Sharper(student.model), (1, 8, 8), C, device="cpu")
    with pytest.raises(InputError, match=r"shares weights with the network that is trained, network\.features"):
        DISTILLATION(student, around, **SMALL)
    other = make()
    other.model.norm.running_mean = student.model.norm.running_mean  # which training moves, too
    with pytest.raises(InputError, match=r"shares weights .*, norm\.running_mean"):
        DISTILLATION(student, other, **SMALL)
    frozen = make()
    frozen.model.features.weight = student.model.features.weight
    with pytest.raises(InputError, match=r"shares weights .*, features\.weight"):
        DISTILLATION(student, frozen, **SMALL)
    student.model.features.weight.requires_grad_(False)  # then it stays as it is
    DISTILLATION(student, frozen, **SMALL)
    DISTILLATION(student, acw.as_classifier(Sharper(copy.deepcopy(student.model)), (1, 8, 8), C, device="cpu"), **SMALL)


def test_absld_needs_a_teacher():
    for trainer in (acw.AdversarialTrainerTRADESPyTorch, acw.NaturalTrainerPyTorch):
        with pytest.raises(InputError, match="of which this training has none: take AdversarialTrainerDistillation"):
            trainer(make(), class_policy=ABSLD(), **SMALL).fit(np.zeros((4, 1, 8, 8), np.float32), [0, 1, 2, 3])


def test_fair_ards_weights_need_the_built_in_attack():
    classifier = make()
    attack = acw.PGD(classifier, eps=0.1, verbose=False)
    with pytest.raises(InputError, match="FairARD directs or counts the steps of the built-in attack"):
        acw.AdversarialTrainerStandardPyTorch(classifier, attack=attack, class_policy=FairARD())
    with pytest.raises(InputError, match="FairARD has no effect"):
        acw.NaturalTrainerPyTorch(classifier, class_policy=FairARD())


def test_a_teacher_of_probabilities_is_warned_of(data):
    teacher = acw.as_classifier(nn.Sequential(Smooth(5), nn.Softmax(1)), (1, 8, 8), C, device="cpu")
    trainer = DISTILLATION(make(Smooth), teacher, **SMALL)
    with pytest.warns(UserWarning, match="seems to return probabilities. Distillation applies the softmax itself"):
        trainer.fit(data.x, data.y, batch_size=40, nb_epochs=1)


# Checkpoints.


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_training_goes_on_as_if_it_had_not(method, data, tmp_path):
    def trained(folder, resume=False, stop=None, teacher=5):
        student = make()
        trainer = DISTILLATION(student, teacher_of(teacher), method, **SMALL)

        class Schedule:
            epochs = 0

            def step(self):
                self.epochs += 1
                if self.epochs == stop:
                    raise KeyboardInterrupt

        history = trainer.fit(
            *(data.x, data.y),
            batch_size=40,
            nb_epochs=4,
            scheduler=Schedule(),
            checkpoint_dir=tmp_path / folder,
            resume=resume,
        )
        return trainable.weights(student), history.drop(columns="images_per_second")

    whole, history = trained("whole")
    with pytest.raises(KeyboardInterrupt):
        trained("stopped", stop=3)
    with pytest.raises(InputError, match="of another recipe .*teacher_weights"):
        trained("stopped", resume=True, teacher=6)
    weights, again = trained("stopped", resume=True)
    assert torch.equal(weights, whole)
    assert again.equals(history)
