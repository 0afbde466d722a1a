"""Used by mkdocs: puts the ``>>>`` examples of docstrings into fences, which Markdown asks for."""

from typing import Any

import griffe


class ExamplesInFences(griffe.Extension):
    """Loaded by mkdocs.yml."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text, with every run of lines that begins with ``>>>`` in a fence."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if not inside and line.startswith(">>> "):
            inside = True
            lines.append("```pycon")
        elif inside and not line.strip():
            inside = False
            lines.append("```")
        lines.append(line)
    if inside:
        lines.append("```")
    return "\n".join(lines)
