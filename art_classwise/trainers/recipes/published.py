"""Published recipes: a record each, which Python, the command line and the documentation read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pandas as pd

from art_classwise.datasets.load import known_name
from art_classwise.errors import InputError
from art_classwise.threat import ThreatModel
from art_classwise.trainers.catalog import method_spec
from art_classwise.trainers.recipes.recipe import Recipe

__all__ = ["PUBLISHED", "paper_recipe", "published_recipes"]


def paper_recipe(method: str, architecture: str, dataset: str, variant: str | None = None) -> Recipe:
    """Return the published recipe of a method for an architecture and a data set; its ``source`` says whose.

    Papers' trainings computed in float32, as these do; ``override(precision="auto")`` makes them faster.
    :func:`published_recipes` is the list of all.

    Args:
        method: A name of ``art_classwise.trainers.METHODS``: ``"mart"``, say.
        architecture: As :func:`art_classwise.build` knows it.
        dataset: As :func:`art_classwise.load_dataset` knows it.
        variant: What is added to the method: ``"awp"``, ``"cfa"``, ``"dafa"``, ..., or as ``--recipe`` has it,
            ``"paper:awp"``; nothing if absent.

    Raises:
        InputError: The method is unknown, or no recipe of it is published for these.
    """
    method_spec(method)
    dataset, variant = known_name(dataset), (variant or "").strip().lower().removeprefix("paper").removeprefix(":")
    name = f"paper:{variant}" if variant else "paper"
    found = PUBLISHED.get((method, architecture, dataset, name))
    if found is not None:
        return found
    of = f"{method} with {variant}" if variant else method
    there = [f"{a} on {d}" for m, a, d, n in PUBLISHED if (m, n) == (method, name)]
    if there:
        raise InputError(
            f"There is no published recipe of {of} for {architecture} on {dataset}, only for {', '.join(there)}. Take "
            "the fast one (`recipe='fast'`), or set each option."
        )
    variants = list(dict.fromkeys(n for m, _, _, n in PUBLISHED if m == method))
    if not variants:
        raise InputError(
            f"No recipe of the method {method!r} is published: take the quick one of this package (`recipe='fast'`), "
            "or set each option."
        )
    raise InputError(
        f"There is no published recipe of {of}, only {', '.join(variants)}. Take one of them, or the fast one "
        "(`recipe='fast'`), or set each option."
    )


def published_recipes() -> pd.DataFrame:
    """Return the list of the published recipes.

    Returns:
        A row each: ``method``, ``architecture``, ``dataset``, ``recipe`` (as ``--recipe`` has it), ``source``;
        ``verified``, whether all its numbers were read in the paper or in the authors' code; ``unverified``, what
        wasn't.

    Example:
        >>> published_recipes().query("recipe == 'paper:dafa'")[["method", "architecture", "dataset"]].values.tolist()
        [['trades', 'resnet18', 'cifar10'], ['trades', 'resnet18', 'cifar100']]
    """
    rows: list[dict[str, Any]] = [
        {
            **dict(zip(("method", "architecture", "dataset", "recipe"), of, strict=True)),
            "source": recipe.source,
            "verified": bool(recipe.verified),
            "unverified": recipe.unverified,
        }
        for of, recipe in PUBLISHED.items()
    ]
    return pd.DataFrame(rows)


_LINF_8 = ThreatModel("Linf", 8 / 255)
_TRADES_CIFAR = Recipe(
    "paper",
    "trades",
    "Zhang et al., ICML 2019: the authors' script for CIFAR-10",
    ThreatModel("Linf", 0.031),
    eps_step=0.007,
    beta=6.0,
    epochs=76,
    lr=0.1,
    weight_decay=2e-4,
    schedule="decay",
    decay=((75, 0.1), (90, 0.01), (100, 0.001)),
    crop_padding=4,
    flip=True,
    two_passes=True,
    passes="cac",
    precision="fp32",
    verified=True,
)
_TRADES_MNIST = Recipe(
    "paper",
    "trades",
    "Zhang et al., ICML 2019: the authors' script for MNIST",
    ThreatModel("Linf", 0.3),
    eps_step=0.01,
    steps=40,
    beta=1.0,
    epochs=100,
    lr=0.01,
    weight_decay=0.0,
    schedule="decay",
    decay=((55, 0.1), (75, 0.01), (90, 0.001)),
    two_passes=True,
    passes="cac",
    precision="fp32",
    verified=True,
)
_TRADES_RESNET = replace(
    _TRADES_CIFAR,
    source="Zhang et al., ICML 2019: the authors' script for CIFAR-10",
    verified=False,
    unverified="that the script's numbers are meant for ResNet-18, too",
)
_MART_RESNET = replace(
    _TRADES_CIFAR,
    method="mart",
    source="Wang et al., ICLR 2020: the authors' script for ResNet-18",
    beta=5.0,
    epochs=120,
    lr=0.01,
    weight_decay=3.5e-3,
    passes=None,
    exact=True,
)
_MART_WIDE = replace(
    _MART_RESNET,
    source="Wang et al., ICLR 2020: the authors' script for WRN-34-10",
    beta=6.0,
    epochs=90,
    lr=0.1,
    weight_decay=7e-4,
)
_MART_UNLABELED = replace(
    _MART_WIDE,
    source="Wang et al., ICLR 2020, with 500,000 unlabelled images, as others tell it: 200 epochs of 50,000 examples, "
    "of which half are labelled, are 100 passes over those",
    epochs=100,
    batch_size=256,
    weight_decay=5e-4,
    nesterov=True,
    schedule="cosine",
    decay=(),
    unlabeled_fraction=0.5,
    verified=False,
    unverified="all of it",
)
_MART_MNIST = replace(
    _TRADES_MNIST,
    method="mart",
    # Others' accounts say epochs, learning rate and attack. They don't say the rest.
    source="second-hand, not checked against Wang et al., ICLR 2020; beta is theirs for ResNet-18, batch size, "
    "momentum and no weight decay are TRADES' for MNIST",
    beta=5.0,
    epochs=50,
    decay=((20, 0.1), (40, 0.01)),
    passes=None,
    exact=True,
    verified=False,
    unverified="all of it",
)
_STANDARD = Recipe(
    "paper",
    "standard",
    "Rice, Wong, Kolter, ICML 2020, for PreActResNet-18; there images are also standardised, and attacked in "
    "training mode",
    _LINF_8,
    eps_step=2 / 255,
    epochs=200,
    lr=0.1,
    schedule="decay",
    decay=((101, 0.1), (151, 0.01)),  # after 100 and after 150 epochs
    crop_padding=4,
    flip=True,
    precision="fp32",
    verified=True,
)
_STANDARD_WIDE = replace(
    _STANDARD,
    source="Madry et al., ICLR 2018, for a wide ResNet with as many blocks; there images are also standardised",
    steps=7,
    epochs=205,  # 80,000 steps are 204.6
    weight_decay=2e-4,
    decay=((40_001, 0.1), (60_001, 0.01)),
    decay_unit="step",
)
_BAT = replace(
    _TRADES_CIFAR,
    method="bat",
    source="Sun et al., AAAI 2023: the authors' script for ResNet-18",
    epochs=200,
    passes=None,  # exact sets them
    exact=True,
    verified=False,
    unverified="learning rate, batch size, weight decay, which are TRADES'",
)

# Adversarial weight perturbation.
_STANDARD_AWP = replace(
    _STANDARD,
    name="paper:awp",
    source="Wu et al., NeurIPS 2020: the authors' script for PreActResNet-18; there images are also standardised",
    attack_mode="train",
    passes="a|c",
    awp_gamma=1e-2,
    verified=False,
    unverified="epochs, learning rate and its decays, batch size, weight decay",
)
_TRADES_AWP = replace(
    _TRADES_CIFAR,
    name="paper:awp",
    source="Wu et al., NeurIPS 2020, TRADES-AWP for WRN-34-10",
    threat=_LINF_8,
    eps_step=2 / 255,
    epochs=200,
    weight_decay=5e-4,
    decay=((101, 0.1), (151, 0.01)),
    passes="acc",
    awp_gamma=5e-3,
    awp_warmup=9,  # they pass over epochs numbered below 10, from 1
    verified=False,
    unverified="radius and step of the attack, epochs, decays of the learning rate, weight decay",
)
_MART_AWP = replace(
    _MART_RESNET,
    name="paper:awp",
    source="Wu et al., NeurIPS 2020, MART-AWP, on MART's recipe for ResNet-18",
    awp_gamma=5e-3,
    verified=False,
    unverified="gamma, which is TRADES-AWP's, no warm-up, and that the rest is as in MART's script",
)
_MART_AWP_WIDE = replace(
    _MART_WIDE,
    name="paper:awp",
    source="Wu et al., NeurIPS 2020, MART-AWP, on MART's recipe for WRN-34-10",
    awp_gamma=5e-3,
    verified=False,
    unverified=_MART_AWP.unverified,
)

# Friendly adversarial training.
_FAT = replace(
    _STANDARD,
    name="paper:fat",
    source="Zhang et al., ICML 2020, FAT for ResNet-18; there tau rises to 1 after 50 and to 2 after 90 epochs, and "
    "each step has noise of .001; here tau stays 0",
    threat=ThreatModel("Linf", 0.031),
    eps_step=0.007,
    epochs=120,
    lr=0.01,
    decay=((61, 0.1), (91, 0.01), (111, 0.001)),
    friendly_tau=0,
    verified=False,
    unverified="learning rate and its decays, weight decay",
)

# Class policies.
_CFA_UNVERIFIED = "learning rate and its decays, batch size, weight decay, the rule that chooses the epoch"
_STANDARD_CFA = replace(
    _STANDARD,
    name="paper:cfa",
    source="Wei et al., CVPR 2023, CFA for PreActResNet-18, with the paper's numbers; their code averages by .88 above "
    "a worst class of .24, and crops with reflected borders",
    attack_mode="train",
    passes="a|c",
    class_policy="cfa:lambda1=0.5,decay=0.85,fawa_start=50,threshold=0.2,begin_after=10",
    validation=0.02,
    keep="robust+worst",
    verified=False,
    unverified=_CFA_UNVERIFIED,
)
_TRADES_CFA = replace(
    _STANDARD_CFA,
    method="trades",
    beta=6.0,
    attack_mode="eval",
    two_passes=True,
    passes="cac|c",
    class_policy="cfa:lambda1=0.3,lambda2=0.5,decay=0.85,fawa_start=50,threshold=0.2,begin_after=10",
)
_FAT_CFA = replace(
    _STANDARD_CFA,
    name="paper:cfa-fat",
    source="Wei et al., CVPR 2023, CFA on FAT (Zhang et al., ICML 2020) for PreActResNet-18",
    attack_mode="eval",
    passes=None,
    friendly_tau=0,
    unverified=f"tau, {_CFA_UNVERIFIED}",
)
_DAFA = replace(
    _TRADES_CIFAR,
    name="paper:dafa",
    source="Lee et al., ICLR 2024, DAFA on TRADES for ResNet-18",
    threat=_LINF_8,
    eps_step=2 / 255,
    epochs=110,
    weight_decay=5e-4,
    nesterov=True,
    decay=((100, 0.1), (105, 0.01)),
    passes="ac",
    class_policy="dafa:lamb=1.0,warmup=70",
    verified=False,
    unverified="learning rate, batch size, radius and step of the attack, whether decays begin in or after epochs 100 "
    "and 105",
)
_FRL = replace(
    _TRADES_CIFAR,
    name="paper:frl",
    source="Xu et al., ICML 2021, FRL (reweight and remargin) on TRADES, which fine-tunes; there PGD-20 validates",
    beta=1.5,
    epochs=40,
    lr=1e-3,
    decay=(),
    class_policy="frl:alpha1=0.05,alpha2=0.2,tolerance=0.07,normalize=true",
    validation=0.06,
    keep="robust+worst",
    fine_tunes=True,
    verified=False,
    unverified="architecture, radius and step of the attack, batch size, weight decay, 300 validation images of each "
    "class, the rule that chooses the epoch",
)
_WAT = replace(
    _TRADES_CIFAR,
    name="paper:wat",
    source="Li and Liu, AAAI 2023, WAT on TRADES",
    epochs=100,
    passes="ca",
    class_policy="wat:eta=0.1",
    validation=0.02,
    keep="robust+worst",
    verified=False,
    unverified="architecture, radius and step of the attack, learning rate, batch size, the share of validation images "
    "and the rule that chooses the epoch",
)
_FAAL = replace(
    _STANDARD,
    name="paper:faal",
    source="Zhang et al., CVPR 2024, FAAL on standard adversarial training, which fine-tunes; theirs keeps the epoch "
    "that is best on the test images, here it is the last one",
    epochs=2,
    lr=0.01,
    decay=((2, 0.1),),
    passes="ac",
    class_policy="faal:radius=0.5,exact=true",
    fine_tunes=True,
    verified=False,
    unverified="radius and step of the attack, batch size",
)
_TRADES_FAAL = replace(
    _FAAL,
    method="trades",
    source=_FAAL.source.replace("standard adversarial training", "TRADES"),
    beta=6.0,
    two_passes=True,
)
_TRADES_FAAL_AWP = replace(
    _TRADES_FAAL,
    name="paper:faal-awp",
    source=_TRADES_FAAL.source.replace("TRADES", "TRADES with AWP"),
    passes="acc",
    awp_gamma=5e-3,
    unverified=f"{_FAAL.unverified}, gamma",
)
_CFOL = replace(
    _STANDARD,
    name="paper:cfol",
    source="Pethick et al., TMLR 2023, CFOL for PreActResNet-18; theirs keeps the attack's best iterate, here it is "
    "the last one",
    threat=ThreatModel("Linf", 0.031),
    eps_step=0.00797,
    steps=7,
    epochs=150,
    decay=((51, 0.1), (101, 0.01)),
    class_policy="cfol:eta=5e-6,gamma=0.5",
    class_balanced=True,
    validation=0.2,
    keep="robust+worst",
    verified=False,
    unverified="epochs, learning rate and its decays, batch size, weight decay, the rule that chooses the epoch",
)

# Generated images, with pseudo-labels.
_WANG_UNLIKE = (
    "there the attack starts uniformly in the ball and sees batch statistics, momentum falls and rises with the rate, "
    "and batch norms have no weight decay"
)
_WANG = Recipe(
    "paper",
    "trades",
    "Wang et al., ICML 2023: the authors' command for 1 million generated images, whose 400 epochs of 98 steps are 121 "
    f"passes over 50,000 labelled images; {_WANG_UNLIKE}",
    _LINF_8,
    eps_step=2 / 255,
    beta=5.0,
    epochs=121,
    batch_size=512,
    lr=0.2,
    nesterov=True,
    schedule="one-cycle",
    rise=0.025,
    crop_padding=4,
    flip=True,
    two_passes=True,
    passes="ca",
    precision="fp32",
    unlabeled_fraction=0.7,
    label_smoothing=0.1,
    ema_decay=0.995,
    validation=1024 / 50_000,
    keep="robust",
    verified=True,
)
_WANG_CIFAR100 = replace(_WANG, verified=False, unverified="that it is as for CIFAR-10")
_WANG_LARGE = replace(
    _WANG,
    source="Wang et al., ICML 2023, for WRN-70-16 with 50 million generated images, of which 2,000 epochs of 25 steps "
    f"are 410 passes over 50,000 labelled images; {_WANG_UNLIKE}",
    epochs=410,
    batch_size=2048,
    unlabeled_fraction=0.8,
    verified=False,
    unverified="epochs, batch size, share of generated images",
)


def _records() -> Iterator[tuple[str, str, Recipe]]:
    """Yield architecture, data set and recipe."""
    yield "preactresnet18", "cifar10", _STANDARD
    yield "resnet18", "cifar10", replace(_STANDARD, verified=False, unverified="the architecture")
    yield "wrn-34-10", "cifar10", _STANDARD_WIDE
    yield "resnet18", "cifar10", _FAT
    yield "preactresnet18", "cifar10", _STANDARD_AWP
    yield "wrn-34-10", "cifar10", _TRADES_CIFAR
    yield "resnet18", "cifar10", _TRADES_RESNET
    yield "mnist-cnn", "mnist", _TRADES_MNIST
    yield "wrn-28-10-swish", "cifar10", _WANG
    yield "wrn-28-10-swish", "cifar100", _WANG_CIFAR100
    yield "wrn-70-16-swish", "cifar10", _WANG_LARGE
    yield "wrn-34-10", "cifar10", _TRADES_AWP
    yield "resnet18", "cifar10", _MART_RESNET
    yield "wrn-34-10", "cifar10", _MART_WIDE
    yield "wrn-28-10", "cifar10", _MART_UNLABELED
    yield "mnist-cnn", "mnist", _MART_MNIST
    yield "resnet18", "cifar10", _MART_AWP
    yield "wrn-34-10", "cifar10", _MART_AWP_WIDE
    yield "resnet18", "cifar10", _BAT
    for recipe in (_STANDARD_CFA, _FAT_CFA, _TRADES_CFA):
        yield "preactresnet18", "cifar10", recipe
    yield "resnet18", "cifar10", _DAFA
    yield "resnet18", "cifar100", replace(_DAFA, class_policy="dafa:lamb=1.5,warmup=70")
    yield "preactresnet18", "cifar10", _FRL
    yield "resnet18", "cifar10", _WAT
    for recipe in (_FAAL, _TRADES_FAAL, _TRADES_FAAL_AWP):
        for architecture in ("preactresnet18", "wrn-34-10"):
            yield architecture, "cifar10", recipe
    yield "preactresnet18", "cifar10", _CFOL


PUBLISHED: Mapping[tuple[str, str, str, str], Recipe] = MappingProxyType(
    {(recipe.method, architecture, dataset, recipe.name): recipe for architecture, dataset, recipe in _records()}
)
"""The published recipes, by method, architecture, data set and name."""
