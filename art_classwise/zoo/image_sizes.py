"""Which sizes of images a network takes, found without computing: on torch's meta device."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from art_classwise._core.state import evaluating, preserved_random_state
from art_classwise.errors import InputError, first_line
from art_classwise.zoo.building import is_too_large

__all__ = ["USUAL_SIZES", "check_takes", "refusing_size"]

USUAL_SIZES = (28, 32, 64, 96, 128, 160, 192, 224, 256, 299, 384)
"""Sides of images in pixels, of which a message names those that a network takes."""


def check_takes(network: nn.Module, name: str, shape: Sequence[int]) -> None:
    """Check that a network takes images of a size.

    Args:
        network: On the CPU. It isn't changed.
        name: What to call it.
        shape: (C, H, W) of the images.

    Raises:
        InputError: It doesn't; those of the usual sizes that it takes are named.
    """
    problem = _problem(network, shape, torch.device("meta"))
    if problem is None:
        return
    problem = _problem(network, shape, torch.device("cpu"))  # not all that a network may do can be done on meta tensors
    if problem is None:
        return
    takes = [side for side in USUAL_SIZES if _problem(network, (shape[0], side, side), torch.device("meta")) is None]
    raise _refusal(name, shape, problem, takes) from problem


@contextmanager
def refusing_size(name: str, shape: Sequence[int]) -> Iterator[None]:
    """Say of a network that can't be built for images of a size what size that was.

    Args:
        name: What to call it.
        shape: (C, H, W) of the images.

    Raises:
        InputError: The network's own code failed.
    """
    try:
        yield
    except Exception as error:  # of others' code: a check of its own, or shapes that don't fit
        if isinstance(error, (InputError, ImportError, NotImplementedError)) or is_too_large(error):
            raise
        raise _refusal(name, shape, error, []) from error


def _refusal(name: str, shape: Sequence[int], problem: Exception, takes: Sequence[int]) -> InputError:
    sizes = f"Of the usual sizes it takes {', '.join(map(str, takes))}: resize" if takes else "Resize"
    return InputError(
        f"{name} can't take images of {shape[1]} x {shape[2]} pixels ({first_line(problem).rstrip('.')}). {sizes} them "
        "(`image_size`), or take a network for any size, resnet8 or resnet18, say."
    )


def _problem(network: nn.Module, shape: Sequence[int], device: torch.device) -> Exception | None:
    """Return what a network raises for two images, if it does."""
    with torch.no_grad(), evaluating(network), preserved_random_state():
        try:
            if device.type == "cpu":
                network(torch.zeros(2, *shape))
                return None
            empty = _on_meta(network)  # a copy: networks may keep what they make on the way
            with device:
                empty(torch.zeros(2, *shape))
        except Exception as error:  # of the network's own code: of any kind
            return error
    return None


def _on_meta(network: nn.Module) -> nn.Module:
    """Return a copy of a network whose weights and buffers have shapes, but no values."""
    empty: dict[int, Any] = {}
    for tensor in (*network.parameters(), *network.buffers()):
        shaped: Tensor = torch.empty_like(tensor, device="meta")
        empty[id(tensor)] = nn.Parameter(shaped, False) if isinstance(tensor, nn.Parameter) else shaped
    return copy.deepcopy(network, empty)
