"""How fast attacks, training and audits are, beside others' on the same network, images and steps.

    python evaluations/speed.py --only attacks --cifar10 cifar10_test.npz --checkpoints FOLDER --torchattacks FOLDER
    python evaluations/speed.py --only training
    python evaluations/speed.py --only policies
    python evaluations/speed.py --only audit --cifar10 cifar10_test.npz --checkpoints FOLDER
    python evaluations/speed.py --only scaling --cifar10 cifar10_test.npz --checkpoints FOLDER
    python evaluations/speed.py --only memory
    python evaluations/speed.py --only disk

Each case runs in a process of its own, in several rounds: a call to warm up, then whole calls of ``generate``, or whole
epochs of training; the table has their median. torchattacks' wheel brings a package ``robustbench`` that overwrites the
real one, so install it aside: ``pip install --no-deps --target FOLDER torchattacks``. Without --cifar10 and
--checkpoints cases that need them are left out. On a CUDA GPU: ``--size full`` (larger batches, WideResNet-28-10;
audits of 10,000 images on the ResNet-18 given as --model). ``scaling`` is an audit by one process and by several,
``memory`` what an audit of an image folder takes, ``disk`` what its outcomes do: see audit_speed.py and audit_size.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parent))
import audit_size
import audit_speed
from _machine import hardware, versions
from policy_step import time_policies
from published import load_published
from training_step import STEPS, TRAINERS, forwards_per_image, time_training

import art_classwise as acw

EPS, STEP = 8 / 255, 2 / 255
CHOICES = ("attacks", "training", "policies", *audit_speed.TABLES, *audit_size.TABLES)
VERDICT_EPS = 0.9 / 255  # at which pyautoattack's natural ResNet-18 withstands PGD-20 on about half of the images


def main() -> None:
    """Run the cases, print the table and write it."""
    arguments = _arguments()
    if arguments.case:
        print(json.dumps(_run_case(arguments)))
        return
    if arguments.only == "policies":
        _time_policies(arguments)
        return
    for measured in (audit_speed, audit_size):
        if arguments.only in measured.TABLES:
            _write(measured.measure(arguments), arguments)
            return
    results: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for round_ in range(arguments.rounds):  # by turns, so that a slow minute of the machine meets all cases alike
        for case in _cases(arguments):
            print("round", round_ + 1, "of", arguments.rounds, *case, flush=True)
            child = [sys.executable, __file__, *sys.argv[1:], "--case", *case]
            done = subprocess.run(child, capture_output=True, text=True)
            if done.returncode:
                print("  left out:", (done.stderr.strip() or "no message").splitlines()[-1], flush=True)
            else:
                results.setdefault(case, []).append(json.loads(done.stdout.splitlines()[-1]))
    if not results:
        sys.exit("error: no case ran")
    table = pd.DataFrame([_summary(case, measured) for case, measured in results.items()])
    seconds = table["seconds"]
    for other in ("ART", "torchattacks", "ART TRADES", "published MART"):
        theirs = table[table["method"] == other].set_index(["benchmark", "network"])["seconds"]
        beside = [theirs.get((b, n), np.nan) for b, n in zip(table["benchmark"], table["network"], strict=True)]
        table[f"times {other}"] = beside / seconds
    table["hardware"], table["versions"] = hardware(), versions()
    table["matrix TFLOP/s"] = _matrix_rate()
    table["command"] = f"python evaluations/speed.py --only {arguments.only} --size {arguments.size}"
    table.to_csv(arguments.out, index=False, float_format="%.4g")
    shown = table.drop(columns=["hardware", "versions", "command", "matrix TFLOP/s"])
    print(shown.to_string(index=False, float_format=lambda v: f"{v:.4g}", na_rep=""))
    print(f"\n{hardware()}; {versions()}; bfloat16 matrix products here: {_matrix_rate():.3g} TFLOP/s\n{arguments.out}")


def _time_policies(arguments: argparse.Namespace) -> None:
    """Print and write what each class policy adds to an epoch."""
    tables = []
    for network, few, rounds in (("resnet18", 128, arguments.rounds), ("digits-cnn", 1024, 5 * arguments.rounds)):
        size = (50_000, 128) if arguments.size == "full" else (few, 64)
        table = time_policies(network, *size, rounds)
        tables.append(table)
        print(table.to_string(index=False, float_format=lambda v: f"{v:.4g}"), flush=True)
    _write(pd.concat(tables), arguments, show=False)


def _write(table: pd.DataFrame, arguments: argparse.Namespace, *, show: bool = True) -> None:
    """Write a table with where, with what and how it was measured, and print it if it hasn't been."""
    if show:
        print(table.to_string(index=False, float_format=lambda v: f"{v:.4g}", na_rep=""))
    command = f"python evaluations/speed.py --only {arguments.only} --size {arguments.size} --rounds {arguments.rounds}"
    command += f" --processes {arguments.processes}" if arguments.only == "scaling" else ""
    command += f" --model {Path(arguments.model).name}" if arguments.model else ""
    table = table.assign(hardware=hardware(), versions=versions(), command=command)
    table.to_csv(arguments.out, index=False, float_format="%.4g")
    print(f"{hardware()}; {versions()}\n{arguments.out}")


