"""Attacks behind ART's ``EvasionAttack`` interface, and named sets of them."""

from art_classwise.attacks._base import SearchAttack
from art_classwise.attacks.autoattack import AutoAttack
from art_classwise.attacks.classwise import ClassWiseAttack
from art_classwise.attacks.corruption import Corruption
from art_classwise.attacks.ladder import AttackFactory, ladder, usual_threat
from art_classwise.attacks.minimum_norm import MinimumNormAttack
from art_classwise.attacks.pgd import PGD, LossAttack, TemperaturePGD
from art_classwise.attacks.transfer import TransferAttack

__all__ = [
    "PGD",
    "AttackFactory",
    "AutoAttack",
    "ClassWiseAttack",
    "Corruption",
    "LossAttack",
    "MinimumNormAttack",
    "SearchAttack",
    "TemperaturePGD",
    "TransferAttack",
    "ladder",
    "usual_threat",
]
