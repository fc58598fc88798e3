"""The last linear layer of a network: its rows are the classes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from art_classwise._core.state import evaluating
from art_classwise.errors import InputError, check_number, first_line

__all__ = ["check_last", "find_head", "normalize_head", "switch_off"]

OFF = -1e4
"""The logit of a class whose output unit is switched off. Finite, so that no loss or margin becomes NaN; exp of it is 0
beside any logit a network gives."""


def find_head(module: nn.Module, n_classes: int | None = None) -> nn.Linear:
    """Return the last linear layer of a network, in the order in which its layers were added.

    Args:
        module: The network.
        n_classes: Number of its outputs; any, if absent.

    Raises:
        InputError: There is no such layer.
    """
    linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
    fitting = [m for m in linear if n_classes is None or m.out_features == n_classes]
    if not fitting:
        outputs = "" if n_classes is None else f" with {n_classes} outputs"
        raise InputError(
            f"The network {type(module).__name__} has no linear layer (torch.nn.Linear){outputs} whose rows would be "
            "the classes."
        )
    return fitting[-1]


def normalize_head(module: nn.Module, tau: float = 1.0, n_classes: int | None = None) -> nn.Module:
    """Return a copy of a network whose class weight vectors are divided by a power of their norms: w_c / ||w_c||^tau.

    A repair at inference, inspired by Tian et al. 2021 (arXiv 2105.14240), who find that classes with larger weight
    norms are more robust; the formula is tau-normalisation (Kang et al. 2020, arXiv 1910.09217, section 4.3), who leave
    the bias out, which stays here. Rows of zeros, of excluded classes, stay zero.

    Args:
        module: The network; an ART classifier's is ``classifier.model``.
        tau: From 0, which changes nothing, to 1, after which all norms are 1.
        n_classes: Number of the network's outputs, to find the layer by: it is the last linear one that was added (with
            so many outputs, if given).

    Returns:
        The copy. It can stand wherever the network did, such as in :func:`art_classwise.as_classifier`.

    Raises:
        InputError: ``tau`` is out of range, or the network is no module, has no linear layer or can't be copied.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2, bias=False))
        >>> _ = network[0].weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        >>> normalize_head(network, tau=0.5)[0].weight.norm(dim=1)
        tensor([2.2361, 1.0000], grad_fn=<LinalgVectorNormBackward0>)
    """
    check_number("tau", tau, 0, 1)
    if not isinstance(module, nn.Module):
        raise InputError(
            f"`module` must be a torch module, but is a {type(module).__name__}: of an ART classifier give its `model`."
        )
    find_head(module, n_classes)
    try:
        copied = copy.deepcopy(module)
    except Exception as error:  # whatever can't be copied
        raise InputError(f"The network {type(module).__name__} can't be copied: {first_line(error)}") from error
    head = find_head(copied, n_classes)
    if "weight" not in dict(head.named_parameters(recurse=False)):
        raise InputError(
            f"The weights of the last linear layer of {type(module).__name__} are computed at each pass, by weight "
            "or spectral normalisation, say, and can't be divided: remove the parametrisation first, with "
            "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')."
        )
    weight = head.weight
    with torch.no_grad():
        norms = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
        weight.div_(torch.where(norms > 0, norms, 1.0) ** tau)
    return copied


@torch.no_grad()
def switch_off(head: nn.Linear, classes: Sequence[int]) -> None:
    """Take the output units of classes out of a head: weights 0, bias :data:`OFF`. Doesn't wait for the device."""
    for k in classes:
        head.weight[k] = 0.0
        head.bias[k] = OFF


def check_last(module: nn.Module, head: nn.Linear, sample: Tensor) -> None:
    """Check on two images that a head's outputs are what the network returns, apart from what all classes share.

    A log-softmax may follow, say; not a batch norm, although a fresh one changes them by 5e-6 of their size only.

    Raises:
        InputError: They aren't: another layer comes after it.
    """
    outputs: list[Tensor] = []
    hook = head.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        with torch.no_grad(), evaluating(module):
            logits: Any = module(sample)
    finally:
        hook.remove()
    differences = [values - values[:, :1] for values in (*outputs[-1:], logits)]
    tolerance = 2e-6 * float(differences[0].abs().max())
    if not outputs or (differences[0] - differences[-1]).abs().max() > tolerance:
        network = getattr(module, "model", module)  # what the border is around
        raise InputError(
            f"The network {type(network).__name__} changes the outputs of its last linear layer, so that classes can't "
            "be excluded there: exclude them in a network whose logits are that layer's outputs."
        )
