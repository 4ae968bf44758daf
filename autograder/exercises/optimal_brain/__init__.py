"""Unit 03: Optimal Brain Damage and Optimal Brain Surgeon."""

from autograder.exercises.optimal_brain.curvature import curvature
from autograder.exercises.optimal_brain.damage import damage
from autograder.exercises.optimal_brain.downdate import downdate
from autograder.exercises.optimal_brain.gradients import gradients
from autograder.exercises.optimal_brain.inverse import inverse
from autograder.exercises.optimal_brain.step import step
from autograder.exercises.optimal_brain.surgeon import surgeon

EXERCISES = (curvature, damage, gradients, inverse, step, downdate, surgeon)
