"""On odd networks, no attack, training or audit reports more robustness than a plain attack on the module leaves."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from odd_networks import OddNetwork, table
from plain_attack import plain_attack, plain_prediction
from torch import Tensor, nn
from trainable import UNTAUGHT

import art_classwise as acw
from art_classwise.errors import GradientMaskingWarning
from art_classwise.trainers import METHODS

NETWORKS = table()
EPS = {math.inf: 0.03, 2: 0.25, 1: 2.0}
STEPS = 8
RATE = 0.01
N = 16


@pytest.fixture(autouse=True)
def same_random_numbers() -> Iterator[None]:
    """Some of the networks draw from the global state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@dataclass
class Case:
    """An odd network as a classifier, and inputs with its own predictions as labels."""

    odd: OddNetwork
    module: nn.Module
    classifier: Any
    x: Tensor
    y: Tensor

    def broken(self, points: Any) -> int:
        """Count the points that the module takes for another class than the labels."""
        return int((plain_prediction(self.module, torch.as_tensor(points)) != self.y).sum())

    def plainly_broken(self, norm: float = math.inf, steps: int = STEPS) -> int:
        return self.broken(plain_attack(self.module, self.x, self.y, norm, EPS[norm], steps))


def made(odd: OddNetwork, optimizer: bool = False) -> Case:
    with tolerated():
        module = odd.make()
        x = odd.images(N)
        y = plain_prediction(module, x)
        weights = [p for p in module.parameters() if p.requires_grad] if optimizer else []
        moved_by = torch.optim.SGD(weights, lr=RATE) if weights else None
        classifier = acw.as_classifier(module, odd.shape, odd.n_classes, optimizer=moved_by, device="cpu")
    return Case(odd, module, classifier, x, y)


@contextmanager
def tolerated() -> Iterator[None]:
    """Let torch deprecate and doubt what it likes: what we warn of zero gradients stays an error."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module="torch")
        for said in (
            "None of the inputs have requires_grad",  # a reentrant checkpoint, asked for logits alone
            "quantized::.*autograd kernel was not registered",
            "The .grad attribute of a Tensor that is not a leaf",  # torch.compile looks at it
            "TypedStorage is deprecated",  # copies of quantised weights meet it
            "The model seems to return probabilities",  # ours, of the one-hot decisions
        ):
            warnings.filterwarnings("ignore", said, UserWarning)
        yield


@contextmanager
def warned(odd: OddNetwork) -> Iterator[None]:
    """Where there is no gradient, an attack says so; where there is one, it says nothing."""
    with tolerated():
        if odd.may_mask:
            warnings.simplefilter("ignore", GradientMaskingWarning)
            yield
        elif odd.has_gradients:
            yield
        else:
            with pytest.warns(GradientMaskingWarning):
                yield


def pgd(norm: float = math.inf, **options: Any) -> Callable[[Any], Any]:
    return lambda c: acw.PGD(c, norm, EPS[norm], max_iter=STEPS, verbose=False, **options)


def precision(odd: OddNetwork) -> str:
    """Return one that doesn't go by the machine; other tests have its own choice."""
    return ("fp32", "bf16")[NETWORKS.index(odd) % 2] if odd.name.endswith("large") else "auto"


def temperature_pgd(norm: float) -> Callable[[Any], Any]:
    return lambda c: acw.TemperaturePGD(c, norm=norm, eps=EPS[norm], max_iter=STEPS, verbose=False)


def class_wise(norm: float, **options: Any) -> Callable[[Any], Any]:
    return lambda c: acw.ClassWiseAttack(c, norm=norm, eps=EPS[norm], max_iter=STEPS, verbose=False, **options)


def auto_attack(norm: float, member: str, **options: Any) -> Callable[[Any], Any]:
    return lambda c: acw.AutoAttack(c, norm, EPS[norm], member, verbose=False, **options)


def minimum_norm(norm: float) -> Callable[[Any], Any]:
    return lambda c: acw.MinimumNormAttack(c, norm, EPS[norm], 2 * STEPS, verbose=False)


