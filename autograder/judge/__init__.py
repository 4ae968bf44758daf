"""Grading submissions: what happens between a student's notebook and nbgrader's gradebook.

    submitted/  ->  intake       regular files within caps; one notebook that can be read
                    rebuild      the student's code cells on the released notebook
                    session      runs them in the sandbox; keeps a snapshot of the program at every check
    ============================ the wall: sandbox (bubblewrap, limits), guard (watches from outside) ======================
                    answer       in there: the snapshot, which calls the student's function
    ========================================================================================================================
                    judge        asks snapshots hidden cases, compares, explains; flags what a person should look at
                    store        every verdict once, under a hash of all it depends on
                    preprocess   nbgrader's preprocessor in the place of Execute: writes verdicts into the notebook

Two things cross the wall, and nothing else:

- `wire`: cases in, outcomes out, one frame each; `decode_outcome` is all that reads what student code may have written there;
- Jupyter messages of the cells, received by nbclient in `session`; only what `feedback.clean` rebuilds from them is kept.

`provisioner` starts the kernel, `gate` hooks intake into nbgrader, `seeds` holds the secret, `doctor` tries to break out.
"""
