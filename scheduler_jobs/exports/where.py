"""`--where`: a condition in SQL's words, parsed and then tried on each image. It is never run.

`clip_score > 0.3 and category = 'Animals'`: columns, text, numbers, comparisons, `in`, `between`,
`like`, `is null`, `and`, `or`, `not`. Scores are columns too, and `tag` stands for every tag of an
image: `tag = 'keep'` is true if one of them is, `tag <> 'keep'` if none is. A text beside a time is
read as a time. As in SQL, a comparison with a missing value is unknown, and only images whose
condition is true are taken. Trying it here rather than in the database gives the same answer on
SQLite and Postgres, whose JSON values compare in different ways.
"""

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import sqlglot
from sqlglot import expressions as sql
from sqlglot.errors import ParseError, SqlglotError

from imagemill.db.errors import UsageError
from imagemill.scheduler_jobs.exports.comparisons import flaws, idle_column, range_flaws

Values = Mapping[str, Any]
_Term = Callable[[Values], Any]

_COMPARISONS: Mapping[type[sql.Expr], Callable[[Any, Any], bool]] = MappingProxyType(
    {
        sql.EQ: operator.eq,
        sql.NEQ: operator.ne,
        sql.GT: operator.gt,
        sql.GTE: operator.ge,
        sql.LT: operator.lt,
        sql.LTE: operator.le,
    }
)
TAG = "tag"
"""The name that stands for each tag of an image."""

OWN_COLUMNS = "extras"
"""Before a name: a column of the manifest, also where a score or a column of ours hides it."""

_TRUTHS: Mapping[str, bool] = MappingProxyType(
    {"true": True, "false": False, "1": True, "0": False}
)
_SHOWN_CHARACTERS = 40

_TIMES = frozenset({"created_at"})
"""Columns of ours that hold a time."""

_ALLOWED = "columns, text, numbers, =, <>, <, <=, >, >=, in, between, like, is null, and, or, not"


