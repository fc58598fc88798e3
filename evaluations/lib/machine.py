"""The hardware and versions that an evaluation ran with, as its tables state them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import torch

from art_classwise.audit.provenance import processor


def hardware() -> str:
    """Return the GPU's name, or else the processor's with the number of cores and threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores, {processor()}, {torch.get_num_threads()} threads"


def versions() -> str:
    """Return the versions of Python, torch and ART."""
    art = version("adversarial-robustness-toolbox")
    return f"Python {platform.python_version()}, torch {torch.__version__}, ART {art}"