ATTACKS: dict[str, tuple[Callable[[Any], Any], float]] = {
    "PGD-L2": (pgd(2), 2),
    "PGD-L1": (pgd(1, num_random_init=2), 1),
    "PGD-margin-early": (pgd(loss="margin", early_stop=True, num_random_init=2), math.inf),
    "PGD-bf16": (pgd(precision="bf16"), math.inf),
    "TemperaturePGD": (temperature_pgd(2), 2),
    "ClassWiseAttack": (class_wise(math.inf), math.inf),
    "ClassWiseAttack-L1": (class_wise(1, targets=2), 1),
    "apgd-ce": (auto_attack(math.inf, "apgd-ce", n_iter=STEPS), math.inf),
    "apgd-dlr": (auto_attack(2, "apgd-dlr", n_iter=STEPS), 2),
    "apgd-t": (auto_attack(math.inf, "apgd-t", n_iter=STEPS), math.inf),
    "fab-t": (auto_attack(math.inf, "fab-t", n_iter=2 * STEPS), math.inf),
    "square": (auto_attack(math.inf, "square", n_queries=100), math.inf),
}


def rotated(names: Any, networks: Any = NETWORKS, start: int = 0) -> list[Any]:
    """Pair each network with the next name, so that neighbours, which are alike, meet different ones."""
    names = list(names)
    return [
        pytest.param(odd, names[(start + i) % len(names)], id=f"{odd.name}-{names[(start + i) % len(names)]}")
        for i, odd in enumerate(networks)
    ]


def check(case: Case, attack: Any, norm: float, *, share: float = 1.0) -> np.ndarray:
    """See that an attack breaks what the plain one breaks, within ball and box, and leaves all as it was.

    Returns:
        What it found.
    """
    x, y = case.x.numpy().copy(), case.y.numpy()
    with warned(case.odd):
        x_adv = attack.generate(x, y)
    np.testing.assert_array_equal(x, case.x.numpy())
    assert x_adv.dtype == np.float32
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    sizes = np.linalg.norm((x_adv - x).reshape(N, -1).astype(np.float64), norm, axis=1)
    assert sizes.max() <= EPS[norm] * (1 + 1e-5)
    if case.odd.has_gradients:
        assert case.broken(x_adv) >= share * case.plainly_broken(norm) - case.odd.slack
    else:
        solved = (plain_prediction(case.module, torch.from_numpy(x_adv)) != case.y).numpy()
        assert (attack.zero_gradient | solved).all()
        assert attack.zero_gradient.any()
    if not case.odd.is_random:  # the network is as it was
        assert case.broken(case.x) == 0
    assert not getattr(case.module, "changed", False)
    return x_adv


@pytest.mark.parametrize("odd", [odd for odd in NETWORKS if odd.has_gradients][::5], ids=lambda odd: odd.name)
def test_reach_holds_what_plain_targeted_pgd_reaches(odd):
    case, eps = made(odd), EPS[math.inf]
    with tolerated():
        reach = class_wise(math.inf)(case.classifier).reach(case.x.numpy(), case.y.numpy())
    plainly = 0
    for k in range(odd.n_classes):
        target, others = torch.full_like(case.y, k), case.y != k
        points = plain_attack(case.module, case.x, target, math.inf, eps, STEPS, sign=-1)
        plainly += int((others & (plain_prediction(case.module, points) == k)).sum())
    assert reach.sum() >= plainly - odd.slack


