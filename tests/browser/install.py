"""Sees that a Chromium is there for the browser tests: one that is installed, or else installs one.

python tests/browser/install.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
"""What lets a browser run without a screen, as root, and not ask for updates."""


def find() -> Path | None:
    """Return the browser to use: $ART_CLASSWISE_BROWSER, else one on PATH, else Playwright's own; None if none is."""
    named = os.environ.get("ART_CLASSWISE_BROWSER")
    if named:
        if not shutil.which(named):
            sys.exit(f"$ART_CLASSWISE_BROWSER is {named!r}, which is no program: name a Chromium, or unset it.")
        return Path(named)
    return next((Path(path) for name in NAMES if (path := shutil.which(name)) and runs(path)), None) or playwrights()


def runs(path: str) -> bool:
    """Return whether it starts: a distribution's stub may only say how to install it."""
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def playwrights() -> Path | None:
    """Return Playwright's own Chromium, if it is installed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = Path(playwright.chromium.executable_path)
    return path if path.exists() else None


def install() -> None:
    """Try what there is to try, in turn, until a browser is there."""
    for command in ways():
        print("+", " ".join(command), flush=True)
        # Of an update, some sources may fail, and the package be found all the same.
        if subprocess.run(command).returncode == 0 and find() is not None:
            return


def ways() -> Iterator[list[str]]:
    """Yield the commands that may install one."""
    if sys.platform == "linux" and shutil.which("apt-get") and os.geteuid() == 0:
        yield ["apt-get", "update", "-qq"]
        yield ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", "chromium"]
    yield [sys.executable, "-m", "playwright", "install", "chromium"]


def main() -> None:
    """Install a browser if none is there, and say which it is."""
    if find() is None:
        install()
    browser = find()
    if browser is None:
        sys.exit(
            "There is no browser, and none could be installed. Install Chromium or Chrome so that it is on PATH, or "
            "name one: export ART_CLASSWISE_BROWSER=/path/to/chromium"
        )
    print(f"browser: {browser}")


if __name__ == "__main__":
    main()
