"""A whole class: submissions come in, a gradebook, pages and tables go out.

Its modules:

    grade        intake, judging side by side, nbgrader's autograde and feedback
    workers      the processes that judge
    results      what a class has reached
    export       tables for spreadsheets
    gradescope   the same judge in Gradescope's container
    demo         a made-up class
    doctor       tries to break out of the sandbox, by `escapes`
    commands     the instructor's command line
"""
