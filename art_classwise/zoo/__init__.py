"""Models as ART classifiers: RobustBench's, our own checkpoints, any module."""

from art_classwise.zoo.architectures import ARCHITECTURES, build
from art_classwise.zoo.checkpoints import Checkpoint, load_checkpoint, read_checkpoint, save_checkpoint
from art_classwise.zoo.classifier import as_classifier
from art_classwise.zoo.robustbench import load_robustbench, robustbench_names

__all__ = [
    "ARCHITECTURES",
    "Checkpoint",
    "as_classifier",
    "build",
    "load_checkpoint",
    "load_robustbench",
    "read_checkpoint",
    "robustbench_names",
    "save_checkpoint",
]
