"""Speed and memory of AutoAttack's members in micro-batches, for speed.py.

Every case is a function that runs in its own process: this file, called with the function's name and arguments.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from lib.machine import moved, placed_by_art
from lib.processes import answer, apart
from lib.published import catalog, load_published

import art_classwise as acw
from art_classwise._core.state import evaluating, frozen
from art_classwise.attacks._autoattack_members import FABAttack_PT, Unit

TABLES = ("members",)
RECOMPUTED, OURS = "recomputed", "ours"
MEMBERS = ("apgd-ce", "apgd-t", "fab-t")
# Networks with radius, one that is robust there and one that isn't; images of a batch, of a pass, and steps.
_NETWORKS = (("cifar10-cnn-a", "2/255"), ("cifar10-cnn-sgd", "2/255"))
SIZES: Mapping[str, tuple[Any, ...]] = {
    "tiny": (_NETWORKS[:1], 8, 4, 2),
    "quick": (_NETWORKS, 128, 64, 20),
    "long": (_NETWORKS, 512, 256, 100),
    "full": (_NETWORKS, 512, 256, 100),
}


def lacks(arguments: argparse.Namespace) -> str:
    """Return which options the table needs that aren't given; empty if all are."""
    needed = {"--root with cifar10_test.npz": arguments.cifar10, "--checkpoints": arguments.checkpoints}
    return " and ".join(option for option, value in needed.items() if not value)


def measure(arguments: argparse.Namespace, only: str) -> pd.DataFrame:
    """Return the table that speed.py's command line asks for.

    Returns:
        A row per network, member and way: median processor ``seconds`` with ``fastest`` and ``slowest``; ``robust %``;
        ``verdicts that differ`` from the other way's; ``peak MiB``, above what the process took before (on a GPU,
        or on Linux); ``times recomputed``, how often as fast as the other way.

    Raises:
        SystemExit: CIFAR-10 or the published networks are needed, and it isn't said where they lie.
    """
    if lacking := lacks(arguments):
        sys.exit(f"error: --only {only} needs {lacking}")
    networks, batch, micro_batch, n_iter = SIZES[arguments.size]
    cases = [(*network, member) for network in networks for member in MEMBERS]
    rows = []
    for network, radius, member in cases:
        measured: dict[str, list[dict[str, Any]]] = {RECOMPUTED: [], OURS: []}
        for round_ in range(arguments.rounds):  # by turns, so that a slow minute of the machine meets both alike
            for way, done in measured.items():
                print("round", round_ + 1, "of", arguments.rounds, network, member, way, flush=True)
                given = {"data": arguments.cifar10, "checkpoints": arguments.checkpoints}
                sizes = {"batch": batch, "micro_batch": micro_batch, "n_iter": n_iter}
                one = apart(
                    __file__, "time_member", network=network, radius=radius, member=member, way=way, **given, **sizes
                )
                done += [] if one is None else [one]
        told = {"network": network, "eps x 255": 255 * acw.ThreatModel.parse(f"Linf:{radius}").eps, "member": member}
        sizes = {"n": batch, "micro-batch": micro_batch, "steps": n_iter}
        rows += [told | row_of(way, measured) | sizes for way in measured if measured[way]]
    if not rows:
        sys.exit("error: no case ran")
    return pd.DataFrame(rows)


