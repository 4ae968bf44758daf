"""Unit 18: key norms."""

from autograder.exercises.key_norm.keep import keep

EXERCISES = (keep,)
