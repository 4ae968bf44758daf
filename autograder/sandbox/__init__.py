"""The wall: a program and files come in, a process goes out that nothing else can be reached from. Knows no exercises.

Its modules:

    bubblewrap    the command line that makes a sandbox, its limits, and what can be seen in there
    syscalls      system calls that are denied
    guard         watches what a sandbox uses, and ends it
    provisioner   a Jupyter kernel in a sandbox
"""
