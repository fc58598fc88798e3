"""Figures: each takes outcomes or tables and an optional ``ax``, and returns the axes."""

from art_classwise.report.figures._style import CLEAN, ROBUST, WORST
from art_classwise.report.figures.bars import class_accuracy, class_histogram, models_by_class
from art_classwise.report.figures.curves import accuracy_by_radius, training_curves
from art_classwise.report.figures.gallery import gallery
from art_classwise.report.figures.matrices import class_by_attack, confusion, group_confusion
from art_classwise.report.figures.paired import compared, homing
from art_classwise.report.figures.saving import save, to_png, to_svg
from art_classwise.report.figures.scatter import attack_strength, weight_norms

__all__ = [
    "CLEAN",
    "ROBUST",
    "WORST",
    "accuracy_by_radius",
    "attack_strength",
    "class_accuracy",
    "class_by_attack",
    "class_histogram",
    "compared",
    "confusion",
    "gallery",
    "group_confusion",
    "homing",
    "models_by_class",
    "save",
    "to_png",
    "to_svg",
    "training_curves",
    "weight_norms",
]
