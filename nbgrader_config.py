"""The repository root is the nbgrader course: solutions/ is the source, notebooks/ the release, grading/ is yours."""

from pathlib import Path

c = get_config()  # noqa: F821 - traitlets provides it
root = Path(__file__).resolve().parent

c.CourseDirectory.course_id = "sparsity_edu"
c.CourseDirectory.root = str(root)
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "notebooks"
c.CourseDirectory.submitted_directory = "grading/submitted"
c.CourseDirectory.autograded_directory = "grading/autograded"
c.CourseDirectory.feedback_directory = "grading/feedback"
c.CourseDirectory.db_url = f"sqlite:///{root / 'grading' / 'gradebook.db'}"
c.Exchange.root = str(root / "grading" / "exchange")  # on a shared machine: a folder that everybody may write
(root / "grading" / "exchange").mkdir(parents=True, exist_ok=True)

# Submissions are put back on the released notebook first: one duplicated cell would otherwise stop the whole class.
c.Autograde.sanitize_preprocessors = [
    "autograder.judge.rebuild.RebuildOnRelease",
    "nbgrader.preprocessors.ClearOutput",
    "nbgrader.preprocessors.OverwriteKernelspec",
    "nbgrader.preprocessors.OverwriteCells",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.Execute.timeout = 120  # seconds per cell; a check takes a second or two
c.Execute.extra_arguments = ["--log-level=ERROR"]  # kernels warn at each start that they speak TCP
c.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE\nraise NotImplementedError()"}
