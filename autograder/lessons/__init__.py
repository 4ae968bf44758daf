"""From lesson source to notebooks: course/ -> solutions/ -> notebooks/.

layout   where a unit's files are, how its cells are marked, the forms of a notebook
source   a lesson (jupytext) -> nbgrader's source notebook, not executed
build    executes it, and has nbgrader make the release
"""
