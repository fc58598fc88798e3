from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from art_classwise._core.state import evaluating, frozen, preserved, preserved_random_state


def draws():
    return random.random(), np.random.random(), torch.rand(1).item()


def test_random_state_is_put_back_and_the_seed_decides_inside():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    inside = []
    for seed in (7, 7, 8):
        with preserved_random_state(seed):
            inside.append(draws())
    assert draws() == expected
    assert inside[0] == inside[1] != inside[2]


def test_no_seed_is_queued_for_a_cuda_that_is_not_in_use(monkeypatch):
    """torch.manual_seed would queue one, and the user's later draws on the GPU would follow it."""
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: False)
    for name in ("torch.cuda.manual_seed", "torch.cuda.manual_seed_all", "torch.cuda._lazy_call"):
        monkeypatch.setattr(name, lambda *a, **k: pytest.fail("touched CUDA"))
    with preserved_random_state(3):
        torch.rand(1)


def test_random_state_is_put_back_after_an_error():
    state = torch.get_rng_state()

    def broken():
        with preserved_random_state():
            torch.rand(3)
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        broken()
    assert torch.equal(torch.get_rng_state(), state)


def test_modules_are_put_back(network):
    network.train()
    network[1].eval()
    network[0].weight.requires_grad_(False)
    network[0].weight.grad = gradient = torch.ones_like(network[0].weight)
    with evaluating(network), frozen(network):
        assert not any(m.training for m in network.modules())
        assert not any(p.requires_grad for p in network.parameters())
    with preserved(network):
        assert network[0].weight.grad is None
        network.eval()
        network.requires_grad_(True)
        network[5].weight.grad = torch.zeros_like(network[5].weight)
    assert network.training
    assert not network[1].training
    assert [p.requires_grad for p in network.parameters()] == [False, *[True] * 5]
    assert network[0].weight.grad is gradient
    assert network[5].weight.grad is None