class Condition:
    """A parsed condition.

    `columns` are the names that it asks for. `operands` are those of them that stand where a value
    is usual, as `calm` in `mood = calm`: likely texts whose single quotes were forgotten.
    """

    def __init__(self, text: str) -> None:
        """A `UsageError` says what can't be read, or what is not allowed."""
        self._text = text
        try:
            parsed = sqlglot.parse_one(text, read="postgres")
            self.columns = frozenset(_name(column) for column in parsed.find_all(sql.Column))
            self.operands = frozenset(_name(column) for column in _operands(parsed))
            self._holds = self._compiled(parsed)
        except SqlglotError as error:
            raise UsageError(f"--where {text!r}: {_unread(text, error)}") from None
        except RecursionError:
            raise UsageError(f"--where {text[:60]!r}…: too deeply nested") from None

    def holds(self, values: Values) -> bool:
        """Whether it is true of an image's values; unknown counts as no."""
        return self._holds(values) is True

    def _compiled(self, node: sql.Expr) -> _Term:
        """A function that gives True, False, or None for unknown."""
        compiler = _COMPILERS.get(type(node))
        if compiler is None:
            raise self._refused(node)
        term = compiler(self, node)
        # sqlglot says `x not like y` by a mark on the node, and `x not in (y)` by a node around it.
        return _inverted(term) if node.args.get("negate") else term

    def _logic(self, node: Any) -> _Term:
        terms = self._compiled(node.left), self._compiled(node.right)
        return _all_of(terms) if isinstance(node, sql.And) else _one_of(terms)

    def _is_null(self, node: Any) -> _Term:
        if not isinstance(node.expression, sql.Null):
            raise self._refused(node)
        term = self._term(node.this)
        return lambda values: term(values) in (None, ())

    def _in(self, node: Any) -> _Term:
        if not node.expressions:
            raise self._refused(node)
        return _one_of([self._compared(sql.EQ, node.this, each) for each in node.expressions])

    def _between(self, node: Any) -> _Term:
        self._raise_first(range_flaws(node.args["low"], node.args["high"]))
        low = self._compared(sql.GTE, node.this, node.args["low"])
        return _all_of([low, self._compared(sql.LTE, node.this, node.args["high"])])

    def _compared(self, kind: type[sql.Expr], left: Any, right: Any) -> _Term:
        self._raise_first(flaws(kind, left, right))
        one, other = self._operand(left, beside=right), self._operand(right, beside=left)
        compare = _COMPARISONS[kind]

        def holds(values: Values) -> bool | None:
            return _compare(compare, one(values), other(values))

        if kind is sql.NEQ:  # of several values none may be equal
            compare = operator.eq
            return _inverted(holds)
        return holds

    def _truth(self, node: Any) -> _Term:
        """A column that is a condition itself: true or false, in a CSV as a text."""
        if (flaw := idle_column(node)) is not None:
            raise self._flawed(flaw)
        term = self._term(node)

        def holds(values: Values) -> bool | None:
            value = term(values)
            truth = value if value is None else _as_truth(value)
            if truth is None and value not in (None, ""):
                found = str(value)[:_SHOWN_CHARACTERS]
                raise self._flawed(f"{_name(node)} is {found!r}, which is not true or false")
            return truth

        return holds

    def _like(self, node: sql.Like | sql.ILike) -> _Term:
        term = self._term(node.this)
        if not isinstance(node.expression, sql.Literal) or not node.expression.is_string:
            raise self._refused(node)
        parts = re.split(r"([%_])", node.expression.this)
        form = "".join({"%": ".*", "_": "."}.get(part, re.escape(part)) for part in parts)
        flags = re.DOTALL | (re.IGNORECASE if isinstance(node, sql.ILike) else 0)
        pattern = re.compile(form, flags)

        def holds(values: Values) -> bool | None:
            value = term(values)
            if isinstance(value, tuple):
                return any(pattern.fullmatch(each) is not None for each in value)
            return None if value is None else pattern.fullmatch(str(value)) is not None

        return holds

    def _operand(self, node: sql.Expr, *, beside: sql.Expr) -> _Term:
        """The term of one side of a comparison; beside a time, a text must be a time."""
        beside = beside.unnest()
        if not isinstance(beside, sql.Column) or beside.table or _name(beside) not in _TIMES:
            return self._term(node)
        found = node.unnest()
        if not isinstance(found, sql.Literal):
            return self._term(node)
        time = _as_time(found.this) if found.is_string else None
        if time is None:
            raise UsageError(
                f"--where {self._text!r}: {_name(beside)} is a time, and {found.this!r} is none; "
                "write '2026-12-24' or '2026-12-24T18:00' (UTC)"
            )
        return lambda _: time

    def _term(self, node: sql.Expr) -> _Term:
        """A function that gives the value of a column or a literal."""
        node = node.unnest()
        if isinstance(node, sql.Column):
            name = _name(node)
            if node.table not in {"", OWN_COLUMNS} or node.db:
                raise self._refused(node)  # `meta.seed` is not our `seed`
            if node.table != OWN_COLUMNS:
                return lambda values: values.get(name)
            own = f"{OWN_COLUMNS}.{name}"
            return lambda values: values[own] if own in values else values.get(name)
        value = self._literal(node)
        return lambda _: value

    def _literal(self, node: sql.Expr) -> Any:
        if isinstance(node, sql.Neg) and isinstance(node.this, sql.Literal):
            node, sign = node.this, -1
        else:
            sign = 1
        if isinstance(node, sql.Literal) and not node.is_string:
            return sign * _number(node.this)
        if isinstance(node, sql.Literal) and sign == 1:
            return node.this
        if isinstance(node, sql.Boolean):
            return bool(node.this)
        if isinstance(node, sql.Null):
            return None
        raise self._refused(node)

    def _raise_first(self, found: Iterator[str]) -> None:
        if (flaw := next(found, None)) is not None:
            raise self._flawed(flaw)

    def _flawed(self, flaw: str) -> UsageError:
        return UsageError(f"--where {self._text!r}: {flaw}")

    def _refused(self, node: sql.Expr) -> UsageError:
        return UsageError(
            f"--where {self._text!r}: can't use {node.sql()[:60]!r}; allowed are {_ALLOWED}"
        )


def _name(column: sql.Column) -> str:
    """A column's name as it stands; `extras.mood` is the manifest's own column `mood`."""
    return str(column.this.name)


