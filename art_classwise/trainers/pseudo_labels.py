"""Labels for unlabelled images, by a naturally trained network."""

from __future__ import annotations

import copy
import math
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from art_classwise._core import art_interface, distributed
from art_classwise._core.files import check_output_folder, open_regular, written_aside
from art_classwise._core.fingerprints import examples_fingerprint
from art_classwise._core.labels import check_labels
from art_classwise.errors import InputError, check_positive, check_seed, check_whole, first_line
from art_classwise.trainers.engine.arrays import array_source
from art_classwise.trainers.engine.batches import Augmentation, ShuffledOrder
from art_classwise.trainers.engine.checkpoint import has_finished_epoch
from art_classwise.trainers.engine.history import Scalars
from art_classwise.trainers.engine.loop import Training
from art_classwise.trainers.engine.options import training_options
from art_classwise.trainers.engine.schedule import FitArguments, Schedule
from art_classwise.trainers.engine.step import Objective, Step, natural_terms
from art_classwise.trainers.exclusion import excluded_units, without_classes

__all__ = [
    "PseudoLabels",
    "given_pseudo_labels",
    "make_pseudo_labels",
    "read_pseudo_labels",
    "training_pseudo_labels",
]

_LEAST_STEPS = 1000
"""Of the natural training that makes pseudo-labels: a pass over few labelled examples is few steps."""


@dataclass(frozen=True)
class PseudoLabels:
    """Predicted labels of images that have none.

    Attributes:
        labels: int64 (m,).
        confidence: float32 (m,) the softmax of each prediction; NaN where the labels were given.
        n_classes: Number of classes.
    """

    labels: npt.NDArray[np.int64] = field(repr=False)
    confidence: npt.NDArray[np.float32] = field(repr=False)
    n_classes: int

    def by_class(self) -> pd.DataFrame:
        """Return a row per class: ``n``, how many were given its label, and their mean ``confidence``; NaN for none."""
        n = np.bincount(self.labels, minlength=self.n_classes)
        total = np.bincount(self.labels, weights=self.confidence, minlength=self.n_classes)
        index = pd.RangeIndex(self.n_classes, name="class")
        return pd.DataFrame({"n": n, "confidence": total / np.where(n > 0, n, np.nan)}, index=index)

    def summary(self) -> dict[str, Any]:
        """Return how many there are, their mean confidence, and the share with 0.9 or more; NaN if given."""
        return {
            "n": len(self.labels),
            "mean_confidence": float(self.confidence.mean()),
            "confident": float(np.where(np.isnan(self.confidence), np.nan, self.confidence >= 0.9).mean()),
        }

    def write(self, path: Path, key: str) -> None:
        """Write them to a file, with a key that tells what they are of.

        Raises:
            InputError: The file can't be written.
        """
        check_output_folder(path.parent)
        try:
            with written_aside(path) as aside, aside.open("wb") as file:
                np.savez(file, labels=self.labels, confidence=self.confidence, n_classes=self.n_classes, key=key)
        except OSError as error:
            raise InputError(f"The pseudo-labels can't be written to {path.absolute()}: {error}.") from error


def read_pseudo_labels(path: Path, key: str) -> PseudoLabels | None:
    """Return the pseudo-labels in a file, if there is one with this key."""
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as held:
            if str(held["key"]) != key:
                return None
            return PseudoLabels(held["labels"], held["confidence"], int(held["n_classes"]))
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        # None, or damaged, which NumPy says in many ways: they are made again.
        return None


def make_pseudo_labels(
    classifier: Any,
    x: Any,
    y: npt.NDArray[Any],
    x_unlabeled: Any,
    *,
    nb_epochs: int = 30,
    batch_size: int = 128,
    lr: float = 0.05,
    augment: Augmentation | None = None,
    excluded: tuple[int, ...] = (),
    num_workers: int = 0,
    seed: int = 0,
    verbose: bool = True,
) -> PseudoLabels:
    """Train a copy of a classifier's network naturally, and predict labels with it (Carmon et al. 2019, step 1).

    The copy starts from the network's weights of now and descends cross-entropy on clean images with SGD (momentum 0.9,
    weight decay 5e-4, the learning rate falling along a cosine). The classifier stays as it is.

    Args:
        classifier: An ART ``PyTorchClassifier``.
        x: Labelled images (n, C, H, W): an array, or anything that gives such by rows.
        y: (n,) their labels.
        x_unlabeled: Images (m, C, H, W) to label, likewise.
        nb_epochs: Epochs of the natural training.
        batch_size: Examples per step.
        lr: The highest learning rate.
        augment: Of the labelled images, while training.
        excluded: Classes that are never predicted, and of which ``y`` has none.
        num_workers: Processes that read images too many to be held.
        seed: Of the order of examples.
        verbose: Show a progress bar.

    Raises:
        InputError: The network can't be copied, a parameter is out of range, or the training diverged.
    """
    check_whole("nb_epochs", nb_epochs, 1)
    check_whole("batch_size", batch_size, 1)
    check_positive("lr", lr)
    check_seed(seed)
    art_interface.check_classifier("The classifier", classifier)
    for name, images in (("x", x), ("x_unlabeled", x_unlabeled)):
        if tuple(images.shape[1:]) != tuple(classifier.input_shape):
            raise InputError(
                f"The classifier takes images of shape {tuple(classifier.input_shape)}, but {name} holds images of "
                f"shape {tuple(images.shape[1:])}."
            )
    device, n_classes = classifier.device, classifier.nb_classes
    try:
        model = copy.deepcopy(classifier.model)
    except Exception as error:  # whatever can't be copied
        raise InputError(
            f"Pseudo-labels are made by a copy of the network, which can't be copied ({first_line(error)}): give "
            "`y_pseudo`."
        ) from error
    module = art_interface.logits_module(classifier, model)
    labels = check_labels(y, len(x), n_classes)
    if np.isin(labels, excluded).any():
        raise InputError(f"`y` has labels of the excluded classes {list(excluded)}: leave those examples out.")
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    sample = art_interface.noise(classifier)
    terms = without_classes(natural_terms(), excluded, n_classes, device)
    distributed.join(device)
    order = ShuffledOrder(len(labels), batch_size, seed)
    source = array_source(x, labels, order, augment or Augmentation(seed=seed), device, num_workers)
    with excluded_units(model, module, optimizer, excluded, n_classes, sample):
        objective = Objective(terms, None, uses_clean=True, adversary=None)
        step = Step(model, module, optimizer, objective, training_options({"seed": seed}), n_classes, sample)
        schedule = Schedule(CosineAnnealingLR(optimizer, nb_epochs))
        Training(step, schedule).run(
            source, None, nb_epochs, scalars=Scalars(None), verbose=verbose, name="pseudo-labels"
        )
    with distributed.alone():
        predictions = _predicted(module, x_unlabeled, device, n_classes, num_workers)
    return PseudoLabels(*distributed.from_main(lambda: predictions), n_classes)


