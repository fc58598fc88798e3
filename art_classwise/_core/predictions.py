"""What a classifier predicts: its network's logits, or something else that would mislead who asks the network."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn

from art_classwise.errors import InputError

__all__ = ["ONE_OUTPUT", "check_predicts_logits", "warn_of_probabilities"]

ONE_OUTPUT = (
    "A network with one output z for two classes is wrapped in a module that returns torch.cat([-z / 2, z / 2], 1), "
    "z of shape (n, 1) before any sigmoid: these are its two logits."
)


def check_predicts_logits(what: str, estimator: Any, *, postprocessed: bool = False) -> None:
    """Check that what a PyTorch estimator predicts are its network's logits.

    Args:
        what: What to call it in a message.
        estimator: An ART estimator; those that aren't of PyTorch are asked for their predictions themselves.
        postprocessed: Whether postprocessing defences are allowed.

    Raises:
        InputError: It predicts otherwise, by several noisy passes, say.
    """
    from art.estimators.classification import PyTorchClassifier  # seconds, which building a network needn't wait
    from art.estimators.pytorch import PyTorchEstimator

    if not isinstance(estimator, PyTorchEstimator):
        return
    own = getattr(estimator.predict, "__func__", None)
    if own is not PyTorchClassifier.predict:
        raise InputError(
            f"{what} is a {type(estimator).__name__}, which predicts otherwise than by its network's logits: "
            "what is measured here would be that network's robustness, not the defence's. Take the network itself as a "
            "PyTorchClassifier, or one of ART's attacks, which go by the defence's own predictions and gradients."
        )
    if estimator.postprocessing_defences and not postprocessed:
        raise InputError(
            f"{what} has postprocessing defences, which its network's logits don't show: make the classifier without "
            "them."
        )


def warn_of_probabilities(outputs: Tensor, model: nn.Module, consequence: str, *, stacklevel: int) -> None:
    """Warn of a network that seems to return probabilities in place of logits.

    Args:
        outputs: (n, C) what it returns for a few inputs.
        model: The network, whose last layer is named where that is what makes probabilities.
        consequence: What comes of it, in a sentence.
        stacklevel: As for :func:`warnings.warn`, of this function.
    """
    outputs = outputs.detach().float()
    named = [(name, m) for name, m in model.named_modules() if not list(m.children())]
    last, layer = named[-1] if named else ("", model)
    sums = (outputs.sum(1) - 1).abs() <= 1e-4
    sigmoids = isinstance(layer, nn.Sigmoid) and bool(((outputs >= 0) & (outputs <= 1)).all())
    if not (sigmoids or bool(((outputs >= 0).all(1) & sums).all())):
        return
    way = "return logits, or log-probabilities"
    if isinstance(layer, (nn.Softmax, nn.Softmax2d, nn.Sigmoid)):
        way = f"its last layer, {last!r}, is a {type(layer).__name__}: leave it out, and return the logits before it"
    warnings.warn(f"The model seems to return probabilities. {consequence}: {way}.", stacklevel=stacklevel + 1)
