"""Regular expressions of the product work on every Python from 3.11.0 on."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.helpers.places import ROOT
from tests.unit.test_code_sizes import MODULES

FUNCTIONS = {"compile", "match", "fullmatch", "search", "split", "sub", "subn", "findall"}
FUNCTIONS |= {"finditer"}


def expressions(source: str) -> Iterator[str]:
    """The fixed texts of every pattern that a module gives to `re`."""
    if not re.search(r"^\s*import re$", source, re.MULTILINE):
        return
    tree = ast.parse(source)
    named = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name("re"), attr=name), args=[pattern, *_]):
                if name in FUNCTIONS:
                    yield "".join(texts(pattern, named))


def texts(pattern: ast.AST, named: dict[str, ast.expr]) -> Iterator[str]:
    for node in ast.walk(pattern):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Name) and node.id in named:
            yield from texts(named[node.id], {})


def takes_without_giving_back(expression: str) -> bool:
    """Whether it has a possessive quantifier or an atomic group, broken before Python 3.11.5."""
    bare = re.sub(r"\\.", "x", expression, flags=re.DOTALL)
    bare = re.sub(r"\[\^?\]?[^\]]*\]", "x", bare)
    return re.search(r"[*+?}]\+|\(\?>", bare) is not None


def test_no_expression_needs_a_later_python() -> None:
    found = [
        f"{module.relative_to(ROOT)}: {expression}"
        for module in MODULES
        for expression in expressions(module.read_text("utf-8"))
        if takes_without_giving_back(expression)
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        r"""re.compile(r'(?:[^"]++|a)*')""",
        r"""re.match(r'a*+', text)""",
        r"""re.compile(f'(?>{word})')""",
        "WORD = 'a{1,2}+'\nre.sub(WORD, '', text)",
    ],
)
def test_the_search_finds_them(code) -> None:
    assert any(map(takes_without_giving_back, expressions(f"import re\n{code}")))


@pytest.mark.parametrize("expression", [r"C\+\+", r"[*+]+", r"a+", r"\*+", r"(?:a)+?"])
def test_the_search_lets_others_pass(expression) -> None:
    assert not takes_without_giving_back(expression)
