"""What students handed in: folders that anybody may have filled come in, readable notebooks on the release go out.

Nothing is run here, so this room knows neither the sandbox nor what is right.

    folders   looks into a folder that anybody may have filled
    reading   reads a notebook file that anybody may have written
    desk      takes in a class: what is fine stays, the rest is set aside and replaced
    rebuild   the student's cells on the released notebook
"""
