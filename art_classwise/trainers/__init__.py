"""Adversarial training behind ART's ``Trainer`` interface."""

from art_classwise.trainers._base import SearchTrainer
from art_classwise.trainers._checkpoint import trained_weights, training_history
from art_classwise.trainers.mart import AdversarialTrainerMARTPyTorch
from art_classwise.trainers.standard import AdversarialTrainerStandardPyTorch
from art_classwise.trainers.trades import AdversarialTrainerTRADESPyTorch

__all__ = [
    "AdversarialTrainerMARTPyTorch",
    "AdversarialTrainerStandardPyTorch",
    "AdversarialTrainerTRADESPyTorch",
    "SearchTrainer",
    "trained_weights",
    "training_history",
]