def by_art(case: Case) -> np.ndarray | None:
    """Return what ART's PGD finds; nothing where it fails."""
    eps = EPS[math.inf]
    options = {"max_iter": STEPS, "batch_size": N, "verbose": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            art = ProjectedGradientDescentPyTorch(case.classifier, np.inf, eps, eps / 4, **options)
            return art.generate(case.x.numpy().copy(), case.y.numpy())
    except Exception:  # of ART's code on the network's: of any kind
        return None


@pytest.mark.parametrize("odd", NETWORKS, ids=lambda odd: odd.name)
def test_pgd_breaks_what_plain_pgd_breaks(odd):
    """And of every other network, what ART's PGD breaks, where that runs."""
    case = made(odd)
    x_adv = check(case, pgd(precision=precision(odd))(case.classifier), math.inf)
    if odd in NETWORKS[::2] and odd.has_gradients and (found := by_art(case)) is not None:
        assert case.broken(x_adv) >= case.broken(found) - odd.slack


@pytest.mark.parametrize(("odd", "name"), rotated(ATTACKS))
def test_the_other_attacks_break_what_plain_pgd_breaks(odd, name):
    case, (make, norm) = made(odd), ATTACKS[name]
    if odd.may_mask and "dlr" in name:
        make = pgd(norm)  # a tie for the first place leaves DLR constant
    if odd.n_classes == 2 and name == "apgd-t":
        with pytest.raises(acw.InputError, match="compares 4 classes, and the model has 2: take"):
            make(case.classifier)
        make = ATTACKS["fab-t"][0]
    # Square knows no gradient, and FAB asks for the nearest point, not for one in the ball.
    shares = {"square": 0.2, **dict.fromkeys(("apgd-t", "fab-t") if odd.n_classes == 2 else ("fab-t",), 0.8)}
    check(case, make(case.classifier), norm, share=shares.get(name, 1.0))


# The nearest points lie at the boundary: random networks, and those that depend on the batch, deny half of them.
STEADY = [odd for odd in NETWORKS if not odd.is_random]


@pytest.mark.parametrize(("odd", "norm"), rotated((math.inf, 2, 1), STEADY[::4]))
def test_the_minimum_norm_attack_breaks_most_of_what_plain_pgd_breaks(odd, norm):
    case = made(odd)
    check(case, minimum_norm(norm)(case.classifier), norm, share=0.8)


def trainers() -> dict[str, Callable[[Any], Any]]:
    def make(trainer: Any, **options: Any) -> Callable[[Any], Any]:
        return lambda c: trainer(c, eps=EPS[math.inf], max_iter=5, verbose=False, **options)

    made_by = {name: make(spec.trainer) for name, spec in UNTAUGHT.items() if name != "natural"}
    standard = METHODS["standard"].trainer
    return made_by | {
        "standard, fp32": make(standard, precision="fp32"),
        "trades, bf16": make(METHODS["trades"].trainer, precision="bf16"),
        "mart, two passes": make(METHODS["mart"].trainer, two_passes=True),
        "standard, AWP": make(standard, awp_gamma=5e-3),
    }


@pytest.mark.parametrize(("odd", "name"), rotated(trainers()))
def test_validation_during_training_breaks_what_plain_pgd_breaks(odd, name):
    case = made(odd, optimizer=True)
    if case.classifier.optimizer is None:
        pytest.skip("it has no weights to train")
    before = [p.detach().clone() for p in case.module.parameters()]
    flags = [p.requires_grad for p in case.module.parameters()]
    x, y = case.x.numpy().copy(), case.y.numpy()

    def fit() -> Any:
        trainer = trainers()[name](case.classifier)
        return trainer.fit(x, y, validation_data=(x, y), batch_size=N, nb_epochs=1)

    with tolerated():
        if not odd.trains:
            with pytest.raises(acw.InputError):
                fit()
            return
        with warnings.catch_warnings():
            warnings.simplefilter("default" if odd.has_gradients else "ignore", GradientMaskingWarning)
            history = fit()
    np.testing.assert_array_equal(x, case.x.numpy())
    assert [p.requires_grad for p in case.module.parameters()] == flags
    assert any(bool((p != b).any()) for p, b in zip(case.module.parameters(), before, strict=True))
    assert all(bool(p.isfinite().all()) for p in case.module.parameters())
    assert np.isfinite(history["loss"]).all()
    case.module.eval()
    assert round(N * (1 - history["val_robust"].iloc[-1])) >= case.plainly_broken(steps=5) - odd.slack


def draws(module: nn.Module) -> bool:
    return any(m.p > 0 for m in module.modules() if isinstance(m, nn.Dropout))


TRAINABLE = [odd for odd in NETWORKS if odd.trains and not odd.is_random]


@pytest.mark.parametrize("odd", TRAINABLE, ids=lambda odd: odd.name)
def test_a_batch_of_natural_training_is_one_plain_step(odd):
    case = made(odd, optimizer=True)
    if draws(case.module):
        pytest.skip("its dropout draws other numbers")
    with tolerated():
        trainer = METHODS["natural"].trainer(case.classifier, precision="fp32", verbose=False)
        trainer.fit(case.x.numpy(), case.y.numpy(), batch_size=N, nb_epochs=1)
        plain = odd.make().train()
        optimizer = torch.optim.SGD([p for p in plain.parameters() if p.requires_grad], lr=RATE)
        nn.functional.cross_entropy(plain(case.x.clone()), case.y).backward()
        optimizer.step()
    weights = [[p.detach() for p in m.parameters()] for m in (case.module, plain, odd.make())]
    moved_by = max(float((expected - start).abs().max()) for _, expected, start in zip(*weights, strict=True))
    for ours, expected, _ in zip(*weights, strict=True):
        assert float((ours - expected).abs().max()) <= 1e-3 * moved_by


def audited_together() -> Iterator[list[OddNetwork]]:
    """Give networks that take the same images for the same classes, some at once, unlike ones together.

    Of all a quarter: an audit asks a network in more ways than an attack does, and takes as much longer.
    """
    for shape, n_classes in dict.fromkeys((odd.shape, odd.n_classes) for odd in NETWORKS if len(odd.shape) == 3):
        alike = [odd for odd in NETWORKS if (odd.shape, odd.n_classes) == (shape, n_classes)][::4]
        parts = -(-len(alike) // 10)
        yield from (alike[begin::parts] for begin in range(parts))


@pytest.mark.parametrize("networks", list(audited_together()), ids=lambda networks: networks[0].name)
def test_audits_report_no_more_robustness_than_plain_pgd_leaves(networks):
    cases = {odd.name: made(odd) for odd in networks}
    n = 48
    x = networks[0].images(n, seed=2)
    # Each network is right about some of them at least.
    predictions = torch.stack([plain_prediction(case.module, x) for case in cases.values()])
    y = predictions[torch.arange(n) % len(cases), torch.arange(n)]
    data = acw.Dataset(x.numpy().copy(), y.numpy(), [f"class {k}" for k in range(networks[0].n_classes)])
    audit = acw.ClassWiseAudit(f"Linf:{EPS[math.inf]}", {"pgd": pgd()}, verbose=False)
    with tolerated():
        result = audit.evaluate({name: case.classifier for name, case in cases.items()}, data)
    np.testing.assert_array_equal(data.x, x.numpy())
    outcomes = result.outcomes.set_index("model")
    for name, case in cases.items():
        rows = outcomes.loc[name].sort_values("example")
        right = plain_prediction(case.module, x) == y
        if not case.odd.is_random:
            np.testing.assert_array_equal(rows["clean_prediction"] == rows["label"], right)
        points = plain_attack(case.module, x, y, math.inf, EPS[math.inf], STEPS)
        plain = right & (plain_prediction(case.module, points) == y)
        if case.odd.has_gradients:
            assert rows["withstood"].sum() <= plain.sum() + 2 * case.odd.slack, name
        else:
            assert rows["zero_gradient"][rows["withstood"].to_numpy()].all(), name
            checks = {finding.check for finding in result.findings if finding.model == name}
            assert checks & {"masked gradients"}, (name, checks)


def test_a_training_with_more_than_tensors_in_its_state_resumes(tmp_path):
    (odd,) = (odd for odd in NETWORKS if odd.name == "keeps extra state large")
    case = made(odd, optimizer=True)
    x, y = case.x.numpy(), case.y.numpy()
    ended = []
    for resume in (False, True):  # the second time from the file alone
        case = made(odd, optimizer=True)
        trainer = METHODS["standard"].trainer(case.classifier, eps=0.03, max_iter=1, verbose=False)
        trainer.fit(x, y, (x, y), batch_size=8, nb_epochs=2, keep="robust", checkpoint_dir=tmp_path, resume=resume)
        ended.append([p.detach().clone() for p in case.module.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*ended, strict=True))
    assert case.module.told == {"made": "long ago"}
