"""Our record as XMP, for the file formats that have no text chunks.

The packet is written and searched as text, without an XML parser: a parser could be attacked with
expanding entities. A JPEG segment holds 64 KB, so a longer record is split into segments of
extended XMP. Source: Adobe's XMP specification, part 1 (packets) and part 3, section 1.1.3.1.
"""

import hashlib
import html
import re
import struct
from collections.abc import Iterable

from imagemill.db.provenance import MADE_BY_A_MACHINE, xmp_packet

NAMESPACE = "urn:imagemill:record:1#"

_APP1 = b"\xff\xe1"
_STANDARD = b"http://ns.adobe.com/xap/1.0/\0"
_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
_SEGMENT_BYTES = 65_000
"""The most bytes in one segment: 65,533 less the headers, rounded down."""

_RECORD = (
    f'<rdf:Description rdf:about="" xmlns:imagemill="{NAMESPACE}">'
    "<imagemill:record>{record}</imagemill:record></rdf:Description>"
)
_POINTER = (
    '<rdf:Description rdf:about="" xmlns:xmpNote="http://ns.adobe.com/xmp/note/">'
    "<xmpNote:HasExtendedXMP>{guid}</xmpNote:HasExtendedXMP></rdf:Description>"
)
_FOUND = re.compile(rb"<imagemill:record>([^<]*)</imagemill:record>")


def packet(record: str, *, source_type: bool) -> bytes:
    """An XMP packet with the text of a record in the property `imagemill:record`.

    With `source_type` it also says that a machine made the picture, as files do since version 2
    of the metadata.
    """
    described = _RECORD.format(record=html.escape(record, quote=False))
    return xmp_packet(*_source(source_type), described).encode()


def jpeg_segments(record: str, *, source_type: bool) -> bytes:
    """The APP1 segments of a JPEG that hold a record: one, or several of extended XMP.

    The source type stands in the first in any case: few readers know extended XMP.
    """
    whole = packet(record, source_type=source_type)
    if len(whole) <= _SEGMENT_BYTES:
        return _segment(_STANDARD + whole)
    guid = hashlib.md5(whole, usedforsecurity=False).hexdigest().upper()
    first = xmp_packet(*_source(source_type), _POINTER.format(guid=guid)).encode()
    segments = [_segment(_STANDARD + first)]
    for offset in range(0, len(whole), _SEGMENT_BYTES):
        head = guid.encode() + struct.pack(">II", len(whole), offset)
        segments.append(_segment(_EXTENSION + head + whole[offset : offset + _SEGMENT_BYTES]))
    return b"".join(segments)


def find_record(data: bytes) -> str | None:
    """The record's text in the bytes of a packet; None if there is none."""
    found = _FOUND.search(data)
    return html.unescape(found[1].decode("utf-8", "replace")) if found else None


def find_jpeg_record(segments: Iterable[bytes]) -> str | None:
    """The record's text in a JPEG's application segments; None if there is none.

    The segments come without marker and length. Those of extended XMP may be in any order; each
    carries its offset.
    """
    parts: dict[int, bytes] = {}
    packets = []
    for segment in segments:
        if segment.startswith(_EXTENSION):
            body = segment[len(_EXTENSION) + 32 :]
            if len(body) > 8:
                parts[struct.unpack(">I", body[4:8])[0]] = body[8:]
        elif segment.startswith(_STANDARD):
            packets.append(segment.removeprefix(_STANDARD))
    packets.append(b"".join(parts[offset] for offset in sorted(parts)))
    return next((record for record in map(find_record, packets) if record is not None), None)


def _source(source_type: bool) -> tuple[str, ...]:
    return (MADE_BY_A_MACHINE,) if source_type else ()


def _segment(data: bytes) -> bytes:
    return _APP1 + struct.pack(">H", 2 + len(data)) + data
