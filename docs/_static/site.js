// What the theme leaves open. Buttons and folds are named by the text that is on them; what can be scrolled can be reached by
// keyboard, and is no stop on the way where there is nothing to scroll.

const SCROLLS = ".formula, .bd-article pre, .pst-scrollable-table-container";

function reachable() {
  for (const part of document.querySelectorAll(SCROLLS)) {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  }
}

window.addEventListener("load", () => {
  for (const part of document.querySelectorAll(".navbar-persistent--container .search-button-field, details.hide > summary[aria-label]")) {
    part.removeAttribute("aria-label");
  }
  reachable();
});
window.addEventListener("resize", reachable);
document.addEventListener("toggle", reachable, true);
