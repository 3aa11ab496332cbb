"""README.md and the pages of docs/, as other tests read them. What programs write there is left out."""

import re
from pathlib import Path

from tests.paths import ROOT

WRITTEN = ("RESULTS.md", "LICENCES.md")  # by make results and make licences
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if path.name not in WRITTEN
}


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page, such as "docs/data.md", in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Return the lines of all bash blocks, each once."""
    return [*dict.fromkeys(line for page in PAGES for block in blocks(page, "bash") for line in block.splitlines())]


def prose(page: str) -> str:
    """Return a page without its code blocks."""
    return re.sub(r"^```.*?^```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)


def in_code(page: str) -> list[str]:
    """Return what stands in `code` in a page's prose."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def links(page: str) -> list[tuple[Path, str]]:
    """Return file and heading of each relative link and picture of a page."""
    targets = re.findall(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"", PAGES[page])
    found = []
    for target in (one or other for one, other in targets):
        if not re.match(r"[a-z]+:", target):
            file, _, heading = target.partition("#")
            found.append(((ROOT / page).parent / file if file else ROOT / page, heading))
    return found


def headings(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