def _operands(parsed: sql.Expr) -> list[sql.Column]:
    """The columns on the right of a comparison or in the list of an `in`."""
    found = [node.expression for node in parsed.find_all(*_COMPARISONS)]
    found += [each for node in parsed.find_all(sql.In) for each in node.expressions]
    return [node.unnest() for node in found if isinstance(node.unnest(), sql.Column)]


def _unread(text: str, error: SqlglotError) -> str:
    """Why a text is no condition, in our words: the parser's own name its classes."""
    if not text.strip():
        return "an empty condition; such as \"steps > 20 and mood = 'calm'\""
    found = error.errors[0] if isinstance(error, ParseError) and error.errors else {}
    word, column = found.get("highlight"), found.get("col")
    where = f"can't be read at {word!r} (character {column})" if word else "has an open quote"
    return f"{where}; a text stands in single quotes, a column that is a word of SQL in double ones"


def _number(text: str) -> int | float:
    return int(text) if text.isdecimal() else float(text)


def _compare(compare: Callable[[Any, Any], bool], one: Any, other: Any) -> bool | None:
    """The comparison of two values; of several values, whether it holds for one of them."""
    if isinstance(one, tuple):
        return any(_compare(compare, each, other) for each in one)
    if isinstance(other, tuple):
        return any(_compare(compare, one, each) for each in other)
    pair = _alike(one, other)
    return None if pair is None else compare(*pair)


def _alike(one: Any, other: Any) -> tuple[Any, Any] | None:
    """Both values in one type, None where that can't be: a CSV's numbers are texts."""
    if one is None or other is None:
        return None
    if isinstance(one, datetime) or isinstance(other, datetime):
        one, other = _as_time(one), _as_time(other)
        return None if one is None or other is None else (one, other)
    if isinstance(one, bool) != isinstance(other, bool) and str in (type(one), type(other)):
        one, other = _as_truth(one), _as_truth(other)
        return None if one is None or other is None else (one, other)
    if isinstance(one, str) != isinstance(other, str):
        one, other = _as_number(one), _as_number(other)
        return None if one is None or other is None else (one, other)
    if isinstance(one, dict | list) or isinstance(other, dict | list):
        return None
    return one, other


def _as_truth(value: Any) -> bool | None:
    """A truth value, or the text of one as a CSV has it; 1 and 0 are such, too."""
    if isinstance(value, str):
        return _TRUTHS.get(value.strip().casefold())
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


def _as_number(value: Any) -> float | int | None:
    if isinstance(value, bool | int | float):
        return value
    try:
        return int(value) if value.lstrip("-").isdecimal() else float(value)
    except (ValueError, AttributeError):
        return None


def _as_time(value: Any) -> datetime | None:
    """A time, or a text of ISO 8601 as one; without a zone it is in UTC."""
    try:
        time = datetime.fromisoformat(value.strip()) if isinstance(value, str) else value
    except ValueError:
        return None
    if not isinstance(time, datetime):
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _all_of(terms: Sequence[_Term]) -> _Term:
    def holds(values: Values) -> bool | None:
        unknown = False
        for term in terms:
            found = term(values)
            if found is None:
                unknown = True
            elif not found:
                return False
        return None if unknown else True

    return holds


def _one_of(terms: Sequence[_Term]) -> _Term:
    return _inverted(_all_of([_inverted(term) for term in terms]))


def _inverted(term: _Term) -> _Term:
    def holds(values: Values) -> bool | None:
        found = term(values)
        return None if found is None else not found

    return holds


_COMPILERS: Mapping[type[sql.Expr], Callable[[Condition, Any], _Term]] = MappingProxyType(
    {
        sql.And: Condition._logic,
        sql.Or: Condition._logic,
        sql.Not: lambda self, node: _inverted(self._compiled(node.this)),
        sql.Paren: lambda self, node: self._compiled(node.this),
        sql.Is: Condition._is_null,
        sql.In: Condition._in,
        sql.Between: Condition._between,
        sql.Like: Condition._like,
        sql.ILike: Condition._like,
        sql.Boolean: Condition._term,
        sql.Column: Condition._truth,
        **{
            kind: lambda self, node: self._compared(type(node), node.this, node.expression)
            for kind in _COMPARISONS
        },
    }
)
"""What a condition may hold, and how each is tried."""
