"""Unit 07: Minitron."""

from autograder.exercises.minitron.aggregate import aggregate
from autograder.exercises.minitron.blocks import blocks
from autograder.exercises.minitron.distil_step import distil_step
from autograder.exercises.minitron.heads import heads
from autograder.exercises.minitron.kd_loss import kd_loss
from autograder.exercises.minitron.trim_ffn import trim_ffn
from autograder.exercises.minitron.trim_hidden import trim_hidden

EXERCISES = (aggregate, heads, blocks, trim_ffn, trim_hidden, kd_loss, distil_step)
