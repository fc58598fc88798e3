"""A page that a browser has saved, as its scripts have made it, still verifies."""

from __future__ import annotations

import shutil

import pytest
from small_audit import result

from art_classwise import read_audit
from art_classwise.evidence import verify
from art_classwise.report import write_report

pytestmark = pytest.mark.browser


def test_a_page_saved_by_a_browser_verifies_and_a_forged_one_does_not(opened, tmp_path):
    store = tmp_path / "store"
    result(store, attacks=("fgsm", "pgd-3"))
    write_report(read_audit(store), store)
    page = opened(store / "report.html")
    page.locator("details").evaluate_all("parts => parts.forEach(part => part.open = true)")
    page.locator("th.dt-orderable-asc").first.click()  # rows in another order
    saved = page.content()
    assert saved != (store / "report.html").read_text(encoding="utf-8")
    copy = shutil.copytree(store, tmp_path / "copy")
    (copy / "report.html").write_text(saved, encoding="utf-8")
    found = verify(copy)
    assert found.ok, str(found)
    assert "page" in found.checks
    cell = page.locator("table tbody td.number").first
    cell.evaluate("cell => cell.textContent = '99.9'")
    (copy / "report.html").write_text(page.content(), encoding="utf-8")
    assert verify(copy).differences["page"]
