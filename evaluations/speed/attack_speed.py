"""Speed of attacks and training steps compared with other implementations, for speed.py.

Every case is a function that runs in its own process: this file, called with the function's name and arguments.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from lib.machine import moved, placed_by_art
from lib.processes import answer, apart
from lib.published import load_published
from training_step import STEPS, TRAINERS, forwards_per_image, random_network, time_training

import art_classwise as acw

TABLES = ("attacks", "training")
EPS = 8 / 255
VERDICT_EPS = 0.9 / 255  # at which pyautoattack's natural ResNet-18 withstands PGD-20 on about half of the images


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        images: Of PGD-10, by network.
        few: Also of PGD-10 on the first of these networks: fewer images.
        verdict: Test images of which is seen whether they withstand; 0: that isn't measured.
        precision: Likewise in float32 and bfloat16.
        batches: Of training.
        steps: Of an epoch; None: those of CIFAR-10.
        repeats: Calls, or epochs, after the one to warm up.
        at_once: Images that an attack computes at once, at most.
        trained: The network that is trained.
    """

    images: Mapping[str, int]
    verdict: int
    precision: int
    batches: tuple[int, ...]
    steps: int | None
    repeats: int = 2
    at_once: int = 128
    few: tuple[int, ...] = ()
    trained: str = "resnet18"


SIZES = {
    "smallest": Size({"cnn-a": 1}, 0, 0, (2,), 1, repeats=1, trained="cnn-a"),
    "tiny": Size({"resnet18": 2}, 2, 8, (2,), 1),
    "quick": Size({"resnet18": 32}, 48, 200, (32,), 2),
    "long": Size({"resnet18": 64}, 128, 1_000, (64,), 4, few=(1, 4, 16)),
    "short": Size({"resnet18": 512}, 1_000, 1_000, (128,), 10, at_once=512),
    "full": Size({"resnet18": 512, "wrn-28-10": 256}, 10_000, 10_000, (128, 512), None, at_once=512, few=(1, 4, 16)),
}
"""``smallest`` and ``short`` are gpu.py's, the others are speed.py's."""


def measure(arguments: argparse.Namespace, only: str) -> pd.DataFrame:
    """Return a table that speed.py's command line asks for: ``only`` is one of :data:`TABLES`.

    Returns:
        A row per case: median ``seconds`` of a call or an epoch with ``fastest`` and ``slowest``, what follows from
        them, and how often faster than others'.
    """
    results: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    given = {name: getattr(arguments, name) for name in ("size", "cifar10", "checkpoints", "torchattacks")}
    for round_ in range(arguments.rounds):  # by turns, so that a slow minute of the machine meets all cases alike
        for case in cases(arguments, only):
            print("round", round_ + 1, "of", arguments.rounds, *case, flush=True)
            done = apart(__file__, "time_case", case=case, **given)
            if done is not None:
                results.setdefault(case, []).append(done)
    if not results:
        sys.exit("error: no case ran")
    return compared([row_of(case, measured) for case, measured in results.items()]).assign(
        **{"matrix TFLOP/s": _matrix_rate()}
    )


