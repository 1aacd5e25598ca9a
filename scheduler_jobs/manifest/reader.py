"""Reading a manifest: from a source to its rows and problems."""

import contextlib
from collections.abc import Iterator, Mapping

from imagemill.scheduler_jobs.manifest.columns import check_mapping
from imagemill.scheduler_jobs.manifest.delimited import read_csv, read_tsv
from imagemill.scheduler_jobs.manifest.formats import Format, detect
from imagemill.scheduler_jobs.manifest.json_rows import read_json_array, read_json_lines
from imagemill.scheduler_jobs.manifest.limits import Limits
from imagemill.scheduler_jobs.manifest.lines import read_lines, unpacked
from imagemill.scheduler_jobs.manifest.parameters import Parameters
from imagemill.scheduler_jobs.manifest.parquet import read_parquet, spooled
from imagemill.scheduler_jobs.manifest.problems import Broken, Problem
from imagemill.scheduler_jobs.manifest.raw import BadRow, RawRow
from imagemill.scheduler_jobs.manifest.rows import ManifestRow, RowReader
from imagemill.scheduler_jobs.manifest.source import Source
from imagemill.scheduler_jobs.manifest.text import read_text

_HEAD_BYTES = 1 << 16


def read_manifest(
    source: Source,
    *,
    columns: Mapping[str, str] | None = None,
    limits: Limits,
    format: str | None = None,
    defaults: Parameters | None = None,
    literal_words: bool = False,
) -> Iterator[ManifestRow | Problem]:
    """Every row of a manifest in order, or its problems, as a stream.

    A bad row yields a problem for each of its bad columns and reading goes on. What makes the
    rest unreadable (broken gzip, a wrong header, …) is yielded last, and ends the iteration;
    nothing but `OSError` of the source itself is raised.

    Args:
        source: where the bytes are; opened anew by every call.
        columns: `--map`: column to field, before the names that are known.
        limits: what a row and the file may ask for.
        format: `--format`, one of `FORMATS`; found out if None.
        literal_words: whether `nan`, `None` and their like are texts, not missing ones.
        defaults: the layers under the rows, for checks that need both (pixels, seed + samples).
    """
    try:
        yield from _rows(
            source,
            columns or {},
            limits,
            format,
            defaults or Parameters(),
            literal_words=literal_words,
        )
    except Broken as broken:
        yield Problem(
            file=source.name,
            line=broken.line,
            column=broken.column,
            found=broken.found,
            allowed=broken.allowed,
        )


def _rows(
    source: Source,
    mapping: Mapping[str, str],
    limits: Limits,
    wanted: str | None,
    defaults: Parameters,
    *,
    literal_words: bool,
) -> Iterator[ManifestRow | Problem]:
    check_mapping(mapping)
    kind = _detect(source, mapping, wanted)
    reader = RowReader(
        file=source.name,
        mapping=mapping,
        limits=limits,
        defaults=defaults,
        blank_is_unset=kind in {"csv", "tsv"},
        nan_is_null=kind == "parquet",
        literal_words=literal_words,
    )
    number = 0
    with contextlib.ExitStack() as stack:
        for raw in _raw_rows(kind, stack, source, reader, limits):
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


def _detect(source: Source, mapping: Mapping[str, str], wanted: str | None) -> Format:
    with source.open() as stream:
        # read1: what can be read of a truncated file is enough to know it by.
        head = unpacked(stream).read1(_HEAD_BYTES)
    if not head:
        raise Broken("an empty file", "at least one row")
    return detect(head, source.suffixes, mapping=mapping, wanted=wanted)


def _raw_rows(
    kind: Format,
    stack: contextlib.ExitStack,
    source: Source,
    reader: RowReader,
    limits: Limits,
) -> Iterator[RawRow | BadRow]:
    stream = unpacked(stack.enter_context(source.open()))
    stack.callback(stream.close)
    most = limits.max_line_bytes
    if kind == "parquet":
        file = stream if stream.seekable() else stack.enter_context(spooled(stream))
        return read_parquet(file, check_header=reader.check_header, max_line_bytes=most)
    if kind == "json":
        return read_json_array(stream, max_line_bytes=most)
    lines = read_lines(stream, max_line_bytes=most)
    if kind == "csv":
        return read_csv(lines, check_header=reader.check_header, max_line_bytes=most)
    if kind == "tsv":
        return read_tsv(lines, check_header=reader.check_header)
    return read_json_lines(lines) if kind == "jsonl" else read_text(lines)
