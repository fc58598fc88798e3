"""The margin of probabilities, and what attacks ascend in its place."""

from __future__ import annotations

import torch

from art_classwise import losses
from art_classwise.attacks.pgd import LOSSES


def gradient(function, logits, y):
    logits = logits.clone().requires_grad_()
    (g,) = torch.autograd.grad(function(logits, y).sum(), logits)
    return g


def test_it_is_the_margin_of_probabilities():
    z, y = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 6
    p = z.softmax(1)
    expected = torch.stack([torch.cat([row[:k], row[k + 1 :]]).max() - row[k] for row, k in zip(p, y, strict=True)])
    torch.testing.assert_close(losses.probability_margin(z, y), expected)
    wrong = z.argmax(1) != y
    assert torch.equal(losses.probability_margin(z, y) > 0, wrong)


def test_what_is_ascended_has_its_direction_and_outlives_confidence():
    z = 3 * torch.randn(200, 6, generator=torch.Generator().manual_seed(1)).double()
    y = torch.arange(200) % 6
    exact, ours = (gradient(f, z, y) for f in (losses.probability_margin, losses.scaled_probability_margin))
    away = 1 - z.softmax(1).gather(1, y[:, None])
    torch.testing.assert_close(ours * away, exact, rtol=1e-7, atol=1e-12)
    confident = torch.zeros(1, 6)
    confident[0, 2], confident[0, 4] = 300.0, 5.0
    label = torch.tensor([2])
    assert not gradient(losses.probability_margin, confident, label).any()
    kept = gradient(losses.scaled_probability_margin, confident, label)
    assert kept[0, 2] < -0.5
    assert kept[0, 4] > 0.5


def test_what_attacks_ascend_depends_on_no_place_in_the_batch():
    """Of all their losses; a CPU's float32 sigmoid isn't the same at a batch's end."""
    z = 4 * torch.randn(211, 5, generator=torch.Generator().manual_seed(0))
    for name, loss in LOSSES.items():
        y = z.roll(1, 0) if name == "kl" else torch.arange(len(z)) % 5
        whole = gradient(loss, z, y)
        for size in (1, 7, 16):
            parts = zip(z.split(size), y.split(size), strict=True)
            assert torch.equal(torch.cat([gradient(loss, *part) for part in parts]), whole), name
