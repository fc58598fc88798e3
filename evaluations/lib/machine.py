"""What an evaluation ran with, as its tables state it, and how long; devices that ART doesn't know."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch

from art_classwise.audit.plan import placed
from art_classwise.audit.provenance import processor


def hardware(device: str | None = None) -> str:
    """Return the GPU's name, or else the processor's with the number of cores and threads.

    Args:
        device: Where was computed; the GPU where there is one, if absent.
    """
    if device == "cuda" or (device is None and torch.cuda.is_available()):
        return torch.cuda.get_device_name()
    cpu = f"{os.cpu_count()} cores, {processor()}, {torch.get_num_threads()} threads"
    return cpu if device in (None, "cpu") else f"{device} on {cpu}"


def versions() -> str:
    """Return the versions of Python, torch and ART."""
    art = version("adversarial-robustness-toolbox")
    return f"Python {platform.python_version()}, torch {torch.__version__}, ART {art}"


def placed_by_art(device: str | None) -> str | None:
    """Return the device for ART's interface, which knows ``"cpu"`` and ``"cuda"`` (or None): of another, the CPU."""
    return device if device in (None, "cpu", "cuda") else "cpu"


def moved(classifier: Any, device: str | None) -> Any:
    """Return the classifier, moved to a device that ART doesn't know, if it is one; make its optimizer afterwards."""
    return classifier if device in (None, "cpu", "cuda") else placed(classifier, device)


def seconds_of(run: Callable[[], Any], *others: Callable[[], Any], rounds: int = 1) -> list[float]:
    """Return how long functions take, the medians of rounds in which each runs in turn.

    These are CPU seconds, which other processes on the machine hardly change, but on a GPU those of the clock. What a
    network's first pass costs once, such as a trial of how it is computed fastest, isn't left out: run each before.
    """
    cuda = torch.cuda.is_available()
    clock = time.perf_counter if cuda else time.process_time
    taken: list[list[float]] = [[] for _ in (run, *others)]
    for _ in range(rounds):
        for one, seconds in zip((run, *others), taken, strict=True):
            began = clock()
            one()
            if cuda:
                torch.cuda.synchronize()
            seconds.append(clock() - began)
    return [statistics.median(seconds) for seconds in taken]
