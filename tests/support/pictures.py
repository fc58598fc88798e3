"""Each figure, made of made-up numbers for as many classes as are asked for."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
from results import HOSTILE, make_result

from art_classwise import metrics
from art_classwise.report import figures

LONG = [
    "a class whose name has forty-eight letters in it",
    "\N{CJK UNIFIED IDEOGRAPH-732B}" * 24,
    HOSTILE,
    "$x$",
    "_hidden",
    "WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW",
]
ATTACKS = ("fgsm", "pgd-20", "autoattack-standard", "an attack with a rather long name $")


def names(n_classes, long=True):
    """Names that are hard to draw, each with its number."""
    return [f"{LONG[k % len(LONG)]}{k}" if long else f"class {k}" for k in range(n_classes)]


@cache
def result(n_classes, long=True, eps=0.1):
    """Audits of few examples of many classes, and of many of few."""
    models = (f"<b>{LONG[0]}", "the_$other$") if long else ("one", "two")
    n = 100 if n_classes <= 20 else 10
    return make_result(names(n_classes, long), models, n=n, attacks=ATTACKS if long else ATTACKS[:3], eps=eps)


def history(n_classes, epochs=30):
    """Accuracies that rise, of each class to another height."""
    t = np.arange(1, epochs + 1)
    rng = np.random.default_rng(0)
    level = rng.permutation(np.linspace(0.2, 0.8, n_classes))
    curves = (1 - np.exp(-t[:, None] / 8)) * level + 0.01 * rng.standard_normal((epochs, n_classes))
    table = pd.DataFrame(np.clip(curves, 0, 1), columns=[f"val_robust_{k}" for k in range(n_classes)])
    training = table.add(0.1).clip(0, 1).set_axis([f"robust_{k}" for k in range(n_classes)], axis=1)
    whole = pd.concat([pd.DataFrame({"epoch": t}), training, table], axis=1)
    whole.attrs["kept_epoch"] = 25
    return whole


def homing_table(n_classes, long=True, pooled=False):
    """Three classes excluded (of two classes both), of which the last is the control of the others."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(min(n_classes, 60)), 60 if n_classes <= 20 else 12)
    share = dict(enumerate((0.6, 0.4, 0.2)[:n_classes]))
    attacked = rng.choice(len(share), len(y))
    withstood = {k: rng.random(len(y)) < p for k, p in share.items()}
    confusion = metrics.confusion(y, attacked, n_classes)
    return metrics.homing(y, attacked, withstood, confusion, pooled=pooled, classes=names(n_classes, long))


def groups(n_classes):
    """Six groups with hard names."""
    return [LONG[k % len(LONG)] for k in range(n_classes)]


def images(n=8, channels=3):
    """Images, and what a perturbation of 8/255 makes of them."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 0.9, (n, channels, 16, 16)).astype(np.float32)
    return x, x + np.float32(8 / 255) * rng.choice([-1, 1], x.shape).astype(np.float32)


def _gallery(n_classes, long, ax, **options):
    x, x_adv = images()
    y = np.arange(8) % n_classes
    return figures.gallery(x, x_adv, y, (y + [0, 1] * 4) % n_classes, ax, classes=names(n_classes, long), **options)


def _norms(n_classes, long, ax, **options):
    table = result(n_classes, long).class_table(*_first(n_classes, long), ATTACKS[0])
    norms = 1 + table["robust"].fillna(0.5).to_numpy() + 0.1 * np.random.default_rng(0).standard_normal(n_classes)
    return figures.weight_norms(norms, table, ax, **options)


def _first(n_classes, long):
    return result(n_classes, long).models[:1]


def _table(n, long):
    return result(n, long).class_table(*_first(n, long))


def _compared(n, long, ax, **options):
    made = result(n, long)
    return figures.compared(made.compare(*made.models), ax, **options)


def _confusion(n, long, normalize=True):
    return result(n, long).confusion(*_first(n, long), ATTACKS[0], normalize=normalize)


def _strength(n, long, ax, **options):
    made = result(n, long)
    return figures.attack_strength(made.attack_strength(made.models[0], *ATTACKS[:2], split_seed=0), ax, **options)


def _radius(n, long, ax, **options):
    made = [result(n, long, eps) for eps in (0.1, 0.3, 0.6)]
    return figures.accuracy_by_radius(made, made[0].models[0], ax, **options)


FIGURES = {
    "class_accuracy": lambda n, long, ax=None, **o: figures.class_accuracy(_table(n, long), ax, **o),
    "class_by_attack": lambda n, long, ax=None, **o: figures.class_by_attack(
        result(n, long).by_attack(*_first(n, long)), ax, **o
    ),
    "confusion": lambda n, long, ax=None, **o: figures.confusion(_confusion(n, long), ax, **o),
    "confusion of counts": lambda n, long, ax=None, **o: figures.confusion(_confusion(n, long, False), ax, **o),
    "group_confusion": lambda n, long, ax=None, **o: figures.group_confusion(
        _confusion(n, long, False), groups(n), ax, **o
    ),
    "training_curves": lambda n, long, ax=None, **o: figures.training_curves(
        history(n), ax, classes=names(n, long), **o
    ),
    "class_histogram": lambda n, long, ax=None, **o: figures.class_histogram(_table(n, long), ax, **o),
    "attack_strength": lambda n, long, ax=None, **o: _strength(n, long, ax, **o),
    "weight_norms": lambda n, long, ax=None, **o: _norms(n, long, ax, **o),
    "homing": lambda n, long, ax=None, **o: figures.homing(homing_table(n, long), ax, **o),
    "homing pooled": lambda n, long, ax=None, **o: figures.homing(homing_table(n, long, True), ax, **o),
    "compared": lambda n, long, ax=None, **o: _compared(n, long, ax, **o),
    "accuracy_by_radius": lambda n, long, ax=None, **o: _radius(n, long, ax, **o),
    "gallery": lambda n, long, ax=None, **o: _gallery(n, long, ax, **o),
}
"""What draws each figure: (number of classes, whether names are long, axes or None, title=...) -> axes."""
