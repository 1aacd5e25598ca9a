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

NAMESPACE = "urn:imagemill:record:1#"

_APP1 = b"\xff\xe1"
_STANDARD = b"http://ns.adobe.com/xap/1.0/\0"
_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
_SEGMENT_BYTES = 65_000
"""The most bytes in one segment: 65,533 less the headers, rounded down."""

_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{description}</rdf:RDF>'
    '</x:xmpmeta><?xpacket end="r"?>'
)
_RECORD = (
    f'<rdf:Description rdf:about="" xmlns:imagemill="{NAMESPACE}">'
    "<imagemill:record>{record}</imagemill:record></rdf:Description>"
)
_POINTER = (
    '<rdf:Description rdf:about="" xmlns:xmpNote="http://ns.adobe.com/xmp/note/">'
    "<xmpNote:HasExtendedXMP>{guid}</xmpNote:HasExtendedXMP></rdf:Description>"
)
_FOUND = re.compile(rb"<imagemill:record>([^<]*)</imagemill:record>")


def packet(record: str) -> bytes:
    """An XMP packet with the text of a record in the property `imagemill:record`."""
    return _packet(_RECORD.format(record=html.escape(record, quote=False)))


def jpeg_segments(record: str) -> bytes:
    """The APP1 segments of a JPEG that hold a record: one, or several of extended XMP."""
    whole = packet(record)
    if len(whole) <= _SEGMENT_BYTES:
        return _segment(_STANDARD + whole)
    guid = hashlib.md5(whole, usedforsecurity=False).hexdigest().upper()
    segments = [_segment(_STANDARD + _packet(_POINTER.format(guid=guid)))]
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


def _packet(description: str) -> bytes:
    return _PACKET.format(description=description).encode()


def _segment(data: bytes) -> bytes:
    return _APP1 + struct.pack(">H", 2 + len(data)) + data
