from __future__ import annotations

import pytest
import torch

import art_classwise as acw


@pytest.fixture(scope="session")
def trained(train_set):
    """A network for digits, trained for a moment."""
    torch.manual_seed(0)
    network = acw.build("digits-cnn", train_set.input_shape, 10, seed=0)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    x, y = torch.from_numpy(train_set.x), torch.from_numpy(train_set.y)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network.eval().requires_grad_(False)
