"""Unit 08: mixture of experts."""

from autograder.exercises.mixture_of_experts.route import route

EXERCISES = (route,)
