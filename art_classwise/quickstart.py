"""The whole job in one function: train two networks on handwritten digits, attack them, see them class by class."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import torch

from art_classwise._core.files import check_output_folder
from art_classwise._core.fingerprints import file_digest
from art_classwise._core.state import one_thread
from art_classwise.audit import AuditResult, ClassWiseAudit, read_audit
from art_classwise.audit.store import Store
from art_classwise.datasets import load_dataset
from art_classwise.errors import InputError, check_seed, check_whole
from art_classwise.report.page import write_report
from art_classwise.threat import ThreatModel
from art_classwise.trainers import AdversarialTrainerMARTPyTorch, AdversarialTrainerStandardPyTorch
from art_classwise.zoo import as_classifier, build, save_checkpoint

__all__ = ["quickstart"]

THREAT = ThreatModel("Linf", 0.1)
ATTACKS = ("fgsm", "pgd-20", "tpgd5-20")


@one_thread()  # networks as small gain little from more, and the numbers are the same on any number of cores
def quickstart(
    out: str | os.PathLike[str] = "runs/quickstart",
    *,
    nb_epochs: int = 30,
    seed: int = 0,
    verbose: bool = True,
) -> AuditResult:
    """Train by standard adversarial training and by MART on scikit-learn's digits, and audit both.

    Args:
        out: Folder for the outcomes, the report (see :func:`art_classwise.report.write_report`) and the two
            checkpoints.
        nb_epochs: Epochs of each training.
        seed: Of everything random.
        verbose: Show progress bars.

    Returns:
        The audit of both models on the 797 test digits at Linf 0.1.

    Raises:
        InputError: The folder can't be written or holds another audit, or an argument is out of range.
    """
    check_whole("nb_epochs", nb_epochs, 1)
    check_seed(seed)
    folder = check_output_folder(out)
    _check_own(folder)
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    trainers: dict[str, Any] = {
        "standard AT": AdversarialTrainerStandardPyTorch,
        "MART": AdversarialTrainerMARTPyTorch,
    }
    models = {}
    for name, trainer in trainers.items():
        network = build("digits-cnn", train.input_shape, len(train.classes), seed=seed)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        classifier = as_classifier(network, train.input_shape, len(train.classes), optimizer=optimizer, device="cpu")
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, nb_epochs)
        trainer(classifier, eps=THREAT.eps, seed=seed, verbose=verbose).fit(
            train.x, train.y, batch_size=64, nb_epochs=nb_epochs, scheduler=schedule
        )
        recipe = {"method": name, "nb_epochs": nb_epochs, "seed": seed, "data": train.name}
        file = folder / f"{name.replace(' ', '-').lower()}.pt"
        save_checkpoint(
            file,
            classifier,
            architecture="digits-cnn",
            classes=train.classes,
            threat=THREAT,
            recipe=recipe,
        )
        classifier.origin = {
            "file": file.name,
            "architecture": "digits-cnn",
            "sha256": file_digest(file),
        }  # for the report
        models[name] = classifier
    command = shlex.join(["art-classwise", "quickstart", "--out", str(folder), "--seed", str(seed)])
    audit = ClassWiseAudit(THREAT, ATTACKS, seed=seed, verbose=verbose, command=command)
    result = audit.evaluate(models, test).with_images(models, test)
    result.save(folder, overwrite=True)
    result = read_audit(folder)  # which knows the folder's root digest
    write_report(result, folder)
    return result


def _check_own(folder: Path) -> None:
    """Check, before any work, that no other audit's outcomes would be replaced: an earlier quickstart's may be."""
    store = Store(folder)
    if store.is_begun and not any(command.split()[1:2] == ["quickstart"] for command in store.manifest().commands):
        raise InputError(f"{folder.absolute()} holds another audit: choose another `folder`.")
