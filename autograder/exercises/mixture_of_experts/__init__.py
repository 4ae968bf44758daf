"""Unit 08: mixture of experts."""

from autograder.exercises.mixture_of_experts.capacity import capacity
from autograder.exercises.mixture_of_experts.combine import combine
from autograder.exercises.mixture_of_experts.cost import cost
from autograder.exercises.mixture_of_experts.dispatch import dispatch
from autograder.exercises.mixture_of_experts.keep import keep
from autograder.exercises.mixture_of_experts.layer import layer
from autograder.exercises.mixture_of_experts.route import route

EXERCISES = (route, capacity, keep, dispatch, combine, layer, cost)
