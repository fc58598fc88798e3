"""Adversarial training behind ART's ``Trainer`` interface."""

from art_classwise.trainers import policies
from art_classwise.trainers._base import SearchTrainer
from art_classwise.trainers.awp import AdversarialTrainerAWPPyTorch
from art_classwise.trainers.bat import AdversarialTrainerBATPyTorch
from art_classwise.trainers.checkpoint import trained_weights, training_history
from art_classwise.trainers.class_excluded import AdversarialTrainerClassExcludedPyTorch
from art_classwise.trainers.mart import AdversarialTrainerMARTPyTorch
from art_classwise.trainers.methods import METHODS
from art_classwise.trainers.natural import NaturalTrainerPyTorch
from art_classwise.trainers.pseudo_labels import PseudoLabels, make_pseudo_labels
from art_classwise.trainers.standard import AdversarialTrainerStandardPyTorch
from art_classwise.trainers.trades import AdversarialTrainerTRADESPyTorch

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
