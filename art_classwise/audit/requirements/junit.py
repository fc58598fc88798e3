"""The XML of JUnit, as continuous integration reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from art_classwise.errors import printable

__all__ = ["Case", "junit"]


class Case(NamedTuple):
    """A test case.

    Attributes:
        name: What was required.
        of: Of what.
        says: What came of it, a sentence.
        failed: In which way it failed, a word; None if it passed.
    """

    name: str
    of: str
    says: str
    failed: str | None


def junit(name: str, cases: Sequence[Case]) -> bytes:
    """Return test cases as the content of a file.

    XML has no control characters, so names hold them as escapes.

    Args:
        name: Of the test suite.
        cases: The test cases.
    """
    failures = sum(case.failed is not None for case in cases)
    counts = {"tests": str(len(cases)), "failures": str(failures), "errors": "0", "skipped": "0", "time": "0"}
    suites = ElementTree.Element("testsuites", {"name": "art-classwise", **counts})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": printable(name), **counts})
    for case in cases:
        written = {"name": printable(case.name), "classname": printable(case.of), "time": "0"}
        element = ElementTree.SubElement(suite, "testcase", written)
        if case.failed is None:
            ElementTree.SubElement(element, "system-out").text = printable(case.says)
        else:
            failure = {"message": printable(case.says), "type": case.failed}
            ElementTree.SubElement(element, "failure", failure).text = printable(case.says)
    ElementTree.indent(suites)
    content: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return content + b"\n"
