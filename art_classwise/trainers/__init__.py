"""Adversarial training behind ART's ``Trainer`` interface."""

from art_classwise.trainers import policies
from art_classwise.trainers._base import SearchTrainer
from art_classwise.trainers.checkpoint import trained_weights, training_history
from art_classwise.trainers.class_excluded import AdversarialTrainerClassExcludedPyTorch
from art_classwise.trainers.methods import (
    METHODS,
    AdversarialTrainerAWPPyTorch,
    AdversarialTrainerBATPyTorch,
    AdversarialTrainerMARTPyTorch,
    AdversarialTrainerStandardPyTorch,
    AdversarialTrainerTRADESPyTorch,
    NaturalTrainerPyTorch,
)
from art_classwise.trainers.pseudo_labels import PseudoLabels, make_pseudo_labels

__all__ = [
    "METHODS",
    "AdversarialTrainerAWPPyTorch",
    "AdversarialTrainerBATPyTorch",
    "AdversarialTrainerClassExcludedPyTorch",
    "AdversarialTrainerMARTPyTorch",
    "AdversarialTrainerStandardPyTorch",
    "AdversarialTrainerTRADESPyTorch",
    "NaturalTrainerPyTorch",
    "PseudoLabels",
    "SearchTrainer",
    "make_pseudo_labels",
    "policies",
    "trained_weights",
    "training_history",
]
