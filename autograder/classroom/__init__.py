"""A whole class: submissions come in, a gradebook, pages and tables go out.

Its modules:

    handout        what students get
    grade          intake, judging side by side, nbgrader's autograde and feedback
    workers        the processes that judge
    results        what a class has reached
    similarity     how alike submissions are; `similar_page` shows them side by side
    roster         who is in the class, and grades back in the form of Canvas and Moodle
    export         tables for spreadsheets
    gradescope     the same judge in Gradescope's container
    demo           a made-up class
    doctor         tries to break out of the sandbox, by `escapes`
    commands       the instructor's command line; `around` has what comes before and after grading, `console` what both share
"""
