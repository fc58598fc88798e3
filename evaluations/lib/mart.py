"""The networks that mart_cifar10.py trains, and the paper's attacks on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import art_classwise as acw
from art_classwise.trainers import trained_weights
from art_classwise.trainers.recipes import Recipe, paper_recipe
from lib.setups import SIZES, Setup, Trainings


@dataclass(frozen=True)
class Kind:
    """How a network is trained.

    Attributes:
        method: A key of :data:`art_classwise.trainers.METHODS`.
        options: Of its trainer, beside the recipe's.
        noise: Share of the training labels that are wrong.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    noise: float = 0.0


def noise_kind(method: str, share: float) -> str:
    """Return the name of training on labels of which this share is wrong."""
    return f"{method}, {100 * share:.0f} % noise" if share else method


METHODS = ("standard", "trades", "mart")
MAXIMISATION: dict[str, dict[str, Any]] = {
    "misclassified attacked by FGSM": {"misclassified_attack": "fgsm"},
    "misclassified attacked by CW": {"misclassified_attack": "cw"},
    "only correct attacked": {"attacked": "correct"},
}
"""Other attacks on examples that the network gets wrong without: the paper's section 3 says that they matter little."""
MINIMISATION: dict[str, dict[str, Any]] = {
    "KL on misclassified only": {"weighted": "misclassified"},
    "KL on correct only": {"weighted": "correct"},
}
"""The regulariser split by whether the network gets the example right without attack, which it says matters."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "CE for BCE": {"boosted": False},
    "BCE on clean images": {"on": "clean"},
    "no KL": {"kl": False},
    "KL not weighted": {"weighted": False},
    **MINIMISATION,
    **MAXIMISATION,
    "only misclassified attacked": {"attacked": "misclassified"},
}
NOISES = (0.1, 0.2)
KINDS = {
    **{method: Kind(method) for method in ("natural", *METHODS)},
    **{name: Kind("mart", options) for name, options in ABLATIONS.items()},
    **{noise_kind(m, s): Kind(m, noise=s) for s in NOISES for m in ("standard", "mart")},
}
PAPERS = ("fgsm", "pgd-20", "cw-30")
"""The paper's attacks: see :func:`papers`."""
SURROGATES = ("natural", "standard")
_SINGLE_STEP, _FINISH = SIZES["medium"]["cifar10"].phases
SETUPS = {
    "tiny": SIZES["tiny"]["cifar10"],
    "quick": replace(SIZES["quick"]["cifar10"], threat="Linf:8/255", epochs=3, lr=0.02),
    "medium": replace(
        SIZES["medium"]["cifar10"],
        phases=(replace(_SINGLE_STEP, epochs=15), replace(_FINISH, epochs=4)),
        epochs=19,
        begun_by="standard",
    ),
    "full": Setup("cifar10", "resnet18", "Linf:8/255", epochs=120, steps=10, recipe="paper"),
}
N_ATTACKED = {"tiny": 40, "quick": 1000, "medium": 1000, "full": None}
N_AUTOATTACK = {"tiny": 10, "quick": 200, "medium": 200, "full": None}


