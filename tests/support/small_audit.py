"""A small audit that processes, engines and stores compute: networks, examples and attacks that all of them make alike.

Each attack breaks some examples and not all; one of them, ART's own, draws from the global random state.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from torch import nn

import art_classwise as acw
from art_classwise.attacks import ladder
from art_classwise.audit import audit as module
from art_classwise.audit.provenance import is_fingerprint
from art_classwise.audit.store import _FILE, Store, Unit

N, SHARD, SHARDS = 18, 4, 5  # the last shard has two examples
THREAT, CLASSES = "Linf:0.02", ("ant", "bee", "cow", "doe")
MODES = pytest.mark.parametrize("worst_case", [False, True], ids=["every example", "worst case"])
ATTACKS = {
    "random": lambda classifier: FastGradientMethod(classifier, eps=0.02, num_random_init=2),
    **ladder(("fgsm", "pgd-3", "margin-5"), THREAT),
}
MODELS = ("net", "other", "third")


class Dies(nn.Module):
    """Ends the process that computes, as long as there is a file to take away."""

    def __init__(self, folder):
        super().__init__()
        self.folder = str(folder)

    def forward(self, x):
        left = sorted(Path(self.folder).glob("life*"))
        if left and os.environ.get("DRIVER") != str(os.getpid()):
            left[0].unlink()
            os._exit(1)
        return x


def make_classifier(name="net"):
    torch.manual_seed(MODELS.index(name))
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 4))
    return acw.as_classifier(network.eval(), (3, 6, 6), 4, device="cpu")


def make_data(seed=0):
    """Examples that the first network gets right, but for every fifth."""
    x = np.random.default_rng(seed).random((N, 3, 6, 6), dtype=np.float32)
    y = make_classifier().predict(x).argmax(1)
    return acw.Dataset(x, np.where(np.arange(N) % 5 == 1, (y + 1) % 4, y), CLASSES)


@contextmanager
def small_shards():
    """Shards of four examples within the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SHARD", SHARD)
        yield


def audit(store=None, **options):
    given = {"threat": THREAT, "attacks": ATTACKS, "checks": False, "verbose": False}
    return acw.ClassWiseAudit(store=store, **given | options)


def result(store=None, models=MODELS, seed=0, **options):
    """The audit's result, of small shards."""
    with small_shards():
        classifiers = {name: make_classifier(name) for name in models}
        return audit(store, **options).evaluate(classifiers, make_data(seed))


def outcomes(store=None, models=MODELS, seed=0, **options):
    """The one table."""
    return result(store, models, seed, **options).outcomes


def planned(store, models=MODELS, **options):
    """Plan the audit in a store."""
    with small_shards(), pytest.warns(UserWarning, match="written into the plan"):
        return audit(store, **options).plan({name: make_classifier(name) for name in models}, make_data())


def work(store, **options):
    """Compute units; return how many."""
    return acw.audit.work_on(store, run_code=True, verbose=False, **options)


def units_in(store):
    """The units that are there, each once and whole: the store reads it."""
    found, held = [], None
    for path in Path(store).glob("outcomes/*/*/*.parquet"):
        held = held or Store(store)
        match = _FILE.fullmatch(path.name)
        manifest = held.manifest()
        (model,) = {f for f in manifest.models.values() if f.startswith(match[1])}
        keys = {one.fingerprint for one in manifest.attacks.values()}
        attack = None if match[2] == "clean" else next(key for key in keys if key.startswith(match[2]))
        assert is_fingerprint(model)
        found.append(Unit(model, attack, int(match[3])))
        held.read(found[-1])
    assert len(found) == len(set(found))
    return set(found)


def assert_tidy(store):
    """Nothing is left of what was on its way, and nothing is there but what the documentation lists."""
    assert [*store.rglob("*.tmp")] == []
    assert {path.name for path in store.iterdir()} <= {"manifest.json", "plans", "environments", "probes", "outcomes"}
