"""Pages in a real browser, where the machine has Chromium."""

import contextlib
import shutil
from urllib.parse import urlsplit

import pytest

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync"
).split()
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")


@contextlib.contextmanager
def page_at(url, width):
    """The page at a URL, so many pixels wide, which may ask nobody but its own server, and throw
    no error.
    """
    from playwright.sync_api import sync_playwright

    asked = []
    thrown = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
        page.on("request", lambda each: asked.append(each.url))
        page.on("pageerror", lambda error: thrown.append(str(error)))
        page.goto(url)
        yield page
        browser.close()
    hosts = {urlsplit(each).netloc for each in asked if not each.startswith("data:")}
    assert hosts == {urlsplit(url).netloc}
    assert thrown == []
