"""Say in a compilation's report.html that its engine was built again since."""

from __future__ import annotations

import re
from pathlib import Path

from castline.compiler.report.outcome import BuildOutcome
from castline.compiler.report.page import PAGE, environment

_SECTION = re.compile(r'<section class="warning rebuilt".*?</section>\n', re.DOTALL)
_BEFORE = "</header>\n"


def note_rebuilt(folder: Path, outcome: BuildOutcome) -> None:
    """Put into `folder`/report.html, below its heading, what engine there is now.

    It takes the place of what an earlier build put there; the rest of the page tells of the
    compilation and stays. A folder without the page gets none, and so does a page of another
    origin, which has no heading as ours. The file becomes a new one on the disk: it may be the very
    file of another folder.
    """
    page = folder / PAGE
    if not page.is_file():
        return
    text = _SECTION.sub("", page.read_text(encoding="utf-8"))
    heading, end, rest = text.partition(_BEFORE)
    if not end:
        return
    section = environment().get_template("rebuilt.html").render(outcome=outcome)
    page.unlink()
    page.write_text(f"{heading}{end}{section}\n{rest}", encoding="utf-8", newline="\n")
