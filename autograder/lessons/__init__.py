"""From lesson source to notebooks: course/ -> solutions/ -> notebooks/.

Its modules:

    layout    where a unit's files are, how its cells are marked, the forms of a notebook
    source    a lesson (jupytext) -> nbgrader's source notebook, not executed
    sources   which files a result depends on
    opening   what a unit says before it begins: title, and what it builds on
    beyond    what stands behind a solved exercise: the library's version, and why
    elsewhere what a notebook begins with in Colab and Binder
    figures   drawings of concepts, as SVG beside the notebooks
    build     executes solutions, and has nbgrader make the release
"""
