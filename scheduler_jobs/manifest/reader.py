"""Reads a manifest: from a source to its rows and problems."""

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace

from imagemill.scheduler_jobs.manifest.columns.column_report import ColumnReports
from imagemill.scheduler_jobs.manifest.columns.layout import check_mapping
from imagemill.scheduler_jobs.manifest.formats.delimited import read_table
from imagemill.scheduler_jobs.manifest.formats.detection import Format, detect
from imagemill.scheduler_jobs.manifest.formats.dialects import (
    Dialect,
    find_dialect,
    has_quoted_cells,
)
from imagemill.scheduler_jobs.manifest.formats.json_rows import (
    read_json_array,
    read_json_lines,
    read_json_object,
    read_one_object,
)
from imagemill.scheduler_jobs.manifest.formats.json_shapes import check_shape, is_one_row
from imagemill.scheduler_jobs.manifest.formats.kohya_toml import read_kohya_toml
from imagemill.scheduler_jobs.manifest.formats.prompts.prompt_file import read_prompt_file
from imagemill.scheduler_jobs.manifest.formats.prompts.text import read_text
from imagemill.scheduler_jobs.manifest.limits import Limits
from imagemill.scheduler_jobs.manifest.parameters import Parameters
from imagemill.scheduler_jobs.manifest.problems import Broken, Problem, shown
from imagemill.scheduler_jobs.manifest.raw_rows import BadRow, RawRow
from imagemill.scheduler_jobs.manifest.rows import ManifestRow, RowReader, RowRules
from imagemill.scheduler_jobs.manifest.sources.compression import unpacked
from imagemill.scheduler_jobs.manifest.sources.lines import read_lines
from imagemill.scheduler_jobs.manifest.sources.source import Source

_HEAD_BYTES = 1 << 16


def read_manifest(
    source: Source,
    *,
    columns: Mapping[str, str] | None = None,
    limits: Limits,
    format: str | None = None,
    defaults: Parameters | None = None,
    literal_words: bool = False,
    reports: ColumnReports | None = None,
) -> Iterator[ManifestRow | Problem]:
    """Every row of a manifest in order, or its problems, as a stream.

    The rows of several files are counted on from one file to the next; a problem names the file
    and the row in it.

    A bad row yields a problem for each of its bad columns, and reading goes on. An error that makes
    the rest unreadable (broken compression, a wrong header, …) is yielded last and ends the
    iteration. Only an `OSError` of the source itself is raised.

    Args:
        source: the bytes; every call opens them anew.
        columns: `--map`, column to field. It wins over the known names.
        limits: the limits of a row and of the file.
        format: `--format`, one of `FORMATS`; None means that the content decides.
        literal_words: whether `nan`, `None` and similar words are texts, not missing values.
        reports: gets what becomes of every column.
        defaults: the layers below the rows, for checks that need both (pixels, seed + samples).
    """
    before = last = 0
    for file in source.files:
        before, last = before + last, 0
        rules = RowRules(
            columns=columns or {},
            limits=replace(limits, max_rows=limits.max_rows - before),
            defaults=defaults or Parameters(),
            literal_words=literal_words,
        )
        try:
            for found in _rows(file, rules, format, reports or ColumnReports()):
                last = found.number if isinstance(found, ManifestRow) else found.row or last
                if before and isinstance(found, ManifestRow):
                    yield replace(found, number=before + found.number)
                else:
                    yield found
        except Broken as broken:
            yield Problem(
                file=file.name,
                line=broken.line,
                column=broken.column,
                found=broken.found,
                allowed=broken.allowed,
            )


def _rows(
    source: Source, rules: RowRules, wanted: str | None, reports: ColumnReports
) -> Iterator[ManifestRow | Problem]:
    """The rows of one file; `wanted` is its format, if the caller says so."""
    check_mapping(rules.columns)
    if source.whole:
        yield from _whole_file(source, rules, reports)
        return
    limits = rules.limits
    head = _head(source)
    kind = detect(head, source.suffixes, mapping=rules.columns, wanted=wanted)
    beginning = head.decode("utf-8", errors="replace").lstrip("\ufeff")
    dialect = _dialect(kind, source, beginning, rules)
    reader = RowReader(file=source.name, kind=kind, rules=rules, reports=reports)
    if source.part is not None and kind != "xlsx":
        raise Broken(f"a part {shown(source.part)} of a file without parts", "the file alone")
    number = 0
    with _opened(source) as stream:
        for raw in (
            _rows_from_the_end(kind, source, stream, reader)
            if kind in {"parquet", "arrow", "xlsx"}
            else _raw_rows(kind, dialect, beginning, stream, reader)
        ):
            number = raw.number
            if number > limits.max_rows:
                raise Broken(
                    f"more than {limits.max_rows:,} rows",
                    f"at most {limits.max_rows:,} (IMAGEMILL_MAX_ROWS)",
                    line=raw.line or None,
                )
            yield from reader.read(raw)
    if not number:
        raise Broken("no rows, only blank lines", "at least one row")
    reader.check_mapping()


