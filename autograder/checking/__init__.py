"""What is right: what an exercise is, when an answer is right, and the verdict.

An `Exercise` and a way to get the outcome of a case come in, a `Verdict` goes out: plain data. Nothing here knows notebooks,
HTML or nbgrader.

    exercise   a declaration: stages, cases, reference, misconceptions
    compare    the first difference between two values
    traffic    what is wrong with the bytes that kernels read and write
    known      the cases of a seed, and what reference and mistakes make of them
    outcomes   how the outcomes of a case differ
    recognise  which declared mistake an answer resembles
    score      from outcomes to a verdict
    verdict    what a check says, as data and as plain text
    naming     how calls and arguments are named to a learner
"""
