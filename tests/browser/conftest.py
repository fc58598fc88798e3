"""A browser, and pages in it that may not go wrong unnoticed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def install() -> ModuleType:
    """The script that finds a browser."""
    spec = importlib.util.spec_from_file_location("install_browser", Path(__file__).with_name("install.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def browser(install: ModuleType) -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: make test-browser")
    path = install.find()
    if path is None:
        pytest.skip("needs a browser: make test-browser")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*install.OPTIONS])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a file, and fails the test if anything was logged, asked of the network or shown in a dialog."""
    said: list[str] = []
    with ExitStack() as stack:

        def opened(
            path: Path, *, width: int = 1280, height: int = 900, ready: str = ".dt-container", **options: Any
        ) -> Any:
            context = browser.new_context(viewport={"width": width, "height": height}, **options)
            stack.callback(context.close)
            page = context.new_page()
            page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
            page.on("pageerror", lambda error: said.append(f"error: {error}"))
            page.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
            page.on(
                "request", lambda request: said.append(f"request: {request.url}") if _outside(request.url) else None
            )
            page.goto(path.as_uri())
            if options.get("java_script_enabled", True):
                page.wait_for_selector(ready, state="attached")  # the script has run
            return page

        yield opened
    assert said == []


def _outside(url: str) -> bool:
    return not url.startswith(("file:", "data:"))
