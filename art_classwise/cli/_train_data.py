"""The examples that a training sees: which classes, which labels, what is held out, and what is unlabelled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from art_classwise.errors import InputError, check_whole

if TYPE_CHECKING:
    from art_classwise.datasets import Dataset, Unlabeled
    from art_classwise.trainers.policies import ClassPolicy

__all__ = ["REST", "class_policy_of", "held_out_of", "labelled", "unlabelled", "without"]


def class_policy_of(text: str | None, classes: Sequence[str], validation: int) -> ClassPolicy | None:
    """Return the class policy that an option names."""
    from art_classwise.trainers.policies import parse_policy

    if text is None:
        return None
    try:
        policy = parse_policy(text, classes)
    except InputError as error:
        if "`" not in str(error):
            raise
        # It names the parameters of the policy, some of which are called like options of ours.
        raise InputError(f"--class-policy {text}: {str(error).replace('`', '')}") from error
    if policy.needs_validation and not validation:
        raise InputError(
            f"--class-policy {text} needs the class accuracies on validation examples: give --validation, "
            "e.g. --validation 1000."
        )
    return policy


def without(data: Dataset, excluded: Sequence[int]) -> Dataset:
    """Return the examples of the classes that aren't excluded."""
    from art_classwise.trainers.exclusion import check_excluded

    check_excluded(excluded, len(data.classes))
    return data.of_classes([k for k in range(len(data.classes)) if k not in excluded])


def held_out_of(data: Dataset, n_examples: int, seed: int) -> tuple[Dataset, Dataset | None]:
    """Return the training examples, and those that are held out."""
    check_whole("--validation", n_examples, 0)
    if n_examples == 0:
        return data, None
    if n_examples >= len(data):
        raise InputError(f"--validation {n_examples} leaves no training examples: {data.name} has only {len(data)}.")
    return data.hold_out(n_examples, seed=seed)


REST = "rest"
"""What --unlabeled calls the training examples that --labels leaves."""


def labelled(data: Dataset, labels: int | None, seed: int) -> tuple[Dataset, Dataset | None]:
    """Return the examples whose labels are looked at, and the others."""
    if labels is None:
        return data, None
    check_whole("--labels", labels, 1)
    if labels >= len(data):
        raise InputError(f"--labels must be below the number of training examples, {len(data)}, but is {labels}.")
    rest, few = data.hold_out(labels, seed=seed)
    return few, rest


def unlabelled(
    data: Dataset,
    rest: Dataset | None,
    name: str | None,
    root: Path | None,
    size: int | None,
    pseudo_labels: str | None = None,
) -> Unlabeled:
    """Return the unlabelled images: those of the others, unless some are named."""
    from art_classwise.datasets import Unlabeled, load_unlabeled

    if name not in (None, REST):
        return load_unlabeled(
            name, root=root, image_size=size, grey=data.input_shape[0] == 1, pseudo_labels=pseudo_labels
        )
    assert rest is not None
    return Unlabeled(rest.x, None)