class Networks:
    """Networks by kind and seed, each trained once.

    Args:
        size: A key of :data:`SETUPS`.
        root: Folder of the data set.
        store: Folder of what is done already.
        made_up: Take made-up images.
        compile: Compile the network in training.

    Raises:
        InputError: The data set isn't there.
    """

    def __init__(
        self, size: str, root: str | None, store: Path, *, made_up: bool = False, compile: bool = False
    ) -> None:
        self.size = size
        self.trainings = Trained(SETUPS[size], root, store / "mart", made_up=made_up)
        self.trainings.compile = compile
        self.data = _part(self.trainings.test, N_ATTACKED[size])
        self.fewer = _part(self.data, N_AUTOATTACK[size])

    @property
    def weights(self) -> tuple[str, ...]:
        """Which epochs' weights are looked at, the first of them for the claims."""
        return ("best", "last") if self.size == "full" else ("last",)

    @property
    def eps(self) -> float:
        """The radius of attacks."""
        return self.trainings.setup.eps

    def recipe(self, method: str) -> Recipe:
        """Return how a method trains."""
        return self.trainings.recipe(method)

    def load(self, kind: str, seed: int, weights: str) -> Any:
        """Return a network as an ART classifier, trained if it wasn't."""
        how = KINDS[kind]
        labels = noisy(self.trainings.train.y, how.noise, 10, seed) if how.noise else None
        keep = "robust" if "best" in self.weights and how.method != "natural" else "last"
        classifier = self.trainings.trained(
            how.method, seed, labels=labels, name=_ending(kind), keep=keep, **how.options
        )
        if weights == "last" and keep != "last":
            classifier.model.load_state_dict(trained_weights(self._folder(kind, seed) / "training", "last"))
        return classifier

    def history(self, kind: str, seed: int) -> pd.DataFrame:
        """Return a training's history, a row per epoch."""
        return pd.read_csv(self._folder(kind, seed) / "history.csv")

    def epoch(self, kind: str, seed: int, weights: str) -> int:
        """Return which epoch the weights are from."""
        history = self.history(kind, seed)
        return int(history["epoch"][history["val_robust"].idxmax()]) if weights == "best" else len(history)

    def outcomes(
        self, kinds: Iterable[str], seed: int, attacks: Mapping[str, Any], *, few: bool = False
    ) -> pd.DataFrame:
        """Attack networks of one seed; what is in the store already is read.

        Args:
            kinds: Keys of :data:`KINDS`.
            seed: Of the trainings.
            attacks: Functions from a classifier to an attack, by name.
            few: Attack fewer images, as many as AutoAttack takes.

        Returns:
            A row per network, attack and image: ``kind``, ``weights``, ``seed``, ``attack`` (``"clean"`` is none),
            ``example``, ``label``, ``right``.
        """
        parts = []
        for kind in kinds:
            for weights in self.weights:
                name, data = f"{kind}, {weights}, seed {seed}", self.fewer if few else self.data
                store = self.trainings.folder / f"outcomes-{len(data)}"
                audit = acw.ClassWiseAudit(
                    self.trainings.setup.threat, attacks, store=store, checks=False, verbose=False
                )
                found = audit.evaluate({name: partial(self.load, kind, seed, weights)}, data).outcomes
                of = {"kind": kind, "weights": weights, "seed": seed}
                columns = {"attack": found["attack"].astype(str), "example": found["example"], "label": found["label"]}
                attacked = pd.DataFrame({**of, **columns, "right": found["withstood"]})
                clean = found["clean_prediction"] == found["label"]
                first = attacked["attack"] == attacked["attack"].iloc[0]
                parts += [attacked.assign(attack="clean", right=clean)[first], attacked]
                shares = attacked.groupby("attack", sort=False)["right"].mean()
                told = ", ".join(f"{a} {100 * share:.2f} %" for a, share in shares.items())
                print(f"{name}: {told} of {len(data):,} images", flush=True)
        return pd.concat(parts, ignore_index=True)

    def _folder(self, kind: str, seed: int) -> Path:
        return self.trainings.folder / folder_of(kind, seed)


class Trained(Trainings):
    """Trainings by the published recipe; at smaller sizes by one of a few epochs."""

    compile = False

    def recipe(self, method: str) -> Recipe:
        """Return how a method trains here."""
        epochs, steps = self.setup.epochs, self.setup.steps
        if self.setup.recipe == "paper":
            return paper_beside(method).override(epochs=epochs, steps=steps, compile=self.compile)
        if self.setup.phases:
            return super().recipe(method)
        recipe = replace(super().recipe(method), schedule="one-cycle")
        if method == "natural":
            return recipe
        return recipe.override(lr=0.005, compile=self.compile)  # at 0.02 MART fell back to a constant prediction


