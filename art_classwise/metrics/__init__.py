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
    rho_interval,
)
from art_classwise.metrics.confusion import (
    asymmetry,
    confusion,
    confusion_pairs,
    confusion_symmetry,
    symmetry,
    within_groups,
)
from art_classwise.metrics.correlation import correlations, head_weight_norms
from art_classwise.metrics.disparity import disparity, disparity_intervals, disparity_test, rho
from art_classwise.metrics.distances import class_distances, robust_at
from art_classwise.metrics.homing import homing
from art_classwise.metrics.intervals import clopper_pearson, paired_difference, wilson
from art_classwise.metrics.per_class import great_score, per_class
from art_classwise.metrics.planning import detectable_difference, power, sample_size, what_can_be_told
from art_classwise.metrics.seeds import accuracy_over_seeds, difference_over_seeds
from art_classwise.metrics.shares import class_shares, mean_share, share_test, worst_share
from art_classwise.metrics.worst import worst_class, worst_class_difference

__all__ = [
    "accuracy_over_seeds",
    "asymmetry",
    "attack_strength",
    "best_worst_class",
    "class_accuracy",
    "class_distances",
    "class_groups",
    "class_shares",
    "clopper_pearson",
    "compare_with_best",
    "confusion",
    "confusion_pairs",
    "confusion_symmetry",
    "correlations",
    "detectable_difference",
    "difference_over_seeds",
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
    "mean_share",
    "paired_comparison",
    "paired_difference",
    "per_class",
    "power",
    "rank_agreement",
    "rho",
    "rho_interval",
    "risks",
    "robust_at",
    "sample_size",
    "share_test",
    "symmetry",
    "what_can_be_told",
    "wilson",
    "within_groups",
    "worst_class",
    "worst_class_difference",
    "worst_share",
]
