"""Unit 09: training the router."""

from autograder.exercises.training_the_router.balance import balance
from autograder.exercises.training_the_router.bias import bias
from autograder.exercises.training_the_router.draw import draw
from autograder.exercises.training_the_router.jitter import jitter
from autograder.exercises.training_the_router.v1 import v1
from autograder.exercises.training_the_router.v2 import v2
from autograder.exercises.training_the_router.z_loss import z_loss

EXERCISES = (jitter, balance, z_loss, bias, draw, v1, v2)
