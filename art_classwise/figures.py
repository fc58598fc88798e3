"""Figures by their public name, :mod:`art_classwise.report.figures`: one module under two names."""

import sys

from art_classwise.report import figures
from art_classwise.report.figures import *  # noqa: F403  what type checkers see

sys.modules[__name__] = figures
