"""Techniques together in one model: what a step reads, in which order they are applied, and what is worth it.

Pure functions, which the course teaches:

    costs        bytes that a decode step reads, and the least time that it takes
    order        pruned weights and skipped inputs, either one calibrated first
    allocation   the cheapest settings of several techniques within a budget of quality
    front        the points that no other beats in both cost and loss
    interaction  whether two techniques hurt more together than their errors add up to
"""
