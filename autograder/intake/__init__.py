"""What students handed in: folders that anybody may have filled come in, readable notebooks on the release go out.

Nothing is run here, so this room knows neither the sandbox nor what is right.

    folders     looks into a folder that anybody may have filled
    archives    looks into a zip
    reading     reads a notebook file that anybody may have written
    inspection  which notebook of a folder counts, and what beside it can be handed on
    desk        takes in a class: what is fine stays, the rest is set aside and replaced
    code        what a cell's code defines and uses
    cells       which exercise each cell answers, and what belongs together
    rebuild     the student's cells on the released notebook
"""
