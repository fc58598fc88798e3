"""Which sizes of images a network takes, found without computing: on torch's meta device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from art_classwise._core.state import evaluating, preserved_random_state
from art_classwise.errors import InputError, first_line

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
        InputError: A check of the network's own failed.
    """
    try:
        yield
    except (AssertionError, ValueError) as error:
        if isinstance(error, InputError):
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
            state: dict[str, Any] = {**dict(network.named_parameters()), **dict(network.named_buffers())}
            with device:  # also what it makes on the way
                empty = {key: torch.empty_like(value, device=device) for key, value in state.items()}
                functional_call(network, empty, (torch.zeros(2, *shape),))
        except Exception as error:  # of the network's own code: of any kind
            return error
    return None
