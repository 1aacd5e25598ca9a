"""How a picture file says that a machine made it: XMP with IPTC's digital source type.

Both sides write it: the worker into what it renders, exports into re-encoded copies.
Sources: IPTC Photo Metadata Standard 2023.1, "Digital Source Type"; Adobe's XMP specification,
part 1 (packets) and part 3 (where PNG keeps one).
"""

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""Created by a model that was trained on samples."""

PNG_XMP_KEY = "XML:com.adobe.xmp"
"""The keyword of the text chunk in which a PNG holds XMP."""

_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{descriptions}</rdf:RDF>'
    '</x:xmpmeta><?xpacket end="r"?>'
)
MADE_BY_A_MACHINE = (
    '<rdf:Description rdf:about=""'
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    f"<Iptc4xmpExt:DigitalSourceType>{SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>"
    "</rdf:Description>"
)
"""The description that says so, for a packet."""


def xmp_packet(*descriptions: str) -> str:
    """An XMP packet of descriptions, each an `rdf:Description`."""
    return _PACKET.format(descriptions="".join(descriptions))
