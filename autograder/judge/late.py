"""What a late submission loses: nbgrader's plugin for late submissions, with the terms of the class."""

from nbgrader.coursedir import CourseDirectory
from nbgrader.plugins import LateSubmissionPlugin

from autograder.judge.course import Course
from autograder.judge.terms import Terms, days


class LateDays(LateSubmissionPlugin):
    """Each student has some late days in all; what is late beyond them loses a share of its points for each day begun.

    Without late days in the terms, nbgrader's own `c.LateSubmissionPlugin.penalty_method` counts.
    """

    def late_submission_penalty(self, student_id: str, score: float, total_seconds_late: float) -> float | None:
        """What a submission loses; nbgrader calls this for those that are late.

        Args:
            student_id: the student.
            score: the points of the submission.
            total_seconds_late: seconds after the due date and the student's extension.

        Returns:
            Points, or None for nothing.
        """
        terms = Terms.read(Course(CourseDirectory(parent=self)).grading)
        if not terms.lost_per_day:
            return super().late_submission_penalty(student_id, score, total_seconds_late)
        used = terms.late_days(self.parent.gradebook, student_id, self.parent.assignment_id)
        costly = days(total_seconds_late) - max(0, terms.free_days - used)
        return score * min(1.0, terms.lost_per_day * max(0, costly))
