"""Figures and the report page: everything a person looks at."""

from art_classwise.report.figures import class_accuracy
from art_classwise.report.page import render, report_files, write_report
from art_classwise.report.terminal import print_comparison, print_pairs, print_tables

__all__ = [
    "class_accuracy",
    "print_comparison",
    "print_pairs",
    "print_tables",
    "render",
    "report_files",
    "write_report",
]
