"""Two notebooks in JupyterLab: axe-core looks at what is ours, text and the results of checks, not at JupyterLab itself."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autograder.lessons.layout import course_root, notebook_path

ROOT = course_root(Path(__file__).parent)
OURS = ".jp-Notebook .jp-RenderedHTMLCommon"
RUN = (  # whether a cell that scrolls can be reached by keyboard is JupyterLab's own matter
    "const [ours, done] = arguments, parts = [...document.querySelectorAll(ours)];"
    "const rules = {'scrollable-region-focusable': {enabled: false}};"
    "axe.run({include: parts}, {resultTypes: ['violations'], rules}).then(found => done(found.violations))"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on a learner's notebook, unsolved, and on a solved one with its outputs."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(notebook_path(ROOT / "notebooks", "02_magnitude"), folder / "open.ipynb")
    shutil.copy(notebook_path(ROOT / "solutions", "02_magnitude"), folder / "solved.ipynb")
    environment = os.environ | {f"JUPYTER_{kind}_DIR": str(folder / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    options = [
        "--no-browser",
        "--allow-root",
        "--IdentityProvider.token=",
        f"--ServerApp.root_dir={folder}",
        "--ServerApp.port=0",
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (found := list((folder / "RUNTIME").glob("jpserver-*.json"))):
        assert server.poll() is None, "JupyterLab did not start"
        assert time.monotonic() < deadline, "JupyterLab did not start in two minutes"
        time.sleep(0.2)
    time.sleep(1)
    yield json.loads(found[0].read_text())["url"]
    server.terminate()
    server.wait(timeout=30)


@pytest.mark.parametrize("name", ["open", "solved"])
def test_axe_finds_nothing_serious_in_a_notebook(browser, axe, lab, name):
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(f"{lab}lab/tree/{name}.ipynb?reset")
    WebDriverWait(browser, 120).until(lambda page: len(page.find_elements("css selector", OURS)) > 5)
    browser.execute_script(axe)
    found = [
        (violation["id"], len(violation["nodes"]), [node["html"][:200] for node in violation["nodes"][:3]])
        for violation in browser.execute_async_script(RUN, OURS)
        if violation["impact"] in ("serious", "critical")
    ]
    assert found == []
