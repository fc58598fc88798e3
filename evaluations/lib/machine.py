"""The hardware and versions that an evaluation ran with, as its tables state them; devices that ART doesn't know."""

from __future__ import annotations

import os
import platform
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
