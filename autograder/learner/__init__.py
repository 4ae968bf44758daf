"""What a learner meets: an answer comes in, a report on it goes out; a release comes in, a notebook to work in goes out.

Nothing here knows nbgrader.

    check      what a notebook calls
    report     a verdict as HTML
    solved     what a solved exercise leads to
    inputs     the arguments of the call that failed
    needs      what an experiment asks before it begins
    progress   the best result of each exercise so far
    standing   these, unit by unit
    attempt    a file, or a declared mistake, against its check
    commands   the command line
    work       a learner's own copies of the notebooks
    start      the page that JupyterLab opens: the path, progress, where to go on
"""
