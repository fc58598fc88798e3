"""Time that a process takes to import the package and to begin, for speed.py."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

import pandas as pd

TABLES = ("import",)
_FIRST_USE = """
import numpy as np, torch
import art_classwise as acw
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
net = acw.as_classifier(net, (1, 8, 8), 10, device="cpu")
x, y = np.zeros((2, 1, 8, 8), np.float32), np.arange(2)
"""
CODE = {
    "python alone": "pass",
    "import torch": "import torch",
    "import art": "import art.attacks.evasion, art.estimators.classification",
    "import art_classwise": "import art_classwise",
    "first PGD": f"{_FIRST_USE}acw.PGD(net, eps=0.1, max_iter=1, verbose=False).generate(x, y)",
    "first audit": f"{_FIRST_USE}acw.ClassWiseAudit('Linf:0.1', ['fgsm'], checks=False, verbose=False)"
    ".evaluate({'net': net}, acw.Dataset(x, y, tuple('abcdefghij')))",
    "art-classwise --help": "import sys; sys.argv[1:] = ['--help']; from art_classwise.cli import main; main()",
}
"""What a process does, by name. Of ART are imported the attacks and the classifiers: the package alone is empty."""
ROUNDS = {"tiny": 1, "quick": 3, "long": 9, "full": 9}


def measure(arguments: argparse.Namespace, only: str) -> pd.DataFrame:
    """Return the table that speed.py's command line asks for: :func:`time_imports` in the size's rounds."""
    return time_imports(max(arguments.rounds, ROUNDS[arguments.size]), warm_up=arguments.size != "tiny")


def time_imports(rounds: int, *, warm_up: bool = True) -> pd.DataFrame:
    """Time whole processes, from their start to their end, by turns.

    Args:
        rounds: How often each is timed.
        warm_up: Run a round before, which fills the system's caches.

    Returns:
        A row per process: ``seconds``, the median, with ``fastest`` and ``slowest``; ``above python``, the median less
        that of a process that does nothing.
    """
    seconds: dict[str, list[float]] = {name: [] for name in CODE}
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # a GPU's own start isn't ours
    for round_ in range(0 if warm_up else 1, rounds + 1):
        for name, code in CODE.items():
            began = time.perf_counter()
            command = [sys.executable, "-W", "ignore", "-c", code]
            subprocess.run(command, check=True, capture_output=True, env=environment)
            if round_:
                seconds[name].append(time.perf_counter() - began)
    alone = statistics.median(seconds["python alone"])
    return pd.DataFrame(
        {
            "process": name,
            "rounds": rounds,
            "seconds": statistics.median(taken),
            "fastest": min(taken),
            "slowest": max(taken),
            "above python": statistics.median(taken) - alone,
        }
        for name, taken in seconds.items()
    )
