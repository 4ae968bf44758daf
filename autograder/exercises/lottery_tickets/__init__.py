"""Unit 06: lottery tickets."""

from autograder.exercises.lottery_tickets.controls import controls
from autograder.exercises.lottery_tickets.drop import drop
from autograder.exercises.lottery_tickets.drop_global import drop_global
from autograder.exercises.lottery_tickets.find import find
from autograder.exercises.lottery_tickets.snapshot import snapshot
from autograder.exercises.lottery_tickets.train import train

EXERCISES = (drop, drop_global, train, snapshot, find, controls)
