"""What several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import art_classwise as acw

SHARED = Path(os.environ.get("ART_CLASSWISE_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and published networks, which are not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared data and checkpoints at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def mnist_root(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST as torchvision reads it."""
    import gzip

    root = tmp_path_factory.mktemp("data")
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in (shared / "data" / "mnist").glob("*.gz"):
        (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    return root


@pytest.fixture(scope="session")
def digits() -> acw.Dataset:
    return acw.load_dataset("digits", "test")


@pytest.fixture
def network() -> nn.Module:
    """A small smooth network for images (3, 6, 6), 4 classes, with every kind of state."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(128, 4)
    ).eval()


@pytest.fixture
def classifier(network: nn.Module):
    return acw.as_classifier(network, (3, 6, 6), 4, device="cpu")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((16, 3, 6, 6), dtype=np.float32)


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4, 16)
