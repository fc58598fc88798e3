"""Training methods by name."""

from __future__ import annotations

from art_classwise.trainers._base import SearchTrainer
from art_classwise.trainers.bat import AdversarialTrainerBATPyTorch
from art_classwise.trainers.mart import AdversarialTrainerMARTPyTorch
from art_classwise.trainers.natural import NaturalTrainerPyTorch
from art_classwise.trainers.standard import AdversarialTrainerStandardPyTorch
from art_classwise.trainers.trades import AdversarialTrainerTRADESPyTorch

__all__ = ["METHODS"]

METHODS: dict[str, type[SearchTrainer]] = {
    "standard": AdversarialTrainerStandardPyTorch,
    "trades": AdversarialTrainerTRADESPyTorch,
    "mart": AdversarialTrainerMARTPyTorch,
    "bat": AdversarialTrainerBATPyTorch,
    "natural": NaturalTrainerPyTorch,
}
"""Trainers by the names of their methods."""