def compared(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the table of some cases, with columns of how often faster than others' implementations each is."""
    table = pd.DataFrame(rows)
    for other in ("ART", "torchattacks", "ART TRADES", "published MART"):
        theirs = table[table["method"] == other].set_index(["benchmark", "network"])["seconds"]
        beside = [theirs.get((b, n), np.nan) for b, n in zip(table["benchmark"], table["network"], strict=True)]
        table[f"times {other}"] = beside / table["seconds"]
    return table


def row_of(case: tuple[str, str, str], measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a row of the table: of the seconds of all rounds their median and range."""
    seconds = [s for one in measured for s in one["seconds"]]
    one, median = measured[0], statistics.median(seconds)
    steps = one["n"] * one["steps"]
    return {
        **dict(zip(("benchmark", "network", "method"), case, strict=True)),
        **{key: one[key] for key in ("n", "steps", "eps x 255", "robust %")},
        "calls": len(seconds),
        "seconds": median,
        "fastest": min(seconds),
        "slowest": max(seconds),
        "images x steps / s": steps / median,
        "TFLOP/s": one["FLOP per image"] * steps / median / 1e12 if "early" not in case[2] else None,
        "peak MiB": max(m["peak MiB"] for m in measured),
    }


def cases(arguments: argparse.Namespace, only: str) -> list[tuple[str, str, str]]:
    """Return benchmark, network and method of each case that the command line asks for and gives files for."""
    full, size = arguments.size == "full", SIZES[arguments.size]
    if only == "training":
        names = (*TRAINERS, *(("ours MART compiled",) if full or arguments.compiled else ()))
        return [(f"training, batch {b}", size.trained, name) for b in size.batches for name in names]
    others = ("ART", *(("torchattacks",) if arguments.torchattacks else ()))
    ours = ("ours auto", "ours fp32", *(("ours auto compiled",) if full or arguments.compiled else ()))
    asked = [("pgd-10", network, a) for network in size.images for a in (*others, *ours)]
    asked += [(f"pgd-10 of {n}", next(iter(size.images)), a) for n in size.few for a in (*others, *ours)]
    if arguments.cifar10 and size.verdict:
        asked += [
            ("verdict pgd-20", "cifar10-resnet18-natural", a) for a in ("ART", "ours auto", "ours auto early stop")
        ]
    if arguments.cifar10 and arguments.checkpoints and size.precision:
        networks = ("cifar10-cnn-a", "cifar10-resnet4b")
        asked += [("precision", n, a) for n in networks for a in ("ours fp32 early stop", "ours bf16 early stop")]
    return asked


def time_case(
    case: tuple[str, str, str],
    size: str,
    cifar10: str | None,
    checkpoints: str | None,
    torchattacks: str | None,
    device: str | None = None,
) -> dict[str, Any]:
    """Time a case.

    Args:
        case: Benchmark, network and method.
        size: A key of :data:`SIZES`.
        cifar10: The file of CIFAR-10's test set.
        checkpoints: Folder of the published networks' weights.
        torchattacks: Folder that torchattacks was installed into.
        device: Where to compute; the GPU where there is one, if absent.

    Returns:
        ``seconds`` of each call or epoch; ``n`` images, ``steps``, ``eps x 255``, ``robust %``, ``FLOP per image`` of a
        step, ``peak MiB``.
    """
    benchmark, name, method = case
    how, device = SIZES[size], device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    if benchmark.startswith("training"):
        return _time_training(method, int(benchmark.split()[-1]), how, device)
    random_images = benchmark.startswith("pgd-10")
    eps, steps, repeats = EPS, 10 if random_images else 20, how.repeats
    if random_images:
        n = how.images[name] if benchmark == "pgd-10" else int(benchmark.split()[-1])
        module = random_network(name).eval()
        classifier = moved(acw.as_classifier(module, (3, 32, 32), 10, device=placed_by_art(device)), device)
        rng = np.random.default_rng(0)
        x, y = rng.random((n, 3, 32, 32), dtype=np.float32), rng.integers(0, 10, n)
    else:
        n, repeats = (how.precision, 1) if benchmark == "precision" else (how.verdict, repeats)
        data = acw.load_dataset(cifar10, classes="cifar10", n_examples=n)
        x, y = np.asarray(data.x[:]), data.y
        eps = {"cifar10-cnn-a": 4 / 255, "cifar10-resnet4b": 2 / 255}.get(name, VERDICT_EPS)
        classifier = moved(load_published(name, checkpoints or ".", placed_by_art(device)), device)
    before = _peak_memory(device)
    generate = _attack(method, classifier, eps, steps, min(n, how.at_once), torchattacks)
    x_adv, seconds = generate(x, y), []
    for _ in range(repeats):
        began = time.perf_counter()
        x_adv = generate(x, y)
        seconds.append(time.perf_counter() - began)
    peak = _peak_memory(device) - (0 if device == "cuda" else before)
    with torch.no_grad():
        logits = [
            classifier.model(torch.from_numpy(b).to(classifier.device)).cpu()
            for b in np.array_split(x_adv, -(-n // 250))
        ]
    robust = float((torch.cat(logits).argmax(1).numpy() == y).mean())
    return {
        "n": n,
        "steps": steps,
        "eps x 255": eps * 255,
        "robust %": None if random_images else 100 * robust,
        "seconds": seconds,
        "FLOP per image": _flops_per_image(classifier, x),
        "peak MiB": peak / 2**20,
    }


def _time_training(name: str, batch_size: int, how: Size, device: str) -> dict[str, Any]:
    """Return as :func:`time_case` does; ``n`` is the images of an epoch."""
    n, before = (50_000 if how.steps is None else how.steps * batch_size), _peak_memory(device)
    seconds, classifier, x = time_training(name, n, batch_size, how.repeats, device, how.trained)
    peak = _peak_memory(device) - (0 if device == "cuda" else before)
    forward = _flops_per_image(classifier, x) / 2
    return {
        "n": n,
        "steps": STEPS,
        "eps x 255": None,
        "robust %": None,
        "seconds": seconds,
        "FLOP per image": forward * forwards_per_image(name) / STEPS,
        "peak MiB": peak / 2**20,
    }


def _attack(
    name: str, classifier: Any, eps: float, steps: int, batch_size: int, folder: str | None
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    if name == "ART":
        from art.attacks.evasion import ProjectedGradientDescentPyTorch

        art = ProjectedGradientDescentPyTorch(
            classifier,
            eps=eps,
            eps_step=eps / 4,
            max_iter=steps,
            num_random_init=1,
            batch_size=batch_size,
            verbose=False,
        )
        return art.generate
    if name == "torchattacks":
        sys.path.append(str(folder))  # at the end: the robustbench it brings must not be found first
        import torchattacks

        theirs = torchattacks.PGD(classifier.model, eps=eps, alpha=eps / 4, steps=steps)

        def generate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return theirs(torch.from_numpy(x), torch.from_numpy(y)).cpu().numpy()

        return generate
    precision = next(p for p in ("auto", "fp32", "bf16") if p in name)
    ours = acw.PGD(
        classifier, eps=eps, max_iter=steps, batch_size=batch_size, precision=precision, verbose=False,
        early_stop="early stop" in name, compile="compiled" in name,
    )  # fmt: skip
    return ours.generate


def _flops_per_image(classifier: Any, x: np.ndarray) -> float:
    """Return the floating-point operations of one step on one image: a forward pass and the gradient of its input."""
    from torch.utils.flop_counter import FlopCounterMode

    image = torch.from_numpy(x[:1]).to(classifier.device).requires_grad_()
    classifier.model.eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        classifier.model(image).sum().backward()  # the weights are frozen
    return float(counter.get_total_flops())


def _matrix_rate() -> float:
    """Return the TFLOP/s of bfloat16 products of square matrices, the best of several."""
    cuda = torch.cuda.is_available()
    size = 8192 if cuda else 2048
    a = torch.ones(size, size, dtype=torch.bfloat16, device="cuda" if cuda else "cpu")
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        for _ in range(10 if cuda else 1):
            a @ a
        if cuda:
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - began) / (10 if cuda else 1))
    return 2 * size**3 / best / 1e12


def _peak_memory(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    answer(time_case)
