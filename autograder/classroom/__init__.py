"""A whole class: submissions, results, reports."""
