"""Certified accuracy, class by class: radii within which no attack, known or not, changes the prediction."""

from art_classwise.certification.certifying import certified_accuracy, certify
from art_classwise.certification.kept import read_certificates
from art_classwise.certification.result import Certificate, CertifiedResult, read_certificate

__all__ = ["Certificate", "CertifiedResult", "certified_accuracy", "certify", "read_certificate", "read_certificates"]
