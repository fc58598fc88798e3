"""The border around a network: memory and types of its own, and no gradient where it can't run with one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import art_classwise as acw
from art_classwise import InputError
from art_classwise._core.art_interface import Border
from art_classwise.errors import GradientMaskingWarning


class Own(nn.Module):
    """A linear network of images (3, 4, 4) behind something odd."""

    def __init__(self, odd=lambda x: x):
        super().__init__()
        torch.manual_seed(0)
        self.odd, self.head = odd, nn.Linear(48, 5)

    def forward(self, x):
        return self.head(self.odd(x).flatten(1))


def images(n=6):
    return torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def swapped(x):
    x[:, [0, 2]] = x[:, [2, 0]]
    return x


def scaled_as_array(x):
    x.detach().numpy()[:] *= 0.5  # of which autograd knows nothing
    return x


WRITING = {
    "swaps channels": swapped,
    "normalises": lambda x: x.sub_(0.5).div_(0.25),
    "relu": lambda x: torch.relu_(x - 0.5) + x.clamp_(0.2, 0.8),
    "a view": lambda x: x.view(len(x), -1).mul_(2).view_as(x),
    "an array": scaled_as_array,
    "data": lambda x: x.data.add_(1),
}


@pytest.mark.parametrize("name", WRITING)
def test_what_a_network_writes_into_its_input_is_read_by_nobody(name):
    network, x = Own(WRITING[name]), images()
    border, before = Border(network), x.clone()
    first = border(x)
    assert torch.equal(x, before)
    assert torch.equal(border(x), first)
    assert torch.equal(first, network(before.clone()))
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(border(leaf).detach(), first)


@pytest.mark.parametrize("n", [7, 16, 32])
@pytest.mark.parametrize("name", WRITING)
def test_audits_of_networks_that_write_are_right_for_any_number_of_examples(name, n):
    """Batches of a multiple of 16 examples aren't filled up, so the network was once given the examples themselves."""
    network, x = Own(WRITING[name]).eval(), images(n)
    with torch.no_grad():
        y = network(x.clone()).argmax(1).numpy()
    y[: n // 2] = (y[: n // 2] + 1) % 5
    data = acw.Dataset(x.numpy().copy(), y, list("abcde"))
    classifier = acw.as_classifier(network, (3, 4, 4), 5, device="cpu")
    audit = acw.ClassWiseAudit("Linf:0.001", "fgsm", checks=False, verbose=False)
    result = audit.evaluate({"net": classifier}, data)
    right = result.outcomes["clean_prediction"] == result.outcomes["label"]
    assert right.tolist() == [False] * (n // 2) + [True] * (n - n // 2)
    assert np.array_equal(data.x, x.numpy())
    assert np.array_equal(classifier.predict(data.x), classifier.predict(data.x))  # by way of ART


def test_outputs_that_are_written_over_are_kept():
    """As CUDA graphs do: each call returns the same memory."""

    class Reusing(Own):
        def forward(self, x):
            logits = super().forward(x).detach()
            self.memory = getattr(self, "memory", torch.empty_like(logits)).copy_(logits)
            return self.memory

    border = Border(Reusing())
    first, second = border(images()), border(1 - images())
    assert not torch.equal(first, second)
    assert torch.equal(first, Border(Own())(images()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("behind", [False, True])
def test_networks_of_another_type_get_their_own(dtype, behind):
    """Bare, or behind a border of the user's that takes float32."""
    inner = Own().to(dtype)
    network = nn.Sequential(Cast(dtype), inner, Cast(torch.float32)) if behind else inner
    x = images()
    border = Border(network)
    logits = border(x)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, inner(x.to(dtype)).float())
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(border(x)[:, 0].sum(), x)
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient[0].flatten(), inner.head.weight[0].float(), rtol=1e-2, atol=1e-2)
    classifier = acw.as_classifier(network, (3, 4, 4), 5, device="cpu")
    y = logits.argmax(1).numpy()
    for precision in ("fp32", "bf16"):
        x_adv = acw.PGD(classifier, eps=0.3, precision=precision, verbose=False).generate(images().numpy(), y)
        assert (border(torch.from_numpy(x_adv)).argmax(1).numpy() != y).mean() >= 0.5
    if dtype != torch.bfloat16 or behind:  # which NumPy hasn't, and so ART hasn't
        assert np.array_equal(classifier.predict(images().numpy().astype(np.float64)).argmax(1), y)


class Cast(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        return x.to(self.dtype)


def test_a_network_that_needs_arrays_is_asked_without_a_gradient():
    network = Own(lambda x: torch.from_numpy(np.sqrt(x.numpy())))
    border, x = Border(network), images()
    expected = border(x)
    with pytest.warns(GradientMaskingWarning, match="can't be run on images that require a gradient.*numpy"):
        logits = border(x.clone().requires_grad_())
    assert not logits.requires_grad
    assert torch.equal(logits, expected)


def test_weights_made_under_inference_mode_are_refused():
    """They would look robust: no gradient goes through them, although one could."""
    with torch.inference_mode():
        network = Own()
    classifier = acw.as_classifier(network, (3, 4, 4), 5, device="cpu")
    for attack in (acw.PGD(classifier, verbose=False), acw.attacks.AutoAttack(classifier, verbose=False)):
        with pytest.raises(InputError, match=r"made under torch\.inference_mode.*outside of it"):
            attack.generate(images().numpy())


def test_a_network_that_takes_no_such_images_says_so():
    with pytest.raises(InputError, match=r"can't classify 6 images of shape \(3, 4, 4\), float32 on cpu: .*shapes"):
        Border(nn.Sequential(nn.Flatten(), nn.Linear(5, 5)))(images())


def test_no_memory_is_no_fault_of_the_network():
    """It is for the caller to try fewer images."""

    def exhausted(x):
        raise torch.OutOfMemoryError("out of memory")

    for x in (images(), images().requires_grad_()):
        with pytest.raises(torch.OutOfMemoryError):
            Border(Own(exhausted))(x)
