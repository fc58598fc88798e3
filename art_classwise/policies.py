"""Class policies by their public name, :mod:`art_classwise.trainers.policies`: one module under two names."""

import sys

from art_classwise.trainers import policies
from art_classwise.trainers.policies import *  # noqa: F403  what type checkers see

sys.modules[__name__] = policies
