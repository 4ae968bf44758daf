"""Grading one submission: a rebuilt notebook comes in, verdicts in nbgrader's form go out. Knows no class of students.

    session      runs the cells in a sandbox, keeps a snapshot at every check, asks it cases
    judge        asks hidden cases, compares, explains
    flags        what a person should look at
    trees        how alike two pieces of code are
    terms        what an instructor has set: due dates, late days, points; `late` and `worth` apply it
    page         the feedback page
    feedback     what of a student's outputs can be shown
    seeds        whose hidden cases are whose; the course's secret
    store        every verdict once, under a hash of all it depends on
    course       the folders of an nbgrader course
    gate         hooks intake into nbgrader
    rebuild, preprocess   nbgrader's preprocessors: back on the release, and judged

What crosses the wall between judge and student code is listed in `autograder.inside`.
"""
