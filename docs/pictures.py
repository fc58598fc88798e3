"""Draw the pictures of the documentation.

    python docs/pictures.py --cifar10 cifar10_test.npz --checkpoints FOLDER

``cifar10_test.npz`` holds the 10,000 test images of CIFAR-10 (x, y), ``FOLDER`` the networks of
``evaluations/lib/published.py``. The audit that they show takes three minutes on one core, and is kept in ``--runs``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evaluations"))
from lib.published import load_published

import art_classwise as acw

ROOT = Path(__file__).resolve().parents[1]
THREAT = "Linf:2/255"
ATTACKS = ["fgsm", "pgd-20", "margin-20", "tpgd5-20"]
MODELS = {"ResNet-4B": "cifar10-resnet4b", "CNN-A": "cifar10-cnn-a"}


def audit(cifar10: Path, checkpoints: Path, runs: Path) -> acw.AuditResult:
    """Audit both networks on all test images."""
    data = acw.load_dataset(str(cifar10), "test", classes="cifar10")
    models = {name: load_published(key, checkpoints) for name, key in MODELS.items()}
    return acw.ClassWiseAudit(THREAT, ATTACKS, store=runs).evaluate(models, data)


def draw(result: acw.AuditResult, folder: Path) -> None:
    """Draw the pictures."""
    first, second = result.models
    pictures = {
        "finding": acw.figures.class_accuracy(result.class_table(first), title=f"{first} on CIFAR-10, {THREAT}"),
        "attacks": acw.figures.class_by_attack(result.by_attack(first), title=f"{first}: accuracy in %"),
        "confusion": acw.figures.confusion(result.confusion(first, "all attacks"), title=f"{first} under all attacks"),
        "compared": acw.figures.compared(result.compare(first, second), title=f"{first} and {second}"),
    }
    for name, picture in pictures.items():
        acw.figures.save(picture, folder / f"{name}.svg")


def main() -> None:
    """Draw them all, and print the numbers that stand beside them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help="The test images: an .npz file with x and y.")
    parser.add_argument("--checkpoints", type=Path, required=True, help="Folder of the published networks.")
    parser.add_argument("--runs", type=Path, default=Path("runs/docs"), help="Folder of the audit.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="Folder of the pictures.")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    result = audit(given.cifar10, given.checkpoints, given.runs)
    print(result.summary().T.to_string())
    print(result.compare(*result.models))
    for model in result.models:
        print(model, result.class_table(model).round(4).to_string(), sep="\n")
        print(result.by_attack(model).round(4).to_string())
        print(result.worst_class(model).to_string())
        print(result.confusion_pairs(model).head(6).round(4).to_string())
    for finding in result.findings:
        print(finding)
    draw(result, given.out)


if __name__ == "__main__":
    main()