def _head(source: Source) -> bytes:
    with source.open() as stream:
        # read1 returns what can be read of a truncated file, which is enough to know its format.
        head = unpacked(stream).read1(_HEAD_BYTES)
    if not head:
        raise Broken("an empty file", "at least one row")
    return head


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[io.BufferedReader]:
    with contextlib.closing(unpacked(source.open())) as stream:
        yield stream


def _dialect(kind: Format, source: Source, beginning: str, rules: RowRules) -> Dialect:
    """How a table's lines are divided into cells. For other formats the result is not used."""
    if kind not in {"csv", "tsv"}:
        return Dialect(delimiter=",")
    dialect = find_dialect(beginning, "\t" if kind == "tsv" else ",", rules.columns)
    if dialect.delimiter != "\t":
        return dialect
    with _opened(source) as stream:
        # Quotes have a meaning in the whole file or nowhere, so every line is looked at.
        lines = read_lines(stream, max_line_bytes=rules.limits.max_line_bytes)
        quoted = has_quoted_cells(lines)
    return replace(dialect, quoted=quoted)


def _raw_rows(
    kind: Format,
    dialect: Dialect,
    beginning: str,
    stream: io.BufferedReader,
    reader: RowReader,
) -> Iterator[RawRow | BadRow]:
    most = reader.limits.max_line_bytes
    if kind == "json":
        return _json_rows(beginning, stream, most)
    if kind == "toml":
        return read_kohya_toml(stream, max_line_bytes=most)
    lines = read_lines(stream, max_line_bytes=most)
    if kind in {"csv", "tsv"}:
        return read_table(
            lines, dialect=dialect, check_header=reader.check_header, max_line_bytes=most
        )
    if kind == "jsonl":
        return read_json_lines(lines)
    return read_text(lines, beginning=beginning, max_line_bytes=most)


def _rows_from_the_end(
    kind: Format, source: Source, stream: io.BufferedReader, reader: RowReader
) -> Iterator[RawRow | BadRow]:
    """The rows of a file that is read from its end, and so has to seek.

    The readers are imported here: Arrow takes 0.15 s, which a CSV file need not wait for.
    """
    from imagemill.scheduler_jobs.manifest.formats.arrow.file import read_arrow  # noqa: PLC0415
    from imagemill.scheduler_jobs.manifest.formats.arrow.parquet import read_parquet, spooled  # noqa: PLC0415
    from imagemill.scheduler_jobs.manifest.formats.workbook import read_workbook  # noqa: PLC0415

    check, most = reader.check_header, reader.limits.max_line_bytes
    with contextlib.ExitStack() as stack:
        file = stream if stream.seekable() else stack.enter_context(spooled(stream))
        if kind == "parquet":
            yield from read_parquet(file, check_header=check, max_line_bytes=most)
        elif kind == "arrow":
            yield from read_arrow(file, check_header=check, max_line_bytes=most)
        else:
            yield from read_workbook(
                file, sheet=source.part, check_header=check, max_line_bytes=most
            )


def _whole_file(
    source: Source, rules: RowRules, reports: ColumnReports
) -> Iterator[ManifestRow | Problem]:
    """The one row of a file that is a prompt."""
    reader = RowReader(file=source.name, kind="text", rules=rules, reports=reports)
    if rules.limits.max_rows < 1:
        raise Broken("more rows than a manifest may have", "fewer (IMAGEMILL_MAX_ROWS)")
    with source.open() as stream:
        for raw in read_prompt_file(
            stream,
            path=source.path,
            check_header=reader.check_header,
            max_line_bytes=rules.limits.max_line_bytes,
        ):
            yield from reader.read(raw)


def _json_rows(beginning: str, stream: io.BufferedReader, most: int) -> Iterator[RawRow | BadRow]:
    if not beginning.lstrip().startswith("{"):
        return read_json_array(stream, max_line_bytes=most)
    check_shape(beginning)
    if is_one_row(beginning):
        return read_one_object(stream, max_line_bytes=most)
    return read_json_object(stream, max_line_bytes=most)
