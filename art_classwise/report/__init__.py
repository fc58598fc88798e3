"""Figures and the report page: everything a person looks at."""

from art_classwise.report.figures import class_accuracy
from art_classwise.report.page import render, report_files, write_report

__all__ = ["class_accuracy", "render", "report_files", "write_report"]
