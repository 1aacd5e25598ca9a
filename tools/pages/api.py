"""The page of the Python interface, written from the docstrings behind `import imagemill`."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import imagemill
from imagemill.images import Images, NewImages
from imagemill.rows import Rows

RETURNED = {"Images": Images, "NewImages": NewImages, "Rows": Rows}
"""Classes whose objects come from methods; nobody makes them by name."""

_HEAD = """# The Python interface

Written by `python -m tools.pages` from the docstrings of `imagemill`; a test holds that it is \
current. [python.md](python.md) shows how it is used.

Names below `imagemill.` are all that is promised: other modules may change with any version.
"""

_NOT_MEANT = {"elsewhere", "again"}
"""Public for the package's own modules."""

_SECTIONS = ("Args:", "Raises:")


def page() -> str:
    """The text of docs/api.md."""
    public = {f"imagemill.{name}": getattr(imagemill, name) for name in imagemill.__all__}
    functions = {name: each for name, each in public.items() if not inspect.isclass(each)}
    classes = {name: each for name, each in public.items() if inspect.isclass(each)} | RETURNED
    parts = [_HEAD, *(_function(name, each) for name, each in sorted(functions.items()))]
    return "\n".join([*parts, *(_class(name, each) for name, each in sorted(classes.items()))])


def _function(name: str, function: Any, *, level: str = "##") -> str:
    shown = _signature(name.rpartition(".")[2], function)
    return f"{level} `{name}`\n\n```python\n{shown}\n```\n\n{prose(inspect.getdoc(function) or '')}"


def _class(name: str, cls: type) -> str:
    parts = [f"## `{name}`\n\n{prose(inspect.getdoc(cls) or '')}"]
    for member, value in sorted(_members(cls)):
        if isinstance(value, property):
            what = f"### `{name.rpartition('.')[2]}.{member}`\n\n"
            parts.append(f"{what}{prose(inspect.getdoc(value) or '')}")
        else:
            parts.append(_function(f"{name.rpartition('.')[2]}.{member}", value, level="###"))
    return "\n".join(parts)


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that the class itself defines and describes."""
    for name, value in vars(cls).items():
        function = value.__func__ if isinstance(value, classmethod) else value
        if isinstance(value, classmethod) or name in _NOT_MEANT or name.startswith("_"):
            continue
        if isinstance(function, property) or inspect.isfunction(function):
            yield name, value


def _signature(name: str, function: Any) -> str:
    """A `def` line; over several lines where it does not fit into 100 columns."""
    signature = inspect.signature(function)
    given: list[str] = []
    for each in signature.parameters.values():
        if each.kind == each.KEYWORD_ONLY and "*" not in given:
            given.append("*")
        if each.name != "self":
            given.append(_plain(str(each)))
    returns = signature.return_annotation
    answer = _plain(inspect.formatannotation(returns)) if returns is not None else "None"
    line = f"def {name}({', '.join(given)}) -> {answer}"
    if len(line) <= 100:
        return line
    rows = "".join(f"    {each},\n" for each in given)
    return f"def {name}(\n{rows}) -> {answer}"


def _plain(annotation: str) -> str:
    """Types by their last names, and enumerations by what a caller writes."""
    text = re.sub(r"<Outcome\.\w+: '(\w+)'>", r'"\1"', annotation)
    text = re.sub(r"\b(?:[a-zA-Z_]\w*\.)+([A-Z]\w*)\b", r"\1", text)
    # A name in quotes is a type that is imported late; another text is a default.
    return re.sub(r"'([A-Z]\w*)'", r"\1", text).replace("'", '"')


def prose(doc: str) -> str:
    """A docstring as Markdown: its examples as blocks of code, arguments and errors as lists."""
    out: list[str] = []
    for part in re.split(r"\n\n+", doc):
        head, _, rest = part.partition("\n")
        if head in _SECTIONS:
            out += [f"*{head[:-1]}*", *_entries(textwrap.dedent(rest))]
        elif all(line.startswith("    ") for line in part.splitlines()):
            out.append(f"```python\n{textwrap.dedent(part)}\n```")
        else:
            out.append(" ".join(part.split()))
    return "\n\n".join(out) + "\n" if out else ""


def _entries(text: str) -> list[str]:
    """The lines `name: meaning` of a section, as a list; further lines of one are indented."""
    joined = re.sub(r"\n +", " ", text)
    entries = (line.partition(": ") for line in joined.splitlines())
    return ["\n".join(f"- `{name}`: {meaning}" for name, _, meaning in entries)]
