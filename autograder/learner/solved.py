"""What a solved exercise leads to: the library's version to compare with, and why the solution is as it is, folded."""

import os
from dataclasses import dataclass
from pathlib import Path

from autograder.exercises import unit_of
from autograder.lessons.beyond import explained_path, explanations, module_for
from autograder.lessons.layout import course_root


@dataclass(frozen=True)
class Solved:
    """What there is to read about an exercise; whoever makes one has seen that it is solved."""

    library: str = ""  # a file, in the course folder
    explained: str = ""  # likewise
    why: str = ""  # what that file says of the exercise, as Markdown
    root: str = "."  # the course folder, as seen from the notebook

    @classmethod
    def of(cls, id: str) -> "Solved":
        """What there is in the course folder that the working directory lies in: in a handout, or outside of it, nothing."""
        try:
            root = course_root()
        except FileNotFoundError:
            return cls()
        library = module_for(root, id).replace(".", "/") + ".py"
        why = explanations(root, unit_of(id)).get(id, "")
        return cls(
            library if (root / library).is_file() else "",
            explained_path(unit_of(id)).as_posix() if why else "",
            why,
            Path(os.path.relpath(root)).as_posix(),
        )

    def __str__(self) -> str:
        """One line, or nothing."""
        library = f"compare with {self.library}" if self.library else ""
        explained = f"why it is so: {self.explained}" if self.explained else ""
        return "; ".join(filter(None, (library, explained)))

    def to_html(self) -> str:
        """A link that JupyterLab opens, and the explanation, which unfolds; nothing where there is nothing to read."""
        html = ""
        if self.library:
            html += f'<div>Compare with <a href="{self.root}/{self.library}">{self.library}</a></div>'
        if self.why:
            from nbconvert.filters.markdown import markdown2html  # leaves formulas to MathJax; comes with JupyterLab

            html += f"<details><summary>Why the solution is as it is</summary>{markdown2html(self.why)}</details>"
        return f'<div style="padding:2px 12px">{html}</div>' if html else ""
