"""What a person looks at: the report page, tables on a terminal, figures, displays in notebooks."""

from art_classwise.report.card import model_card
from art_classwise.report.cyclonedx import cyclonedx
from art_classwise.report.page import render, report_files, write_report
from art_classwise.report.terminal import print_comparison, print_pairs, print_standings, print_tables

__all__ = [
    "cyclonedx",
    "model_card",
    "print_comparison",
    "print_pairs",
    "print_standings",
    "print_tables",
    "render",
    "report_files",
    "write_report",
]