def _predicted(
    module: torch.nn.Module, x: Any, device: torch.device, n_classes: int, num_workers: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    nothing = np.zeros(len(x), dtype=np.int64)
    order = ShuffledOrder(len(x), 512, None)
    source = array_source(x, nothing, order, Augmentation(), device, num_workers)
    parts = [art_interface.exact_logits(module, b.x, n_classes).softmax(1).max(1) for b in source.batches(0)]
    confidence, labels = (torch.cat(pair).cpu().numpy() for pair in zip(*parts, strict=True))
    return labels.astype(np.int64), confidence.astype(np.float32)


def given_pseudo_labels(y: Any, n_examples: int, n_classes: int) -> PseudoLabels:
    """Return labels that were given, indices (m,) or one-hot (m, C), as pseudo-labels.

    Raises:
        InputError: They don't fit the images.
    """
    labels = check_labels(y, n_examples, n_classes, x_name="x_unlabeled", y_name="y_pseudo", kind="Pseudo-label")
    return PseudoLabels(labels, np.full(len(labels), np.nan, dtype=np.float32), n_classes)


def training_pseudo_labels(
    classifier: Any,
    x: Any,
    y: npt.NDArray[np.int64],
    x_unlabeled: Any,
    arguments: FitArguments,
    batch_size: int,
    augment: Augmentation,
    *,
    excluded: tuple[int, ...],
    num_workers: int,
    verbose: bool,
) -> PseudoLabels:
    """Return the pseudo-labels of the training that is resumed, or new ones, kept beside its state.

    Arguments are those of :func:`make_pseudo_labels`, and what ``fit`` was asked for. The seed is the augmentation's.

    Raises:
        InputError: A training has begun with others; and as :func:`make_pseudo_labels`.
    """
    checkpoint_dir, resume, nb_epochs, seed = (
        arguments.checkpoint_dir,
        arguments.resume,
        arguments.nb_epochs,
        augment.seed,
    )
    file = None if checkpoint_dir is None else Path(checkpoint_dir) / "pseudo_labels.npz"
    key = f"{examples_fingerprint(x, y)} {examples_fingerprint(x_unlabeled, np.zeros(0, np.int64))} "
    key += f"{nb_epochs} {batch_size} {seed} {augment.crop_padding} {augment.flip} {list(excluded)}"
    if file is not None and checkpoint_dir is not None:
        begun = distributed.from_main(lambda: has_finished_epoch(checkpoint_dir, resume))
        # Before there is a state, nothing tells whether they are of this network: they are made again.
        started = file.parent / "training.pt"
        kept = distributed.from_main(lambda: read_pseudo_labels(file, key) if resume and started.exists() else None)
        if kept is not None:
            return kept
        if begun:
            raise InputError(
                f"{file.absolute()} is missing, damaged, or of other images, epochs or seed than those given: "
                "use the same ones, or choose another `checkpoint_dir`."
            )
    made = make_pseudo_labels(
        classifier,
        x,
        y,
        x_unlabeled,
        nb_epochs=max(nb_epochs, math.ceil(_LEAST_STEPS / math.ceil(len(y) / batch_size))),
        batch_size=batch_size,
        augment=augment,
        excluded=excluded,
        num_workers=num_workers,
        seed=seed,
        verbose=verbose,
    )
    if file is not None:
        distributed.from_main(lambda: made.write(file, key))
    confidence = made.summary()["mean_confidence"]
    if confidence < 0.5 and distributed.is_main():
        warnings.warn(
            f"The pseudo-labels have a mean confidence of {confidence:.0%} only, so many will be wrong: the "
            "network learnt too little from the labelled examples. Give more of them, or `y_pseudo`.",
            stacklevel=3,  # whoever called fit
        )
    return made
