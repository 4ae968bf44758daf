"""From lesson source to notebooks: course/ -> solutions/ -> notebooks/.

Its modules:

    layout    where a unit's files are, how its cells are marked, the forms of a notebook
    source    a lesson (jupytext) -> nbgrader's source notebook, not executed
    sources   which files a result depends on
    figures   drawings of concepts, as SVG beside the notebooks
    build     executes solutions, and has nbgrader make the release
"""
