"""Attacks behind ART's ``EvasionAttack`` interface, and named sets of them."""

from art_classwise.attacks.ladder import AttackFactory, ladder
from art_classwise.attacks.temperature_pgd import TemperaturePGD

__all__ = ["AttackFactory", "TemperaturePGD", "ladder"]
