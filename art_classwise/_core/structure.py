"""What a network is made of, to tell whether what is known of it still holds."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["structure"]


def structure(model: nn.Module) -> tuple[Any, ...]:
    """Return what tells whether a network still has the layers, hooks and settings that it had."""
    return tuple(
        (
            *(name, id(layer), type(layer), tuple(layer._forward_hooks), tuple(layer._forward_pre_hooks)),
            tuple((k, v) for k, v in vars(layer).items() if isinstance(v, (bool, int, float, str)) and k != "training"),
            tuple(
                (k, v.shape, v.dtype) for k, v in (*layer._parameters.items(), *layer._buffers.items()) if v is not None
            ),
        )
        for name, layer in model.named_modules()
        if not isinstance(layer, torch.jit.ScriptModule)
    )
