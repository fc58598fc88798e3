"""Metrics: pure functions of labels and predictions, arrays in, DataFrames out."""

from art_classwise.metrics.accuracy import class_accuracy
from art_classwise.metrics.confusion import confusion
from art_classwise.metrics.disparity import disparity
from art_classwise.metrics.homing import homing
from art_classwise.metrics.intervals import paired_difference, wilson

__all__ = ["class_accuracy", "confusion", "disparity", "homing", "paired_difference", "wilson"]
