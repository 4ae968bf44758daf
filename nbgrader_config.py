"""The repository root is the nbgrader course: solutions/ is the source, notebooks/ the release, grading/ is yours."""

import os
from pathlib import Path

from autograder.judge import gate

c = get_config()  # noqa: F821 - traitlets provides it
root = Path(__file__).resolve().parent

c.CourseDirectory.course_id = "sparsity_edu"
c.CourseDirectory.root = str(root)
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "notebooks"
c.CourseDirectory.submitted_directory = "grading/submitted"
c.CourseDirectory.autograded_directory = "grading/autograded"
c.CourseDirectory.feedback_directory = "grading/feedback"
# nbgrader's SQLite, or a server's database: GRADEBOOK_URL=postgresql+psycopg2://user@host/name
c.CourseDirectory.db_url = os.environ.get("GRADEBOOK_URL") or f"sqlite:///{root / 'grading' / 'gradebook.db'}"
c.ZipCollectApp.downloaded_directory = "grading/downloaded"  # what a platform gives, for nbgrader zip_collect
c.Exchange.root = str(root / "grading" / "exchange")  # on a shared machine: a folder that everybody may write
(root / "grading" / "exchange").mkdir(parents=True, exist_ok=True)

# Grading (see autograder/judge): submissions are taken in before nbgrader reads them, put back on the released notebook, and
# judged outside of the sandbox that runs them. `c.Judge` has its limits; `autograder doctor` tries the sandbox.
gate.install()
c.Autograde.sanitize_preprocessors = [
    "autograder.judge.rebuild.RebuildOnRelease",
    "autograder.judge.terms.SetTerms",
    "nbgrader.preprocessors.ClearOutput",
    "nbgrader.preprocessors.OverwriteKernelspec",
    "nbgrader.preprocessors.OverwriteCells",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.Autograde.autograde_preprocessors = [
    "autograder.judge.preprocess.Judge",
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.AssignLatePenalties.plugin_class = "autograder.judge.late.LateDays"  # due dates and late days: grading/class.toml
c.GenerateFeedback.exporter_class = "autograder.judge.page.FeedbackPage"
c.GenerateFeedback.preprocessors = ["autograder.judge.page.PageGrades", "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor"]
c.Execute.timeout = 120  # seconds per cell, for nbgrader's Validate
c.Execute.extra_arguments = ["--log-level=ERROR"]  # kernels warn at each start that they speak TCP
c.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE\nraise NotImplementedError()"}
