"""Adversarial training behind ART's ``Trainer`` interface."""

from art_classwise.trainers.mart import AdversarialTrainerMARTPyTorch
from art_classwise.trainers.standard import AdversarialTrainerStandardPyTorch

__all__ = ["AdversarialTrainerMARTPyTorch", "AdversarialTrainerStandardPyTorch"]
