"""kohya's sample prompts in TOML: a table `[prompt]`, and a row for each `[[prompt.subset]]`."""

import datetime
import json
import tomllib
from collections.abc import Iterator, Mapping
from io import BufferedReader
from typing import Any

from imagemill.db.utf8 import not_utf8
from imagemill.scheduler_jobs.manifest.problems import Broken, shown
from imagemill.scheduler_jobs.manifest.raw_rows import JSON, BadRow, RawRow, without_nan
from imagemill.scheduler_jobs.manifest.sources.lines import without_bom

_MOST_BYTES = 1 << 24
"""The largest file. TOML can't be read as a stream, and these are lists that people write."""

_PROMPT, _SUBSET = "prompt", "subset"
_SHAPE = "kohya's sample prompts: [prompt], and a [[prompt.subset]] for each row"


def read_kohya_toml(stream: BufferedReader, *, max_line_bytes: int) -> Iterator[RawRow | BadRow]:
    """A row for each subset. What a subset does not say comes from the table `[prompt]`.

    Raises:
        Broken: larger than 16 MiB, not UTF-8, not TOML, or not of this shape.
    """
    common, subsets = _tables(_document(stream))
    for number, subset in enumerate(subsets, start=1):
        cells: dict[str, JSON] = {
            name: _json(value) for name, value in {**common, **subset}.items()
        }
        verbatim = json.dumps(without_nan(cells), ensure_ascii=False)
        if len(verbatim) > max_line_bytes:
            yield BadRow(
                number=number,
                line=0,
                found=f"a row of more than {max_line_bytes:,} characters",
                allowed="a shorter one (IMAGEMILL_MAX_LINE_BYTES)",
            )
            continue
        yield RawRow(number=number, line=0, verbatim=verbatim, cells=cells)


def _document(stream: BufferedReader) -> dict[str, Any]:
    body = without_bom(stream.read(_MOST_BYTES + 1))
    if len(body) > _MOST_BYTES:
        raise Broken(f"a TOML file of more than {_MOST_BYTES:,} bytes", "a smaller one, or JSONL")
    try:
        return tomllib.loads(body.decode())
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise Broken(*not_utf8(error, line=line), line=line) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise Broken(f"not TOML: {shown(str(error))}", _SHAPE) from None
    except ValueError:  # an integer of thousands of digits
        raise Broken("a number of thousands of digits", "one of fewer digits") from None


def _tables(document: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """What stands in `[prompt]` for all rows, and the subsets."""
    prompt = document.get(_PROMPT)
    if not isinstance(prompt, dict) or len(document) > 1:
        keys = ", ".join(shown(key) for key in list(document)[:5])
        raise Broken(f"TOML with the keys {keys}" if keys else "TOML without keys", _SHAPE)
    subsets = prompt.get(_SUBSET)
    if not isinstance(subsets, list) or not all(isinstance(each, dict) for each in subsets):
        raise Broken("a table [prompt] without [[prompt.subset]]", _SHAPE)
    if not subsets:
        raise Broken("no [[prompt.subset]]", "at least one row")
    return {name: value for name, value in prompt.items() if name != _SUBSET}, subsets


def _json(value: Any) -> JSON:
    """A value of TOML as one of JSON: times become text in ISO 8601, as in Parquet."""
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list):
        return [_json(each) for each in value]
    if isinstance(value, dict):
        return {name: _json(each) for name, each in value.items()}
    result: JSON = value
    return result
