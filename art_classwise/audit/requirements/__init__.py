"""Requirements of an audit or a comparison, judged by intervals: what continuous integration can fail by."""

from art_classwise.audit.requirements.grammar import MEASURES, Measure, Requirement
from art_classwise.audit.requirements.verdicts import Verdict, Verdicts

__all__ = ["MEASURES", "Measure", "Requirement", "Verdict", "Verdicts"]