def paper_beside(method: str) -> Recipe:
    """Return MART's published recipe for ResNet-18; for another method its budget with that method's own objective."""
    recipe = paper_recipe("mart", "resnet18", "cifar10")
    if method == "mart":
        return recipe
    beta = 6.0 if method == "trades" else None
    source = f"{recipe.source}, without MART"
    return replace(recipe, method=method, beta=beta, exact=False, source=source, verified=None)  # no paper's


def told(recipe: Recipe) -> str:
    """Return a recipe in a line."""
    falls = ", ".join(f"x {factor:g} from epoch {first}" for first, factor in recipe.decay) or recipe.schedule
    beta = "" if recipe.beta is None else f", beta {recipe.beta:g}"
    step = recipe.threat.eps / 4 if recipe.eps_step is None else recipe.eps_step
    return (
        f"{recipe.threat}, {recipe.steps} steps of {step:.3g}{beta}, {recipe.epochs} epochs in batches of "
        f"{recipe.batch_size}, learning rate {recipe.lr:g} ({falls}), weight decay {recipe.weight_decay:g}, "
        f"precision {recipe.precision}"
    )


def papers(eps: float) -> dict[str, Any]:
    """Return the paper's attacks, as functions of a classifier: FGSM, PGD-20, and PGD on the margin, 30 steps.

    The latter two start uniformly, end where they end, and have steps that are 0.003 at a radius of 8/255.
    """
    shared = {"eps": eps, "verbose": False}
    step = {"eps_step": 0.003 * eps / (8 / 255)}
    one_step = partial(acw.PGD, eps_step=eps, max_iter=1, num_random_init=0, **shared)
    margin = partial(acw.PGD, max_iter=30, loss="margin", **step, **shared)
    return dict(zip(PAPERS, (one_step, partial(acw.PGD, max_iter=20, **step, **shared), margin), strict=True))


def autoattack(eps: float, size: str) -> dict[str, Any]:
    """Return AutoAttack by its name; at tiny size a short one."""
    if size == "tiny":
        return {"autoattack": partial(acw.AutoAttack, eps=eps, n_iter=3, n_queries=3, verbose=False)}
    return dict(acw.attacks.ladder(["autoattack"], acw.ThreatModel("Linf", eps)))


def transferred(networks: Networks, seed: int, seeds: int) -> dict[str, Any]:
    """Return the paper's attacks made on surrogates, which are of another seed than what is attacked.

    Args:
        networks: Where the surrogates come from.
        seed: Of the networks to be attacked.
        seeds: How many there are; the surrogate is the next one's.
    """
    other, made = (seed + 1) % max(seeds, 2), {}
    for surrogate in SURROGATES:
        weights = networks.weights[0]
        for attack, make in papers(networks.eps).items():
            on = make(networks.load(surrogate, other, weights))
            made[f"{attack} from {surrogate} {other}"] = partial(acw.TransferAttack, attack=on)
    return made


def noisy(y: np.ndarray, share: float, n_classes: int, seed: int) -> np.ndarray:
    """Return labels of which this share, drawn at random, is replaced by another class, each as likely."""
    rng = np.random.default_rng(seed)
    wrong = rng.choice(len(y), round(share * len(y)), replace=False)
    changed = np.array(y, dtype=np.int64)
    changed[wrong] = (changed[wrong] + rng.integers(1, n_classes, len(wrong))) % n_classes
    return changed


def _part(data: acw.Dataset, n: int | None) -> acw.Dataset:
    return data if n is None or n >= len(data) else data.hold_out(n)[1]


def folder_of(kind: str, seed: int) -> str:
    """Return the name of a training's folder."""
    return f"{KINDS[kind].method}{_ending(kind)}-{seed}"


def _ending(kind: str) -> str:
    """Return what tells the folder of a kind from that of its method alone."""
    return "" if kind == KINDS[kind].method else "-" + kind.replace(",", "").replace("%", "percent").replace(" ", "-")
