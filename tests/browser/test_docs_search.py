"""The documentation's search, on a site that was opened from the disk: no server, no network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small site with the settings and the scripts of ours."""
    pytest.importorskip("material", reason="needs Material for MkDocs: make docs")
    yaml = pytest.importorskip("yaml")
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    folder = tmp_path_factory.mktemp("docs")
    for path in ("index.md", "deeper/mart.md", *settings["extra_css"], *settings["extra"]["polyfills"]):
        (folder / "docs" / path).parent.mkdir(parents=True, exist_ok=True)
        if not path.endswith(".md"):
            (folder / "docs" / path).write_bytes((ROOT / "docs" / path).read_bytes())
    (folder / "docs" / "index.md").write_text("# Start\n\nNothing here.\n")
    (folder / "docs" / "deeper" / "mart.md").write_text("# Training\n\n## Misclassification\n\nMART weighs examples.\n")
    settings = {name: settings[name] for name in ("site_name", "use_directory_urls", "theme", "extra_css", "extra")}
    settings["theme"].pop("favicon")
    (folder / "mkdocs.yml").write_text(yaml.safe_dump({**settings, "plugins": ["search", "offline"]}))
    subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "-q"], cwd=folder, check=True)
    return folder / "site"


@pytest.mark.parametrize("start", ["index.html", "deeper/mart.html"])
def test_search_finds_from_the_disk(start, site, opened):
    page = opened(site / start, ready=".md-search__input")
    page.locator(".md-search__input").press_sequentially("MART")
    found = page.locator(".md-search-result__link").first
    found.wait_for(state="visible", timeout=10_000)
    assert "Misclassification" in page.locator(".md-search-result__list").inner_text()
    found.click()
    page.wait_for_url("**/deeper/mart.html**")
    assert page.locator("h2").inner_text().startswith("Misclassification")
