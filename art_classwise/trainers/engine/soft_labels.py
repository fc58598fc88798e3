"""What a teacher says of a batch: the soft labels of distillation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from art_classwise._core import art_interface
from art_classwise._core.fingerprints import digest
from art_classwise._core.state import evaluating

__all__ = ["TeacherLabels"]

_NEVER = -10_000.0  # the logit of a class that is left out: its probability is 0, and finite numbers stay finite


class TeacherLabels:
    """A teacher's logits of one batch after another, divided by temperatures.

    The teacher is asked in eval mode, without gradients; its modes, flags and gradients stay as they are.

    Args:
        teacher: An ART classifier.
        n_classes: Number of classes, C.

    Attributes:
        temperatures: (C,) by class, of the labels under attack and of the clean ones, which a policy may set; None is
            1 for all.
        logits: (m, C) of the batch seen last, divided by the clean temperatures of its labels.
        logits_adv: (m, C) likewise, divided by those under attack.
    """

    temperatures: tuple[Tensor, Tensor] | None = None
    logits: Tensor
    logits_adv: Tensor

    def __init__(self, teacher: Any, n_classes: int) -> None:
        self._teacher, self._module, self._n_classes = teacher, art_interface.logits_module(teacher), n_classes
        self._device = getattr(teacher, "device", None)

    @torch.no_grad()
    def see(self, x: Tensor, y: Tensor, excluded: tuple[int, ...] = ()) -> None:
        """Ask the teacher about images (m, ...) with labels (m,); excluded classes get no probability."""
        with evaluating(self._module):
            given = self._module(x if self._device is None else x.to(self._device))
        logits = art_interface.check_logits(given, len(x), self._n_classes).float().to(x.device)
        if excluded:
            logits[:, list(excluded)] = _NEVER
        self.logits = self.logits_adv = logits
        if self.temperatures is not None:
            adversarial, clean = (t.to(logits)[y, None] for t in self.temperatures)
            self.logits, self.logits_adv = logits / clean, logits / adversarial

    def describe(self) -> dict[str, Any]:
        """Return what tells the teacher from others, as plain values."""
        model = getattr(self._teacher, "model", None)
        known: dict[str, Any] = {
            "teacher": type(model if isinstance(model, torch.nn.Module) else self._teacher).__name__
        }
        if isinstance(model, torch.nn.Module):
            state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
            content = b"".join(
                name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
                for name, value in sorted(state.items())
            )
            known["teacher_weights"] = digest(content)[:16]
        return known
