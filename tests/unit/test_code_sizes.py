"""How long a module and a function of the product may be, so that each can be read at once."""

import ast
from collections.abc import Iterator

from tests.helpers.places import ROOT

MODULE_LINES = 400
FUNCTION_LINES = 60
PARAMETERS = 7
REASON = "More than seven parameters:"
"""What a docstring says, with the reason after it, where a function takes more of them."""

_FOLDERS = ("db", "scheduler_jobs", "worker")
MODULES = sorted(
    path
    for path in [
        *ROOT.glob("imagemill/*.py"),
        *(p for f in _FOLDERS for p in (ROOT / f).rglob("*.py")),
    ]
    if "migrations" not in path.parts  # a table after another, in one function
)

_MAY_HOLD_FUNCTIONS = (ast.stmt, ast.excepthandler, ast.match_case)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST, owner: str = "") -> Iterator[tuple[Function, str]]:
    """Every function with the docstring that speaks of its parameters: a constructor's class's."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, _MAY_HOLD_FUNCTIONS):
            continue
        if isinstance(node, ast.ClassDef):
            yield from functions(node, ast.get_docstring(node, clean=False) or "")
        elif isinstance(node, Function):
            own = ast.get_docstring(node, clean=False) or ""
            yield node, owner if node.name == "__init__" else own
            yield from functions(node)
        else:
            yield from functions(node)


def parameters(function: Function) -> int:
    """How many parameters a caller sees. A command's are its options, which its help explains."""
    if any("click." in ast.unparse(decorator) for decorator in function.decorator_list):
        return 0
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return sum(name not in ("self", "cls") for name in names)


def oversized(text: str) -> Iterator[str]:
    """What of a module is too large to be read at once."""
    lines = text.count("\n")
    if lines > MODULE_LINES:
        yield f"{lines} lines: split it where its subject changes"
    for function, docstring in functions(ast.parse(text)):
        assert function.end_lineno is not None
        length = function.end_lineno - function.lineno + 1
        if length > FUNCTION_LINES:
            yield f"{function.name}: {length} lines"
        count = parameters(function)
        if count > PARAMETERS and REASON not in docstring:
            yield f"{function.name}: {count} parameters"


def test_every_module_and_its_functions_can_be_read_at_once() -> None:
    found = {module: list(oversized(module.read_text("utf-8"))) for module in MODULES}
    assert {str(module.relative_to(ROOT)): said for module, said in found.items() if said} == {}
    assert len(MODULES) > 150


def test_the_measure_sees_what_is_too_large() -> None:
    """A walk that found nothing would pass everything."""
    many = ", ".join(f"p{n}" for n in range(PARAMETERS + 1))
    source = f"class A:\n    def __init__(self, {many}): pass\n"
    source += f"@click.command()\ndef command({many}): pass\n"
    source += f"def reasoned({many}):\n    '{REASON} they make a record.'\n"
    source += "def long():\n" + "    pass\n" * FUNCTION_LINES
    assert list(oversized(source)) == [
        f"__init__: {PARAMETERS + 1} parameters",
        f"long: {FUNCTION_LINES + 1} lines",
    ]
    assert [len(list(oversized("\n" * (MODULE_LINES + more)))) for more in (0, 1)] == [0, 1]
