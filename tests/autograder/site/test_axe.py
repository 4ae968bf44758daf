"""The site as everybody reads it: axe-core in Chromium, at two widths, light and dark; the keyboard; a phone's width."""

import pytest

UNIT = "units/02_magnitude/magnitude.html"
BOTH = ((1280, "light"), (390, "dark"))
KINDS = (
    "index.html",
    "path.html",
    UNIT,
    "library/weights.wanda.html",
    "library.html",
    "lectures.html",
    "results.html",
    "papers.html",
    "glossary.html",
    "instructors.html",
    "contributing.html",
    "search.html",
)
# once the page has been drawn in its new theme, with all that was folded
RUN = """
    const done = arguments[0]
    const run = () => axe.run({resultTypes: ['violations']}).then(found => done(found.violations))
    requestAnimationFrame(() => requestAnimationFrame(run))
"""
STILL = "* { transition: none !important; animation: none !important }"


def show(browser, site, path, width, theme):
    """Open a page as it is at a width, in a theme."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get((site / path).as_uri())
    add = "const style = document.createElement('style'); style.textContent = arguments[0]; document.head.append(style)"
    browser.execute_script(add, STILL)  # colours on their way from one theme to the other are nobody's
    browser.execute_script("const page = document.documentElement.dataset; page.mode = page.theme = arguments[0]", theme)


@pytest.mark.parametrize("path", KINDS)
def test_axe_finds_nothing_serious(browser, axe, site, path):
    found = []
    for width, theme in BOTH + ((1280, "dark"), (390, "light")) * (path in ("index.html", UNIT)):
        show(browser, site, path, width, theme)
        browser.execute_script("document.querySelectorAll('details').forEach(fold => fold.open = true)")
        browser.execute_script(axe)
        for violation in browser.execute_async_script(RUN):
            if violation["impact"] in ("serious", "critical"):
                where = [(node["target"], [check["data"] for check in node["any"]]) for node in violation["nodes"][:4]]
                found.append((width, theme, violation["id"], len(violation["nodes"]), where))
    assert found == []


@pytest.mark.parametrize("path", KINDS)
def test_a_phone_need_not_scroll_sideways(browser, site, path):
    show(browser, site, path, 390, "light")
    browser.execute_script("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


def test_hints_open_by_keyboard(browser, site):
    from selenium.webdriver.common.keys import Keys

    show(browser, site, UNIT, 1280, "light")
    [hint, *_] = [s for s in browser.find_elements("css selector", "details > summary") if s.text == "Hint"]
    browser.execute_script("arguments[0].focus()", hint)
    hint.send_keys(Keys.ENTER)
    assert browser.execute_script("return arguments[0].parentElement.open", hint)


def test_the_first_key_leads_to_the_text(browser, site):
    from selenium.webdriver.common.keys import Keys

    show(browser, site, "index.html", 1280, "light")
    browser.find_element("tag name", "body").send_keys(Keys.TAB)
    assert browser.switch_to.active_element.get_attribute("textContent").strip() == "Skip to main content"


def test_search_works_without_a_server(browser, site):
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get((site / "search.html").as_uri() + "?q=Cholesky")
    found = WebDriverWait(browser, 20).until(lambda page: page.find_elements("css selector", "#search-results li a"))
    assert any("sparsegpt" in link.get_attribute("href") for link in found)
