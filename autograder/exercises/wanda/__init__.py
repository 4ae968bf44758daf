"""Unit 05: Wanda."""

from autograder.exercises.wanda.model import model
from autograder.exercises.wanda.n_m import n_m
from autograder.exercises.wanda.norm import norm
from autograder.exercises.wanda.prune import prune
from autograder.exercises.wanda.rescale import rescale
from autograder.exercises.wanda.score import score
from autograder.exercises.wanda.variant import variant

EXERCISES = (norm, score, prune, n_m, rescale, model, variant)
