"""Speed of this version of the package compared with another, case by case by turns, in CPU time of one thread.

    python evaluations/speed/versions.py --before FOLDER --checkpoints FOLDER

--before is another checkout. Each version runs in a process of its own; after a call to warm up, both are timed in
turn, since a shared machine is never equally fast for long. CPU time excludes what other processes take.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parents[1]))


def cases(checkpoints: str | None) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name; without networks, only steps of a search beside next to no network."""
    import numpy as np
    import torch
    from lib.published import load_published

    import art_classwise as acw
    from art_classwise import losses
    from art_classwise.attacks.search import search

    torch.set_num_threads(1)
    torch.manual_seed(0)

    class FirstPixels(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 3 * x.flatten(1)[:, :10]

    def step(norm: str, eps: float, steps: int, *shape: int) -> Callable[[], object]:
        x, y, box = torch.rand(shape), torch.randint(0, 10, shape[:1]), (torch.tensor(0.0), torch.tensor(1.0))
        return lambda: search(
            FirstPixels(), x, y, acw.ThreatModel(norm, eps), losses.margin, eps_step=eps / 4, max_iter=steps,
            low=box[0], high=box[1], solved=lambda logits, rows: logits.argmax(1) != y[rows],
        )  # fmt: skip

    timed: dict[str, Callable[[], object]] = {
        "50 steps, Linf, 64 x 1 x 8 x 8": step("Linf", 0.03, 50, 64, 1, 8, 8),
        "10 steps, Linf, 128 x 3 x 32 x 32": step("Linf", 0.03, 10, 128, 3, 32, 32),
        "10 steps, L2, 128 x 3 x 32 x 32": step("L2", 0.5, 10, 128, 3, 32, 32),
        "10 steps, L1, 128 x 3 x 32 x 32": step("L1", 12.0, 10, 128, 3, 32, 32),
    }
    if checkpoints is None:
        return timed
    classifier = load_published("cifar10-cnn-a", checkpoints)
    images = np.random.default_rng(0).random((512, 3, 32, 32), dtype=np.float32)
    labels = classifier.predict(images).argmax(1)

    def attack(n: int, **options: object) -> Callable[[], object]:
        made = acw.PGD(classifier, **{"eps": 4 / 255, "max_iter": 10, "precision": "fp32", "verbose": False, **options})
        return lambda: made.generate(images[:n], labels[:n])

    square = acw.AutoAttack(classifier, eps=4 / 255, attacks="square", n_queries=200, verbose=False)
    early = {"eps": 16 / 255, "max_iter": 50, "early_stop": True}
    return {
        **timed,
        **{f"PGD-10, CNN-A, {n} images": attack(n) for n in (4, 16, 81, 512)},
        "PGD-50 with early stop, CNN-A, 256 images, 16 at once": attack(256, batch_size=16, **early),
        "PGD-50 with early stop, CNN-A, 512 images, 64 at once": attack(512, batch_size=64, **early),
        "Square, 200 queries, CNN-A, 64 images": lambda: square.generate(images[:64], labels[:64]),
    }


def answer(checkpoints: str | None) -> None:
    """Time the case of each line of the standard input, and print its CPU seconds."""
    timed = cases(checkpoints)
    print(*timed, sep="\t", flush=True)
    for line in sys.stdin:
        began = time.process_time()
        timed[line.strip()]()
        print(time.process_time() - began, flush=True)


class Version:
    """A checkout of the package, in a process of its own."""

    def __init__(self, folder: Path, checkpoints: str | None) -> None:
        environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--answer", *(["--checkpoints", checkpoints] if checkpoints else [])]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder
        )
        self.names = self._read().split("\t")

    def seconds(self, case: str) -> float:
        """Return the CPU seconds of a call."""
        assert self._process.stdin is not None
        print(case, file=self._process.stdin, flush=True)
        return float(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def main() -> None:
    """Time both versions by turns, print the table and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--checkpoints", help="folder of the published networks' weights")
    parser.add_argument("--rounds", type=int, default=5, help="number of measurements of each case")
    parser.add_argument("--out", type=Path, default=ROOT / "evaluations" / "results" / "speed" / "speed_versions.csv")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.answer:
        answer(arguments.checkpoints)
        return
    if arguments.before is None:
        parser.error("--before FOLDER names the checkout to compare with.")
    from lib.machine import hardware, versions

    both = [Version(folder.resolve(), arguments.checkpoints) for folder in (arguments.before, ROOT)]
    rows = []
    for case in both[0].names:
        timed: list[list[float]] = [[], []]
        for number in range(arguments.rounds + 1):
            for which in (0, 1) if number % 2 else (1, 0):
                timed[which].append(both[which].seconds(case))
        before, after = (statistics.median(seconds[1:]) for seconds in timed)
        ratios = [b / a for b, a in zip(timed[0][1:], timed[1][1:], strict=True)]
        rows.append({"case": case, "rounds": arguments.rounds, "before ms": 1e3 * before, "after ms": 1e3 * after,
                     "times": before / after, "least": min(ratios), "most": max(ratios)})  # fmt: skip
        print(rows[-1], flush=True)
    command = "python evaluations/speed/versions.py --before FOLDER --checkpoints FOLDER"
    table = pd.DataFrame(rows).assign(hardware=hardware(), versions=versions(), command=command)
    table.to_csv(arguments.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
