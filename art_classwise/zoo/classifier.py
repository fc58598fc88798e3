"""Any torch module as an ART classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from art_classwise._core import distributed
from art_classwise._core.art_interface import Border, check_logits
from art_classwise._core.state import evaluating
from art_classwise.errors import InputError, check_whole, first_line, shown

__all__ = ["as_classifier", "checked_shape", "normalized", "trial"]


class Normalized(nn.Module):
    """A network that takes images in [0, 1] and normalises them: (x - mean) / std, channel by channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Any:
        return self.module((x - self.mean) / self.std)


def normalized(
    module: nn.Module,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
    input_shape: Sequence[int],
) -> nn.Module:
    """Return a network that normalises images in [0, 1] before they reach a module.

    Args:
        module: Takes normalised images (n, C, H, W).
        mean: Subtracted: a number, or C of them; 0 if absent.
        std: Divided by, likewise; 1 if absent.
        input_shape: (C, H, W).

    Raises:
        InputError: They aren't finite numbers, one or C, or ``std`` isn't above 0.
    """
    values = {}
    for name, given in (("mean", 0.0 if mean is None else mean), ("std", 1.0 if std is None else std)):
        try:
            value = torch.as_tensor(given, dtype=torch.float32).flatten()
        except (TypeError, ValueError, RuntimeError):
            value = torch.empty(0)
        if len(value) not in (1, input_shape[0]) or not bool(value.isfinite().all()):
            raise InputError(f"`{name}` must be a number, or one for each of {input_shape[0]} channels, not {given!r}.")
        values[name] = value.expand(input_shape[0]).clone().view(-1, *[1] * (len(input_shape) - 1))
    if not bool((values["std"] > 0).all()):
        raise InputError(f"`std` must be above 0, but got {std!r}.")
    if bool((values["mean"].abs() > 1.5).any()) or bool((values["std"] > 1.5).any()):
        raise InputError(
            f"`mean` and `std` are for images in [0, 1], but are {mean!r} and {std!r}: divide those for images in "
            "[0, 255] by 255."
        )
    weight = next(module.parameters(), torch.empty(0))
    return Normalized(module, values["mean"].to(weight.device), values["std"].to(weight.device))


def as_classifier(
    module: nn.Module,
    input_shape: Sequence[int],
    n_classes: int,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    device: str | torch.device | None = None,
) -> Any:
    """Wrap a module for ART.

    Args:
        module: Maps images in [0, 1], float32 (n, C, H, W), to logits (n, n_classes); normalisation is its own.
        input_shape: Shape of an image, (C, H, W).
        n_classes: Number of classes.
        optimizer: Needed for training only.
        device: ``"cpu"`` or ``"cuda"`` (torch's current one); the GPU where there is one, if absent. The module
            moves there. Under ``torchrun`` each process takes a GPU of its own.

    Returns:
        An ``art.estimators.classification.PyTorchClassifier`` with clip values (0, 1) and cross-entropy. It gives the
        network images in the type of its weights, float64, say, where it takes no float32.

    Raises:
        InputError: The module does not take such images or does not return such logits, or the device is
            unknown or not there.
    """
    from art_classwise.zoo.art_classifier import Classifier  # imports ART, which takes seconds

    if device is None or str(device) == "cuda":
        distributed.use_own_gpu()
    on_cpu = _is_cpu(device)
    if not isinstance(module, nn.Module):
        raise InputError(f"The module must be a torch.nn.Module, but is a {type(module).__name__}.")
    check_whole("n_classes", n_classes, 2)
    shape = checked_shape(input_shape)
    border, logits = trial(module, shape)
    check_logits(logits, 2, n_classes)
    classifier = Classifier(
        model=module,
        loss=nn.CrossEntropyLoss(),
        optimizer=optimizer,
        input_shape=shape,
        nb_classes=n_classes,
        clip_values=(0.0, 1.0),
        device_type="cpu" if on_cpu else "gpu",
    )
    classifier.own_type = border.own_type
    return classifier


def checked_shape(input_shape: Any) -> tuple[int, ...]:
    """Return the shape of an image, ``(C, H, W)`` or another, as whole numbers from 1.

    Raises:
        InputError: It isn't one: a text, a fraction or a negative number, say.
    """
    try:
        return tuple(check_whole("input_shape", side, 1) for side in input_shape)
    except (TypeError, ValueError):  # ours is a ValueError, too
        raise InputError(
            f"`input_shape` must be the shape of an image, (C, H, W), whole numbers from 1, but got "
            f"{shown(input_shape)}."
        ) from None


def trial(module: nn.Module, shape: tuple[int, ...]) -> tuple[Border, Any]:
    """Return a module's border, and what it returns for two black images of a shape.

    Raises:
        InputError: The module can't take them.
    """
    tensor = next((t for t in [*module.parameters(), *module.buffers()]), torch.empty(0))
    border = Border(module)
    with evaluating(module), torch.no_grad():
        try:
            return border, border(torch.zeros(2, *shape, device=tensor.device))
        except InputError as error:
            reason = first_line(error.__cause__ or error)
            raise InputError(f"The module can't take images of shape {shape}: {reason}") from error


def _is_cpu(device: str | torch.device | None) -> bool:
    """Whether the CPU is asked for; of several GPUs, ART takes torch's current one."""
    if device is None:
        return False
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        wanted = None
    if wanted is None or wanted.type not in ("cpu", "cuda"):
        raise InputError(f'`device` must be "cpu" or "cuda", but got {device!r}.')
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"`device={str(wanted)!r}` was asked for, but torch sees no CUDA GPU: use `device='cpu'`.")
    if wanted.type == "cuda" and wanted.index not in (None, torch.cuda.current_device()):
        raise InputError(f"ART uses torch's current GPU: call torch.cuda.set_device({wanted.index}) first.")
    return wanted.type == "cpu"