def _summary(case: tuple[str, str, str], measured: list[dict[str, Any]]) -> dict[str, Any]:
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


def _cases(arguments: argparse.Namespace) -> list[tuple[str, str, str]]:
    full = arguments.size == "full"
    if arguments.only == "training":
        names = (*TRAINERS, *(("ours MART compiled",) if full or arguments.compiled else ()))
        return [(f"training, batch {b}", "resnet18", name) for b in ((128, 512) if full else (64,)) for name in names]
    others = ("ART", *(("torchattacks",) if arguments.torchattacks else ()))
    ours = ("ours auto", "ours fp32", *(("ours auto compiled",) if full or arguments.compiled else ()))
    cases = [
        ("pgd-10", network, a)
        for network in (("resnet18", "wrn-28-10") if full else ("resnet18",))
        for a in (*others, *ours)
    ]
    if arguments.cifar10:
        cases += [
            ("verdict pgd-20", "cifar10-resnet18-natural", a) for a in ("ART", "ours auto", "ours auto early stop")
        ]
    if arguments.cifar10 and arguments.checkpoints:
        networks = ("cifar10-cnn-a", "cifar10-resnet4b")
        cases += [("precision", n, a) for n in networks for a in ("ours fp32 early stop", "ours bf16 early stop")]
    return cases


def _run_case(arguments: argparse.Namespace) -> dict[str, Any]:
    benchmark, name, attack = arguments.case
    if benchmark.startswith("training"):
        return _run_training(attack, int(benchmark.split()[-1]), arguments.size == "full")
    full, device = arguments.size == "full", "cuda" if torch.cuda.is_available() else "cpu"
    eps, steps, repeats = EPS, 10 if benchmark == "pgd-10" else 20, 2
    if benchmark == "pgd-10":
        n = {"resnet18": 512, "wrn-28-10": 256}[name] if full else 64
        classifier = acw.as_classifier(acw.build(name, (3, 32, 32), 10, seed=0).eval(), (3, 32, 32), 10)
        rng = np.random.default_rng(0)
        x, y = rng.random((n, 3, 32, 32), dtype=np.float32), rng.integers(0, 10, n)
    else:
        n, repeats = (
            (10_000 if full else 1_000 if benchmark == "precision" else 128),
            1 if benchmark == "precision" else 2,
        )
        data = acw.load_dataset(arguments.cifar10, classes="cifar10", n_examples=n)
        x, y = np.asarray(data.x[:]), data.y
        eps = {"cifar10-cnn-a": 4 / 255, "cifar10-resnet4b": 2 / 255}.get(name, VERDICT_EPS)
        classifier = load_published(name, arguments.checkpoints or ".")
    before = _peak_memory(device)
    generate = _attack(attack, classifier, eps, steps, min(n, 512 if full else 128), arguments.torchattacks)
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
        "robust %": 100 * robust if benchmark != "pgd-10" else None,
        "seconds": seconds,
        "FLOP per image": _flops_per_image(classifier, x),
        "peak MiB": peak / 2**20,
    }


def _run_training(name: str, batch_size: int, full: bool) -> dict[str, Any]:
    """Return a row as an attack's; ``n`` is the images of an epoch: as many as in CIFAR-10, or four batches."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    n, before = (50_000 if full else 4 * batch_size), _peak_memory(device)
    seconds, classifier, x = time_training(name, n, batch_size, 2)
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=("quick", "full"), default="quick", help="full is for a GPU")
    parser.add_argument("--only", choices=CHOICES, required=True, help="what to measure")
    parser.add_argument("--cifar10", help="an .npz file with CIFAR-10's test set, arrays x and y")
    parser.add_argument("--checkpoints", help="folder of the published networks' weights")
    parser.add_argument("--torchattacks", help="folder torchattacks was installed into")
    parser.add_argument("--compiled", action="store_true", help="also with torch.compile (needs a C++ compiler)")
    parser.add_argument("--model", help="of audits at --size full: a checkpoint of `art-classwise train`")
    parser.add_argument("--processes", type=int, default=2, help="of --only scaling")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="the table; in results/ if absent")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.out = arguments.out or str(Path(__file__).with_name("results") / f"speed_{arguments.only}.csv")
    return arguments


if __name__ == "__main__":
    main()
