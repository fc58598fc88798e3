"""Models as ART classifiers: RobustBench's, our own checkpoints, any module."""

from art_classwise.zoo.architectures import ARCHITECTURES, build
from art_classwise.zoo.checkpoints import Checkpoint, load_checkpoint, read_checkpoint, save_checkpoint
from art_classwise.zoo.classifier import as_classifier
from art_classwise.zoo.pretrained import load_robustbench
from art_classwise.zoo.robustbench import (
    Published,
    published,
    robustbench_board,
    robustbench_files,
    robustbench_names,
    robustbench_table,
)

__all__ = [
    "ARCHITECTURES",
    "Checkpoint",
    "Published",
    "as_classifier",
    "build",
    "load_checkpoint",
    "load_robustbench",
    "published",
    "read_checkpoint",
    "robustbench_board",
    "robustbench_files",
    "robustbench_names",
    "robustbench_table",
    "save_checkpoint",
]
