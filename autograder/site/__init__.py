"""From executed solutions and the packages' source to a static site: docs/ and what is made here -> Sphinx -> site/.

Its modules:

    build        lays out the pages in a temporary folder, and runs Sphinx on them
    pages        the folder of pages: what is copied from docs/, what is made
    units        a unit's executed notebook -> its page, without solutions or with them
    alternatives what stands in a figure, in words
    links        what a link in the repository points to on the site
    course_map   the path through the units, and the picture of the start page
    library      a module -> its page: prose and formulas beside the code
    prose        docstrings and comments -> Markdown
    papers       the papers, and how text that cites one comes to link it
    glossary     each term linked where a unit first uses it
    results      the course's numbers beside published ones, read where they were recorded
    mathml       formulas as MathML, which needs no script

Nothing is executed. What the pages say is written in docs/; lists that code reads lie beside them, as TOML.
"""
