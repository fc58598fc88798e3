"""What attacks, trainings and audits do on the simulated device, and on the CPU: run in a process of its own."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from odd_networks import OddNetwork, conv_net, table
from plain_attack import plain_prediction
from simulated_device import counted_waits, register

import art_classwise as acw
from art_classwise.trainers import METHODS, policies

__all__ = [
    "ATTACKS",
    "BATCH",
    "ODD_ONES",
    "STEPS",
    "TRAININGS",
    "Outcome",
    "Scenario",
    "of_a_table",
    "of_odd_networks",
    "of_operations",
]

BATCH = 16
STEPS = 3
EPS = {np.inf: 0.03, 2: 0.25, 1: 2.0}
N_CLASSES = 4


@dataclass
class Outcome:
    """What a scenario gave on the CPU and on the device, and how often the host waited for the latter."""

    cpu: list[np.ndarray]
    device: list[np.ndarray]
    few: Counter[str]
    many: Counter[str]

    @property
    def per_batch(self) -> dict[str, int]:
        """The waits of one batch more."""
        return {cause: more for cause in {*self.few, *self.many} if (more := self.many[cause] - self.few[cause])}


@dataclass(frozen=True)
class Scenario:
    """Something to do with a classifier.

    Attributes:
        run: From a classifier, images and labels to what comes of them.
        large: Whether the network has a million weights.
        batches: How many to run it with, and twice that, to see what waits belong to a batch; 0 is one, once.
    """

    run: Callable[..., list[np.ndarray]]
    large: bool = False
    batches: int = 1


def classifier_on(device: torch.device | None, *, large: bool = False) -> Any:
    """Return the same network as an ART classifier on the CPU, or moved to a device."""
    torch.manual_seed(0)
    network = conv_net(large=large)
    classifier = acw.as_classifier(network, (3, 8, 8), N_CLASSES, device="cpu")
    if device is not None:
        network.to(device)
        classifier._device = device  # ART knows the CPU and CUDA alone
    classifier._optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    return classifier


def examples(n: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.random((n, 3, 8, 8), dtype=np.float32)
    return x, classifier_on(None).predict(x).argmax(1)


def attack(make: Callable[..., Any], norm: float = np.inf, large: bool = False, **options: Any) -> Scenario:
    given = {"norm": norm, "eps": EPS[norm], "batch_size": BATCH, "verbose": False, **options}

    def run(classifier: Any, x: np.ndarray, y: np.ndarray, **more: Any) -> list[np.ndarray]:
        made = make(classifier, **given)
        return [made.generate(x, y, **more), made.zero_gradient]

    return Scenario(run, large=large)


def member(norm: float = np.inf, **options: Any) -> Scenario:
    """One of AutoAttack's: pyautoattack reads values as it pleases, so that its waits aren't told by the batch."""
    return replace(attack(acw.AutoAttack, norm, **options), batches=0)


def pgd(norm: float = np.inf, **options: Any) -> Scenario:
    return attack(acw.PGD, norm, max_iter=STEPS, **options)


def masked(classifier: Any, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    mask = np.broadcast_to(np.arange(8) % 2, x.shape)
    budgets = {"eps": {k: 0.01 * (k + 1) for k in range(N_CLASSES)}, "eps_step": 0.01}
    return pgd(**budgets).run(classifier, x, y, mask=mask)


def reach(classifier: Any, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    made = acw.ClassWiseAttack(classifier, eps=EPS[np.inf], max_iter=STEPS, batch_size=BATCH, verbose=False)
    return [made.reach(x, y)]


ATTACKS: dict[str, Scenario] = {
    "PGD Linf": pgd(),
    "PGD L2": pgd(2),
    "PGD L1": pgd(1),
    "PGD large": pgd(large=True, precision="fp32"),
    "PGD budgets and mask": Scenario(masked),
    "PGD momentum": pgd(momentum=0.9, loss="margin", num_random_init=0),
    "PGD targeted": pgd(targeted=True),
    "PGD kl": pgd(loss="kl"),
    "PGD restarts": pgd(num_random_init=3),
    "PGD early stop": pgd(early_stop=True, num_random_init=2),
    "PGD large early stop": pgd(large=True, precision="fp32", early_stop=True),
    **{
        f"PGD early stop, {n} steps": attack(acw.PGD, early_stop=True, max_iter=n, eps_step=1e-6, num_random_init=0)
        for n in (4, 44)
    },
    "TemperaturePGD": attack(acw.TemperaturePGD, max_iter=STEPS),
    "ClassWiseAttack": attack(acw.ClassWiseAttack, max_iter=STEPS),
    "ClassWiseAttack L1": attack(acw.ClassWiseAttack, 1, max_iter=STEPS, targets=2, loss="dlr"),
    "reach": Scenario(reach),
    "apgd-ce": member(attacks="apgd-ce", n_iter=4),
    "apgd-ce L1": member(1, attacks="apgd-ce", n_iter=4),
    "apgd-dlr L2": member(2, attacks="apgd-dlr", n_iter=4),
    "apgd-t": member(attacks="apgd-t", n_iter=4),
    "fab": member(2, attacks="fab", n_iter=4),
    "fab-t": member(attacks="fab-t", n_iter=4),
    "square": member(attacks="square", n_queries=40),
    "square L2": member(2, attacks="square", n_queries=10),
}


def training(method: str, /, unlabelled: bool = False, excluded: int | None = None, **options: Any) -> Scenario:
    def run(classifier: Any, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
        given = {"eps": 0.03, "max_iter": 2, "precision": "fp32", "verbose": False, **options}
        given = {k: v for k, v in given.items() if method != "natural" or k not in ("eps", "max_iter")}
        if excluded is None:
            if "teacher" in METHODS[method].options:
                given["teacher"] = classifier_on(classifier.device)
                torch.nn.init.zeros_(next(given["teacher"].model.parameters()))
            trainer = METHODS[method].trainer(classifier, **given)
        else:
            warnings.filterwarnings("ignore", ".* examples are of the excluded classes")
            trainer = acw.AdversarialTrainerClassExcludedPyTorch(classifier, excluded, method, **given)
        more = {"x_unlabeled": x[::-1].copy(), "y_pseudo": y[::-1].copy()} if unlabelled else {}
        history = trainer.fit(x, y, validation_data=(x[:BATCH], y[:BATCH]), batch_size=BATCH, nb_epochs=2, **more)
        weights = [t.detach().cpu().numpy() for t in classifier.model.state_dict().values()]
        return [*weights, history.drop(columns="images_per_second").to_numpy(dtype=np.float64)]

    return Scenario(run)


TRAININGS: dict[str, Scenario] = {
    "fast": training("fast"),
    "rslad": training("distillation"),
    "absld": training("distillation", method="absld"),
    "fair-tat": training("standard", class_policy=policies.FairTAT()),
    "combined": training(
        "trades",
        class_policy=policies.Combined(
            [policies.Spectral(), policies.TRIX(), policies.FairARD(), policies.BalancedSoftmax()]
        ),
    ),
    "natural": training("natural"),
    "standard large": replace(training("standard"), large=True),  # searched on a copy, which follows at each step
    "standard": training("standard", label_smoothing=0.1, gradient_clip=1.0),
    "standard with augmentation": training("standard", crop_padding=1, flip=True),
    "standard with an average": training("standard", ema_decay=0.9, norm=2),
    "trades": training("trades", norm=1),
    "trades with AWP": training("trades", awp_gamma=5e-3),
    "mart": training("mart", two_passes=True),
    "mart, unlabelled images": training("mart", unlabelled=True),
    "bat": training("bat"),
    "without a class": training("mart", excluded=1),
    **{
        f"trades with {type(policy).__name__}": training("trades", class_policy=policy)
        for policy in (
            policies.CFA(begin_after=1, fawa_start=1, threshold=0.0),
            policies.CFOL(),
            policies.DAFA(warmup=1, lamb=0.2),
            policies.FAAL(),
            policies.Fixed([1, 2, 1, 1], [1, 0.5, 1, 1]),
            policies.FRL(),
            policies.WAT(),
        )
    },
}


def audit(classifier: Any, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    data = acw.Dataset(x, y, [f"class {k}" for k in range(N_CLASSES)])
    attacks = ("fgsm", "pgd-3")
    result = acw.ClassWiseAudit("Linf:0.03", attacks, verbose=False).evaluate({"network": classifier}, data)
    return [result.outcomes.select_dtypes("number").to_numpy(), np.array([str(f) for f in result.findings])]


AUDITS = {"audit": Scenario(audit)}


def of_a_table(name: str) -> dict[str, Any]:
    """Run a table's scenarios on the CPU and on the device.

    Returns:
        By scenario: what it gave on the CPU and on the device, and the waits there for few batches and for twice as
        many; of one that failed, the error.
    """
    device = register()
    scenarios = {"attacks": ATTACKS, "trainings": TRAININGS, "audits": AUDITS}[name]
    return {key: _told(lambda s=scenario: _of_one(s, device)) for key, scenario in scenarios.items()}


def _of_one(scenario: Scenario, device: torch.device) -> Outcome:
    n = BATCH * (scenario.batches or 2)  # 32: where examples are few, the CPU's kernels go by their number
    x, y = examples(2 * n)
    on_cpu = scenario.run(classifier_on(None, large=scenario.large), x[:n], y[:n])
    with counted_waits() as few:
        there = scenario.run(classifier_on(device, large=scenario.large), x[:n], y[:n])
    with counted_waits() as many:
        if scenario.batches:
            scenario.run(classifier_on(device, large=scenario.large), x, y)
    return Outcome(on_cpu, there, few, many)


def _told(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except Exception:
        return traceback.format_exc()


ODD_ONES = [odd for odd in table() if not odd.name.startswith("compiled")][::3]
"""Odd networks that are tried: of those which the simulated device can show, a third."""

_QUICK: tuple[Callable[[Any], Any], ...] = (
    lambda c: acw.PGD(c, eps=0.03, max_iter=2, precision="fp32", verbose=False),
    lambda c: acw.TemperaturePGD(c, norm=2, eps=0.25, max_iter=2, precision="fp32", verbose=False),
    lambda c: acw.PGD(c, 1, 2.0, max_iter=2, num_random_init=2, precision="fp32", verbose=False),
    lambda c: acw.ClassWiseAttack(c, eps=0.03, max_iter=1, targets=1, precision="fp32", verbose=False),
)


def of_operations() -> tuple[dict[str, dict[str, int]], str]:
    """Return the waits that single operations cost on the device, and what one with the CPU's tensors raises."""
    device = register()
    x = torch.rand(3, 4, device=device)
    mask, network = x > 0.5, torch.nn.Linear(4, 2).to(device)
    operations: dict[str, Callable[[], Any]] = {
        "arithmetic": lambda: (x @ x.T).softmax(1).clamp_(0.2).sort(),
        "from the CPU": lambda: (
            torch.ones(3, 4).to(device) + torch.tensor([1.0, 2, 3, 4], device=device) + torch.tensor(2)
        ),
        "where": lambda: torch.where(mask, x, 0.0).masked_fill_(mask, 1.0),
        "filling by a mask": lambda: x.clone().__setitem__(mask, 1.0),
        "backward": lambda: network(x.clone().requires_grad_()).sum().backward(),
        "bool()": lambda: bool(mask.any()),
        "item()": lambda: x.sum().item(),
        "tolist()": x.tolist,
        "cpu()": x.cpu,
        "copy_()": lambda: torch.zeros(3, 4).copy_(x),
        "nonzero()": mask.nonzero,
        "indexing by a mask": lambda: x[mask],
        "indexing by indices": lambda: x[torch.arange(2, device=device)],
        "indexing by the CPU's": lambda: x[torch.arange(2)],
    }
    waits = {}
    for name, operate in operations.items():
        with counted_waits() as counted:
            operate()
        waits[name] = dict(counted)
    try:
        x + torch.ones(4)
    except RuntimeError as error:
        return waits, str(error)
    return waits, "nothing"


def of_odd_networks() -> dict[str, Any]:
    """Attack some of the odd networks on the CPU and on the device, one attack of some in turn.

    Returns:
        By network: the points found on the CPU and on the device; of one that failed, the error; None for a network
        that itself can't be there.
    """
    device = register()
    return {odd.name: _told(lambda o=odd, i=i: _of_odd(o, i, device)) for i, odd in enumerate(ODD_ONES)}


def _of_odd(odd: OddNetwork, number: int, device: torch.device) -> tuple[np.ndarray, ...] | None:
    warnings.simplefilter("ignore")  # what is warned of is asked of the CPU's
    x, found, y = odd.images(BATCH), [], None
    for place in (torch.device("cpu"), device):
        module = odd.make()
        try:
            with torch.no_grad():
                y = plain_prediction(module, x) if y is None else y
                plain_prediction(module.to(place), x.to(place))
        except Exception:
            return None
        classifier = acw.as_classifier(module.cpu(), odd.shape, odd.n_classes, device="cpu")
        module.to(place)
        classifier._device = place
        torch.manual_seed(0)
        found.append(_QUICK[number % len(_QUICK)](classifier).generate(x.numpy(), y.numpy()))
    return tuple(found)
