"""All of autograder that runs beside student code, and nothing else: its student edition is this folder.

A `Case` (plain values and recipes) comes in, an `Outcome` (plain values) goes out. Nothing here knows exercises, references or
seeds, and nothing here imports another room: whatever is put into this folder can be read and changed by student code.

    case        what student code receives              recipes    how arguments are made there
    runner      runs an answer on a case                use        one use of it, or two in turns
    observe     values as plain values                  outcome    what comes back
    sanitizer   which bytes Triton kernels touch        wire       cases and outcomes as bytes
    weigh       what an object can reach                dialect    kernels as plain data, and back
    launches    launches that cross the wall            bench      runs them where no student's cell has run
    answer      offers a student's program to the judge kernel     starts Jupyter's kernel in the sandbox
    package     stands for autograder/__init__.py there

In a notebook both sides are one process. When it counts, this is between them:

    submitted/  ->  intake.desk        regular files within caps; one notebook that can be read
                    intake.rebuild     the student's code cells on the released notebook
                    judge.session      runs them in the sandbox; keeps a snapshot of the program at every check
    ================================== the wall: sandbox.bubblewrap (limits), sandbox.guard (watches from outside) =========
                    inside.answer      in there: the snapshot, which calls the student's function
                    inside.bench       in a sandbox of its own: runs the kernels that it launches (judge.bench)
    ========================================================================================================================
                    judge.judge        asks snapshots hidden cases, compares, explains; flags what a person should look at
                    judge.store        every verdict once, under a hash of all it depends on
                    judge.preprocess   nbgrader's preprocessor in the place of Execute: writes verdicts into the notebook

Everything that crosses the wall:

    in     this folder, sparsity_edu's models, data, plots    read-only   sandbox.bubblewrap.EDITION
           the system, Python                    read-only      sandbox.bubblewrap._shown
           the submission's and the unit's files copies         sandbox.bubblewrap.launch (files)
           a connection file; the environment    cleared first  sandbox.provisioner.CONNECTION, bubblewrap.environment
           the cells, and at a check OFFER       Jupyter        judge.session
           cases                                 frames         wire.encode; weights for kernels shuffled: judge.bench
           to the bench: these weights, launches frames         wire.encode
           back: what a launch has written       frames         wire.encode

    out    outcomes of cases     frames         64 MiB each, plain values      wire.receive, wire.decode_outcome
           launches of kernels   frames         the same                       wire.decode_plain; dialect.made: only Triton
           of the bench: results frames         the same                       wire.decode_plain, decode_outcome
           an exercise's name    frame          200 bytes, only compared       session._accept, once per snapshot
           what cells display    Jupyter        32 MB, pictures 4 MB a cell    session._Client; judge.feedback.clean rebuilds it
           OFFER's reply         Jupyter        32 MB, only whose it is        session._keep
           how the kernel ended  a pipe         100 bytes, a number            provisioner.poll
           errors at the start   a pipe         500 letters, then closed       provisioner._listening, before student code runs
           use of processes, memory, files      the system's own numbers       guard; session (SO_PEERCRED)
           sockets in /tmp inside               opened through /proc/PID/root  jupyter_client, once; session: reconnect_ivl

What comes out of a snapshot is what a student's program says, which may have changed all that is in there. So results,
arguments after the call and gradients are compared outside, where they must be right whoever has worked them out, and kernels
count by what they do on the bench. The rest cannot be seen from outside: that an argument was changed, or shares memory with a
result, and is said not to be; the hooks and parameters of a module; what an object holds. Whoever can forge these could have
written a right answer sooner, and what forging takes is flagged (judge.flags).
"""
