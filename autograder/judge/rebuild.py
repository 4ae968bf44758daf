"""Putting a submission back on the release, as nbgrader sees it: the first of its sanitize preprocessors."""

from pathlib import Path

from nbformat import NotebookNode
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import NbGraderPreprocessor

from autograder.intake.rebuild import rebuild, released_notebook


class RebuildOnRelease(NbGraderPreprocessor):
    """The released notebook with a submission's answers in it."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        """Rebuild a submission; nbgrader calls this with the submitted notebook."""
        course, names = CourseDirectory(parent=self), resources["nbgrader"]
        folder = course.format_path(course.source_directory, ".", names["assignment"])
        rebuilt, repairs = rebuild(nb, released_notebook(Path(folder) / f"{names['notebook']}.ipynb"))
        for repair in repairs:
            self.log.warning("%s: %s", names["student"], repair)
        return rebuilt, resources
