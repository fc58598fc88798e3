"""Metrics: pure functions of labels and predictions, arrays in, DataFrames out."""

from art_classwise.metrics.accuracy import (
    class_accuracy,
    class_groups,
    group_accuracy,
    group_labels,
    mean_accuracy,
    risks,
)
from art_classwise.metrics.agreement import rank_agreement
from art_classwise.metrics.best import best_worst_class, compare_with_best
from art_classwise.metrics.comparison import (
    attack_strength,
    holm,
    mcnemar,
    mean_difference,
    paired_comparison,
)
from art_classwise.metrics.confusion import asymmetry, confusion, confusion_pairs, symmetry, within_groups
from art_classwise.metrics.correlation import correlations, head_weight_norms
from art_classwise.metrics.disparity import disparity, disparity_intervals, disparity_test, rho
from art_classwise.metrics.homing import homing
from art_classwise.metrics.intervals import paired_difference, wilson
from art_classwise.metrics.per_class import great_score, per_class
from art_classwise.metrics.worst import worst_class, worst_class_difference

__all__ = [
    "asymmetry",
    "attack_strength",
    "best_worst_class",
    "class_accuracy",
    "class_groups",
    "compare_with_best",
    "confusion",
    "confusion_pairs",
    "correlations",
    "disparity",
    "disparity_intervals",
    "disparity_test",
    "great_score",
    "group_accuracy",
    "group_labels",
    "head_weight_norms",
    "holm",
    "homing",
    "mcnemar",
    "mean_accuracy",
    "mean_difference",
    "paired_comparison",
    "paired_difference",
    "per_class",
    "rank_agreement",
    "rho",
    "risks",
    "symmetry",
    "wilson",
    "within_groups",
    "worst_class",
    "worst_class_difference",
]
