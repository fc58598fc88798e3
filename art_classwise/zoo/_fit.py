"""Weights into a module: loaded if they fit, else told where they don't."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from art_classwise.errors import InputError, first_line

__all__ = ["fit", "misfit"]

_SHOWN = 3
_KINDS = ("whole numbers", "floating-point numbers", "complex numbers", "quantised numbers")


def fit(module: nn.Module, weights: Mapping[str, Any], what: str, holder: str = "The model") -> None:
    """Load weights into a module that they are the weights of.

    Args:
        module: Layers whose shapes aren't known yet (``nn.LazyLinear``, say) take those of the weights.
        weights: A state dict.
        what: What the module is, for messages.
        holder: What the weights are of.

    Raises:
        InputError: The names, shapes or kinds of numbers differ; some are named.
    """
    own = module.state_dict()
    missing, unknown = [k for k in own if k not in weights], [k for k in weights if k not in own]
    both = [k for k in own if k in weights and isinstance(own[k], Tensor)]
    others = [k for k in both if not isinstance(weights[k], Tensor)]
    both = [k for k in both if isinstance(weights[k], Tensor)]
    reshaped = [k for k in both if not is_lazy(own[k]) and own[k].shape != weights[k].shape]
    differ = [
        *_several("it lacks", missing),
        *_several("it has", unknown, "besides"),
        *_several("", [f"{k} has shape {tuple(weights[k].shape)}, not {tuple(own[k].shape)}" for k in reshaped]),
        *_several("", [f"{k} is a {type(weights[k]).__name__}, not a tensor" for k in others]),
    ]
    if differ:
        hint = _hint(own, weights) if missing or unknown else ""
        raise InputError(f"{holder} is of another architecture than {what}: {'; '.join(differ)}.{hint}")
    for key in both:
        given, wanted = _kind(weights[key]), _kind(own[key])
        if given != wanted:
            raise InputError(
                f"{holder} holds {given} ({weights[key].dtype}) for {key}, but {what} has {wanted} ({own[key].dtype}) "
                "there: convert them first, by what they were made with."
            )
    dense = {k: v.to_dense() if isinstance(v, Tensor) and v.layout != own[k].layout else v for k, v in weights.items()}
    try:
        module.load_state_dict(dense)
    except Exception as error:  # of the module's own hooks: of any kind
        raise InputError(f"The weights can't be loaded into {what}: {first_line(error)}") from error


def misfit(error: BaseException) -> str:
    """Return what an error of ``load_state_dict`` says, a few names of each kind; of another error, its first line."""
    text = str(error)
    if not text.startswith("Error(s) in loading state_dict"):
        return first_line(error)
    names: dict[str, list[str]] = {
        kind: re.findall(r'"([^"]+)"', line)
        for kind in ("Missing key", "Unexpected key")
        for line in text.splitlines()
        if line.strip().startswith(kind)
    }
    return "; ".join(
        [
            *_several("it lacks", names.get("Missing key", [])),
            *_several("it has", names.get("Unexpected key", []), "besides"),
            *_several("of another shape are", re.findall(r"size mismatch for ([^:\s]+):", text)),
        ]
    ) or first_line(error)


def _kind(tensor: Tensor) -> str:
    kind = 3 if tensor.is_quantized else 2 if tensor.is_complex() else int(tensor.is_floating_point())
    return _KINDS[kind]


def _several(before: str, items: list[str], after: str = "") -> list[str]:
    """Write a few of many: nothing if there is none."""
    if not items:
        return []
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return [" ".join(filter(None, (before, ", ".join(items[:_SHOWN]) + more, after)))]


def _hint(own: Iterable[str], weights: Iterable[str]) -> str:
    """Say which prefix makes the names differ, if one does."""
    own, weights = {*own}, {*weights}
    if {name.replace("_orig_mod.", "") for name in weights} == own:
        return " The names hold _orig_mod., which torch.compile adds: save the module that was compiled."
    if {name.replace("_orig_mod.", "") for name in own} == weights:
        return " The module was compiled, the weights weren't: load them before torch.compile()."
    for longer, shorter, advice in (
        (weights, own, "save what lies within it: model.{0} instead of model"),
        (own, weights, "load into what lies within it: module.{0} instead of module"),
    ):
        for prefix in sorted({name.partition(".")[0] for name in longer}):
            within = {name.removeprefix(f"{prefix}.") for name in longer if name.startswith(f"{prefix}.")}
            if len(within & shorter) > len(longer & shorter):
                whose = "The weights' names" if longer is weights else "The module's names"
                wrapper = ", which DataParallel adds" if prefix == "module" else ""
                return f" {whose} begin with {prefix}.{wrapper}: {advice.format(prefix)}."
    return ""
