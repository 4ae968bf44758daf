"""The folders of an nbgrader course."""

from pathlib import Path

import nbformat
from nbgrader.coursedir import CourseDirectory

from autograder.exercises import exercises_of
from autograder.lessons.layout import grade_id, notebook_path


class Course:
    """Where everything is, as nbgrader is configured."""

    def __init__(self, directory: CourseDirectory) -> None:
        self.directory = directory
        self.root = Path(directory.root)
        self.submitted = self.root / directory.submitted_directory
        self.autograded = self.root / directory.autograded_directory
        self.feedback = self.root / directory.feedback_directory
        self.source = self.root / directory.source_directory
        self.grading = self.submitted.parent

    def files(self, student: str, unit: str) -> dict[str, bytes]:
        """The other files of a submission that intake has let through, and those that belong to the unit."""
        found: dict[str, bytes] = {}
        for folder in (self.submitted / student / unit, self.source / unit):
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not path.is_symlink() and path.suffix != ".ipynb" and path.name != "timestamp.txt":
                    found[str(path.relative_to(folder))] = path.read_bytes()
        return found

    def solutions(self, unit: str) -> dict[str, str]:
        """The course's own solution cell by exercise id."""
        path = notebook_path(self.source, unit)
        cells = {cell.id: cell.source for cell in nbformat.read(path, as_version=4).cells}
        return {exercise.id: cells[grade_id(exercise)] for exercise in exercises_of(unit)}