def row_of(way: str, measured: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return what the rounds of a way tell, beside those of the other."""
    one, seconds = measured[way][0], [m["seconds"] for m in measured[way]]
    other = measured[RECOMPUTED]
    beside = statistics.median(m["seconds"] for m in other) if other else np.nan
    withstood = other[0]["withstood"] if other else one["withstood"]
    return {
        "way": way,
        "rounds": len(seconds),
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "robust %": 100 * one["withstood"].count("1") / len(one["withstood"]),
        "verdicts that differ": sum(a != b for a, b in zip(one["withstood"], withstood, strict=True)),
        "peak MiB": max(m["peak MiB"] for m in measured[way]),
        "times recomputed": beside / statistics.median(seconds),
    }


def time_member(
    network: str,
    radius: str,
    member: str,
    way: str,
    data: str,
    checkpoints: str,
    batch: int,
    micro_batch: int,
    n_iter: int,
    device: str | None = None,
) -> dict[str, Any]:
    """Attack one batch of test images with a member of AutoAttack.

    Args:
        network: One of the published networks.
        radius: Linf, as a fraction.
        member: One of :data:`MEMBERS`.
        way: :data:`OURS`; or :data:`RECOMPUTED`, as it was done before: passes for gradients are computed twice, by
            checkpoints, and APGD is pyautoattack's. FAB's steps are the same.
        data: CIFAR-10's file.
        checkpoints: Folder of the published networks' weights.
        batch: Images attacked at once.
        micro_batch: Images in a pass.
        n_iter: Steps.
        device: Where to compute; the GPU where there is one, if absent.

    Returns:
        ``seconds`` of the processor; ``withstood``, a string of an ``0`` or ``1`` per image; ``peak MiB``.

    Raises:
        KeyError: There is no such network, member or way.
    """
    assert catalog(checkpoints)[network].dataset == "cifar10"
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    classifier = moved(load_published(network, checkpoints, placed_by_art(device)), device)
    images = acw.load_dataset(data, classes="cifar10", n_examples=batch)
    x, y = torch.from_numpy(np.asarray(images.x[:])).to(device), torch.from_numpy(images.y).to(device)
    eps = acw.ThreatModel.parse(f"Linf:{radius}").eps
    made, options = {OURS: _ours, RECOMPUTED: _recomputed}[way], (classifier, member, eps, micro_batch)
    attack = made(*options, n_iter)
    with evaluating(classifier.model), frozen(classifier.model), torch.no_grad():
        made(*options, 1)(x[:2], y[:2])  # to warm up: the first checkpoint imports much
        before = _memory(device, "VmRSS")
        _forget_peak(device)
        began = time.process_time()
        points = attack(x, y)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.process_time() - began
        peak = _memory(device, "VmHWM") - before
        withstood = torch.cat([classifier.model(p).argmax(1) for p in points.split(micro_batch)]) == y
    return {
        "seconds": seconds,
        "withstood": "".join("01"[int(v)] for v in withstood.tolist()),
        "peak MiB": peak / 2**20,
    }


def _memory(device: str, kind: str) -> float:
    """Return bytes: ``"VmRSS"``, those in use, or ``"VmHWM"``, the most since :func:`_forget_peak`."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() if kind == "VmHWM" else torch.cuda.memory_allocated()
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    return 1024 * float(next((line.split()[1] for line in lines if line.startswith(f"{kind}:")), np.nan))


def _forget_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").is_file():
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _ours(
    classifier: Any, member: str, eps: float, micro_batch: int, n_iter: int
) -> Callable[[Tensor, Tensor], Tensor]:
    attack = acw.AutoAttack(
        classifier, eps=eps, attacks=member, n_iter=n_iter, micro_batch_size=micro_batch, precision="fp32",
        verbose=False,
    )  # fmt: skip
    return attack._member(member, Unit(classifier, classifier.model, micro_batch)).perturb


class _Recomputed(nn.Module):
    """A network that computes a micro-batch at a time, and each of them once more for its gradient."""

    def __init__(self, module: nn.Module, most: int) -> None:
        super().__init__()
        self.module, self.most = module, most

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.most)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return torch.cat([self.module(part) for part in parts])
        return torch.cat([checkpoint(self.module, p, use_reentrant=False, preserve_rng_state=False) for p in parts])


def _recomputed(
    classifier: Any, member: str, eps: float, micro_batch: int, n_iter: int
) -> Callable[[Tensor, Tensor], Tensor]:
    unit = Unit(classifier, classifier.model, None)
    unit.module.tries = False  # each micro-batch is to be recomputed with the rows that it had
    network = _Recomputed(unit, micro_batch)
    options = {"eps": eps, "norm": "Linf", "n_iter": n_iter, "device": classifier.device}
    makes: dict[str, Callable[..., Any]] = {
        "apgd-ce": APGDAttack,
        "apgd-t": APGDAttack_targeted,
        "fab-t": lambda *args, **options: FABAttack_PT(*args, targeted=True, **options),
    }
    return makes[member](network, **options).perturb


if __name__ == "__main__":
    answer(time_member)
