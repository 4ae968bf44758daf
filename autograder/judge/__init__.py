"""Grading submissions: what happens between a student's notebook and nbgrader's gradebook."""
