"""Unit 13: activations, Deja Vu."""

from autograder.exercises.deja_vu.choose import choose
from autograder.exercises.deja_vu.labels import labels
from autograder.exercises.deja_vu.logits import logits
from autograder.exercises.deja_vu.loss import loss
from autograder.exercises.deja_vu.reads import reads
from autograder.exercises.deja_vu.sparse_mlp import sparse_mlp
from autograder.exercises.deja_vu.train import train

EXERCISES = (labels, logits, loss, train, choose, sparse_mlp, reads)
