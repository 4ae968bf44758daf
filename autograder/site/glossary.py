"""The glossary: each of its terms is linked where a unit first uses it, when pages are made; lessons stay as they are."""

import re
from collections.abc import Callable
from pathlib import Path

_FENCE = re.compile(r"^:::\{glossary\}.*?\n(.*?)^:::", re.DOTALL | re.MULTILINE)
# what is no running text: code, formulas, links and what they lead to, HTML, headings, targets
APART = r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$|!?\[[^\]\n]*\]\([^)\n]*\)|<[^>\n]+>|^#+ [^\n]*$|^\([\w.]+\)=$"


class Glossary:
    """The terms that docs/glossary.md defines."""

    def __init__(self, path: Path) -> None:
        """Read them.

        Args:
            path: of the glossary, Markdown with a `:::{glossary}` for each group of terms.
        """
        parts = _FENCE.findall(path.read_text(encoding="utf-8"))
        self.terms = [line.strip() for part in parts for line in part.splitlines() if line[:1].strip()]

    def linker(self) -> Callable[[str], str]:
        """What links terms in a page's Markdown, piece after piece in order: each term once, where it is met first."""
        by_name = {term.lower(): term for term in self.terms}
        names = "|".join(re.escape(name) for name in sorted(by_name, key=len, reverse=True))
        words = rf"(?<![\w:-])(?P<term>{names})(?:e?s)?(?![\w:-])"
        pattern = re.compile(rf"(?P<apart>{APART})|{words}", re.DOTALL | re.MULTILINE | re.IGNORECASE)
        left = set(by_name)

        def place(match: re.Match) -> str:
            name = (match["term"] or "").lower()
            if match["apart"] or name not in left:
                return match[0]
            left.remove(name)
            return f"{{term}}`{match[0]} <{by_name[name]}>`"

        return lambda text: pattern.sub(place, text)
