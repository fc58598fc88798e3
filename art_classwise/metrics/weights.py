"""What the weights of the last layer say of the classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["head_weight_norms"]


def head_weight_norms(model: Any, n_classes: int | None = None) -> npt.NDArray[np.float64]:
    """Return the L2 norm of each class's row in the last linear layer of a network.

    Tian et al. 2021 (arXiv 2105.14240) find that classes with larger norms are more robust: that is
    ``correlations(head_weight_norms(model), accuracies)``.

    Args:
        model: An ART ``PyTorchClassifier``, or a torch module.
        n_classes: Number of the network's outputs, to find the layer by: it is the last linear one that was added (with
            so many outputs, if given). A classifier knows its own.

    Returns:
        (C,). 0 for a class that was excluded in training.

    Raises:
        InputError: It is neither, or the network has no such layer.

    Example:
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Linear(2, 2))
        >>> _ = network[0].weight.data.copy_(network[0].weight.new_tensor([[3.0, 4.0], [0.0, 1.0]]))
        >>> head_weight_norms(network)
        array([5., 1.])
    """
    from torch import nn  # seconds, which the other metrics needn't wait

    from art_classwise._core.art_interface import check_classifier
    from art_classwise._core.state import evaluating
    from art_classwise.head import find_head

    if isinstance(model, nn.Module):
        module = model
    else:
        check_classifier("`model`", model)
        module, n_classes = model.model, model.nb_classes
    with evaluating(module):  # in training mode, a spectral norm goes on with each look at it
        weight = find_head(module, n_classes).weight.detach().double().cpu().numpy()
    norms: npt.NDArray[np.float64] = np.linalg.norm(weight, axis=1)
    return norms
