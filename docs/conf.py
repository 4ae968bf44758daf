"""Settings of Sphinx; `make site` copies this folder, adds the pages that are made, and runs Sphinx on the copy."""

project = "sparsity_edu"
copyright = "the authors of sparsity_edu, Apache-2.0"
html_title = "Sparsity for efficient LLM inference"
language = "en"

extensions = ["myst_nb", "autograder.site.mathml"]
exclude_patterns = ["example", "made"]
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # no script from the network
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
suppress_warnings = ["misc.highlighting_failure", "app.add_node"]  # the second: of a second build in one process
highlight_language = "none"

html_theme = "pydata_sphinx_theme"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = False
html_show_sourcelink = False
html_use_index = False
ALONE = ("index", "path", "lectures", "results", "papers", "glossary", "instructors", "contributing")
html_sidebars = {page: [] for page in ALONE}  # pages with none below them need no list at the left
html_theme_options = {
    "logo": {"text": "sparsity_edu"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 8,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
