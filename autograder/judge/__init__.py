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

Everything that crosses the wall:

    in     the student edition, the system, Python   read-only      sandbox.EDITION, sandbox._shown
           the submission's and the unit's files     copies         sandbox.launch (files)
           a connection file; the environment        cleared first  provisioner.CONNECTION, sandbox.environment
           the cells, and at a check OFFER           Jupyter        session
           cases                                     frames         wire.encode

    out    outcomes of cases     frames         64 MiB each, plain values      wire.receive, wire.decode_outcome
           an exercise's name    frame          200 bytes, only compared       session._accept, once per snapshot
           what cells display    Jupyter        32 MB in all                   session._Client; feedback.clean rebuilds it
           OFFER's reply         Jupyter        32 MB, only whose it is        session._keep
           how the kernel ended  a pipe         100 bytes, a number            provisioner.poll
           errors at the start   a pipe         500 letters, then closed       provisioner._listening, before student code runs
           use of processes, memory, files      the system's own numbers       guard; session (SO_PEERCRED)
           sockets in /tmp inside               opened through /proc/PID/root  jupyter_client, once; session: reconnect_ivl

The files in there are those of sandbox.EDITION; of this package they are wire, answer, kernel, and check_inside. `gate` hooks
intake into nbgrader, `seeds` holds the secret, `doctor` tries to break out.
"""
