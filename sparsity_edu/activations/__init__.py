"""Zeros that the input makes: weights that meet small inputs, or none, need not be read.

from sparsity_edu.activations import teal

teal.apply_(model, 0.5, calibration)    # from now on the model skips half of the inputs of every layer

teal         inputs below a threshold count as zeros (TEAL)
histogram    the threshold for a share of inputs
allocation   which layers can bear more: a greedy search, block by block
plan         thresholds in a JSON file
"""
