"""JupyterLab as `make lab` opens it: the start page, its menus, and two notebooks, of which axe-core looks at what is ours."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jupyterlab_server.config import get_static_page_config

from autograder.exercises import UNITS, exercises_of, number_of
from autograder.learner.start import write_start
from autograder.lessons.layout import course_root, notebook_path

ROOT = course_root(Path(__file__).parent)
SETTINGS = ROOT / "course" / "lab"  # test_work.py sees to it that `make lab` uses it
PAGE = ".jp-MarkdownViewer .jp-RenderedMarkdown"
NOTEBOOK = ".jp-Notebook .jp-RenderedHTMLCommon"
RUN = (  # whether a cell that scrolls can be reached by keyboard is JupyterLab's own matter
    "const [ours, done] = arguments, parts = [...document.querySelectorAll(ours)];"
    "const rules = {'scrollable-region-focusable': {enabled: false}};"
    "axe.run({include: parts}, {resultTypes: ['violations'], rules}).then(found => done(found.violations))"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab in a learner's clone; one more notebook there is solved, with its outputs."""
    folder = tmp_path_factory.mktemp("lab")
    for unit in UNITS:
        for place in ("notebooks", "work"):
            shutil.copytree(ROOT / "notebooks" / unit, folder / place / unit)
    shutil.copy(notebook_path(ROOT / "solutions", "02_magnitude"), folder / "work" / "solved.ipynb")
    (folder / "site").mkdir()
    (folder / "site" / "index.html").write_text("<title>Site</title><h1>The site</h1>")
    write_start(folder)
    environment = os.environ | {f"JUPYTER_{kind}_DIR": str(folder / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    environment["JUPYTER_CONFIG_PATH"] = str(SETTINGS)
    options = [
        "--no-browser",
        "--allow-root",
        "--IdentityProvider.token=",
        f"--ServerApp.root_dir={folder}",
        "--ServerApp.port=0",
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
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


@pytest.fixture
def wait(browser):
    """Waits until something is true of the page, which may be drawn anew at any moment."""
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, 120, ignored_exceptions=[WebDriverException]).until


@pytest.fixture
def start(browser, lab, wait):
    """What one sees at the bare address, in a window of moderate width."""
    browser.set_window_size(800, 900)
    browser.get(lab)
    wait(lambda page: page.find_elements("css selector", f"{PAGE} tr"))
    return browser.find_element("css selector", PAGE)


def serious(browser, axe, ours):
    """What axe-core finds that is serious."""
    browser.execute_script(axe)
    return [
        (violation["id"], len(violation["nodes"]), [node["html"][:200] for node in violation["nodes"][:3]])
        for violation in browser.execute_async_script(RUN, ours)
        if violation["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("name", ["02_magnitude/magnitude", "solved"])
def test_axe_finds_nothing_serious_in_a_notebook(browser, axe, lab, wait, name):
    browser.get(f"{lab}lab/tree/work/{name}.ipynb?reset")
    wait(lambda page: len(page.find_elements("css selector", NOTEBOOK)) > 5)
    assert serious(browser, axe, NOTEBOOK) == []


def test_the_start_page_is_shown_whole(browser, axe, start):
    rows = start.find_elements("css selector", "tbody tr")
    assert [row.text[:2] for row in rows] == [unit[:2] for unit in UNITS]
    scrolls = "return [...document.querySelectorAll(arguments[0])].some(part => part.scrollWidth > part.clientWidth)"
    assert not browser.execute_script(scrolls, f".jp-MarkdownViewer, {PAGE}")
    assert serious(browser, axe, PAGE) == []


def test_learners_have_no_menu_of_nbgrader_and_instructors_do(browser, start, monkeypatch):
    menus = [item.text for item in browser.find_elements("css selector", ".lm-MenuBar-itemLabel")]
    assert "File" in menus
    assert "Nbgrader" not in menus
    disabled = []
    for path in (str(SETTINGS), ""):
        monkeypatch.setenv("JUPYTER_CONFIG_PATH", path)
        disabled.append(get_static_page_config().get("disabledExtensions", {}))
    assert disabled == [{"@jupyter/nbgrader": True}, {}]


def test_its_links_open_the_notebook_to_go_on_with_and_the_site(browser, start, wait):
    exercise = exercises_of(UNITS[0])[0]
    heading = f"Exercise {number_of(exercise.id)}: {exercise.title}"
    wait(_clicked("partial link text", heading))
    wait(lambda page: page.find_elements("css selector", f".jp-Notebook h3[data-jupyter-id='{heading.replace(' ', '-')}']"))
    wait(_clicked("xpath", "//*[contains(@class, 'lm-TabBar-tabLabel')][text()='start.md']"))
    wait(_clicked("link text", "as a site"))
    wait(lambda page: len(page.window_handles) == 2)
    first, second = browser.window_handles
    browser.switch_to.window(second)
    wait(lambda page: page.title == "Site")
    browser.close()
    browser.switch_to.window(first)


def _clicked(by, what):
    return lambda page: page.find_element(by, what).click() or True
