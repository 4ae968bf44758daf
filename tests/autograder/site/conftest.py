"""The built site, once for all tests of a run, and a browser to look at it."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from autograder.lessons.layout import course_root
from autograder.site.build import build

ROOT = course_root(Path(__file__).parent)
AXE = Path(sys.prefix) / "axe" / "node_modules" / "axe-core" / "axe.min.js"  # from the npm registry, by the Makefile


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The public site and what Sphinx warned of."""
    return build(ROOT, out=tmp_path_factory.mktemp("site") / "public")


@pytest.fixture(scope="session")
def site(built):
    """The folder of the public site."""
    return built[0]


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium. Where there is none, tests that need it are skipped loudly; in CI they fail."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if not driver or not chromium:
        _missing("Chromium and chromedriver: sudo apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()


@pytest.fixture(scope="session")
def axe():
    """The source of axe-core."""
    if not AXE.is_file():
        _missing("axe-core: install npm, then touch pyproject.toml && make setup")
    return AXE.read_text(encoding="utf-8")


def _missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"this is missing: {what}")
    pytest.skip(f"NOT TESTED: whether everybody can read the site. Missing: {what}")
