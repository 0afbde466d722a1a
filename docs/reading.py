"""Used by mkdocs: how docstrings and signatures are written becomes how they are to be read."""

from typing import Any

import griffe


class Reading(griffe.Extension):
    """Loaded by mkdocs.yml."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """``>>>`` examples go into fences, which Markdown asks for."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """What is awaited is shown as such, also if it is a generator by itself."""
        if any(str(decorator.value) == "types.coroutine" for decorator in func.decorators):
            func.labels.add("async")
            arguments = getattr(getattr(func.returns, "slice", None), "elements", [])
            func.returns = arguments[2] if len(arguments) > 2 else "None"


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
