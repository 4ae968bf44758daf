"""What a learner meets: an answer comes in, a report on it goes out, and the best result is kept. Nothing here knows nbgrader.

In here:

    check      what a notebook calls
    report     a verdict as HTML
    progress   the best result of each exercise so far
    attempt    a file, or a declared mistake, against its check
    work       a learner's own copies of the notebooks
"""
