"""Face regions in an XMP packet: found, added and replaced; every other byte stays.

The packet is cut where the parser says an element begins and ends, so that whatever else it holds
(develop settings, names, keywords, somebody's formatting) cannot change. XML libraries would write
the whole packet anew, and Exiv2 translates other properties when it saves a sidecar.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from faceresnet.apps.tag.regions import Region, same, unmatched
from faceresnet.errors import DataError

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
MWG = "http://www.metadataworkinggroup.com/schemas/regions/"
DIMENSIONS = "http://ns.adobe.com/xap/1.0/sType/Dimensions#"
AREA = "http://ns.adobe.com/xmp/sType/Area#"
#: Marks regions written here, in the place that the guidelines keep for extensions.
OWN = "urn:faceresnet:region#"

#: Farthest that a side of a region may lie from where it was written, in parts of the picture:
#: programs that write the numbers anew round them.
ROUNDING = 1e-4

#: Between namespace and name in what the parser reports; no URI holds it.
_SEPARATOR = " "
_TAG = re.compile(rb"""<(?:[^>"']|"[^"]*"|'[^']*')*>""")

_NAMESPACES = (
    f'xmlns:rdf="{RDF}" xmlns:mwg-rs="{MWG}" xmlns:stDim="{DIMENSIONS}" '
    f'xmlns:stArea="{AREA}" xmlns:faceresnet="{OWN}"'
)


@dataclass
class _Span:
    """Where an element lies in the packet, and its plain values by the names on their way.

    `declared` are the prefixes of the namespaces that its own tag declares.
    """

    start: int
    end: int = 0
    last_tag: int = 0
    empty: bool = False
    collects: bool = False
    declared: frozenset[str] = frozenset()
    values: dict[tuple[str, ...], str] = field(default_factory=dict)


@dataclass
class _Layout:
    """The elements of a packet that matter here."""

    rdf: _Span | None = None
    about: str = ""
    regions: _Span | None = None
    bag: _Span | None = None
    items: list[_Span] = field(default_factory=list)
    namespaces: dict[str, str] = field(default_factory=dict)


def read_regions(packet: bytes | None) -> list[Region]:
    """Regions that a packet holds, in its order.

    Raises:
        DataError: the packet is no XMP in UTF-8, or its regions are in neither rdf:Bag nor rdf:Seq.
    """
    return [_region(item) for item in _parse(packet).items] if packet else []


def with_faces(
    packet: bytes | None,
    faces: Sequence[Region],
    size: tuple[int, int],
    *,
    inherited: bytes | None = None,
) -> bytes | None:
    """Put face regions into a packet.

    Regions that others wrote or changed stay as they are, and their faces are not written again;
    regions written here before are replaced.

    Args:
        packet: an XMP packet or sidecar; None makes a new one.
        faces: found in the photo.
        size: (height, width) px of the stored picture.
        inherited: a packet whose regions are taken over where `packet` has none: the photo's own,
            because programs that read a sidecar read nothing else then.

    Returns:
        The packet to be; the same bytes if there is nothing to change; None if there is neither
        a packet nor anything to write.

    Raises:
        DataError: a packet is no XMP in UTF-8, its regions were drawn on a picture of another
            shape, or they would not all be kept.
    """
    packet = packet or None
    layout = _parse(packet) if packet else _Layout()
    adopted = b""
    if layout.regions is None and inherited:
        layout_of_photo = _parse(inherited)
        _check_shape(layout_of_photo, size)
        items = [item for item in layout_of_photo.items if not _region(item).own]
        adopted = b"".join(_item(inherited, item, layout_of_photo) for item in items)
        there = [_region(item) for item in items]
    else:
        _check_shape(layout, size)
        there = [_region(item) for item in layout.items]
    own = [region for region in there if region.own]
    new = unmatched(faces, [region for region in there if not region.own])
    if same(own, new):
        return packet
    written = b"".join(_new_item(face) for face in new)
    if packet is None:
        after = _whole(_regions(adopted + written, size))
    elif layout.regions is None:
        after = _inserted(packet, layout, _regions(adopted + written, size))
    elif layout.bag is None or len(own) == len(there):
        place = layout.regions.start, layout.regions.end
        after = _cut(packet, [(*place, _regions(written, size))])
    else:
        after = _cut(packet, _edits(packet, layout, written))
    _check_result(after, [region for region in there if not region.own], len(new))
    return after


def _parse(packet: bytes) -> _Layout:
    """Find the elements of interest."""
    if b"\0" in packet:
        raise DataError("its XMP is not in UTF-8: let the program that wrote it write it anew")
    try:
        layout = _Reader(packet).read()
    except (expat.ExpatError, UnicodeError) as error:
        raise DataError(f"its XMP cannot be read ({error}): mend or remove it") from error
    if layout.rdf is None:
        raise DataError("its XMP holds no rdf:RDF: mend or remove it")
    return layout


class _Reader:
    """Follows expat through a packet and notes the elements of interest."""

    def __init__(self, packet: bytes) -> None:
        self._packet = packet
        self._layout = _Layout()
        self._path: list[tuple[str, _Span]] = []
        self._scope: dict[str, list[str]] = {}
        self._declared: list[str] = []
        self._parser = expat.ParserCreate(encoding="UTF-8", namespace_separator=_SEPARATOR)
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartNamespaceDeclHandler = self._declare
        self._parser.EndNamespaceDeclHandler = lambda prefix: self._scope[prefix or ""].pop()

    def read(self) -> _Layout:
        self._parser.Parse(self._packet, True)
        return self._layout

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        at = self._parser.CurrentByteIndex
        tag = _TAG.match(self._packet, at)
        empty = bool(tag and tag.group().endswith(b"/>"))
        span = _Span(at, empty=empty, declared=frozenset(self._declared))
        self._declared.clear()
        parent, parent_span = self._path[-1] if self._path else ("", None)
        self._path.append((name, span))
        layout = self._layout
        if name == _name(RDF, "RDF") and layout.rdf is None:
            layout.rdf = span
        elif name == _name(RDF, "Description") and parent == _name(RDF, "RDF"):
            about = attributes.get(_name(RDF, "about"), attributes.get("about", ""))
            layout.about = layout.about or about
        elif name == _name(MWG, "Regions") and layout.regions is None:
            layout.regions = span
            span.collects = True
        elif parent == _name(MWG, "RegionList") and layout.regions is not None:
            self._start_list(name, span)
        elif name == _name(RDF, "li") and parent_span is not None and parent_span is layout.bag:
            layout.items.append(span)
            span.collects = True
        for key, value in attributes.items():
            self._note(key, value)

    def _start_list(self, name: str, span: _Span) -> None:
        if name not in (_name(RDF, "Bag"), _name(RDF, "Seq")):
            raise DataError(
                "its list of face regions is neither rdf:Bag nor rdf:Seq: correct or remove it "
                "in the program that wrote it"
            )
        layout = self._layout
        if layout.bag is None:
            layout.bag = span
            layout.namespaces = {prefix: uris[-1] for prefix, uris in self._scope.items() if uris}

    def _note(self, key: str | None, value: str) -> None:
        """Keep a value with the item or the regions it belongs to."""
        steps = [step for step, _ in self._path] + ([key] if key else [])
        for depth in range(len(self._path) - 1, -1, -1):
            span = self._path[depth][1]
            if span.collects:
                below = steps[depth + 1 :]
                span.values[tuple(step for step in below if not step.startswith(RDF))] = value
                return

    def _text(self, content: str) -> None:
        if content.strip():
            self._note(None, content.strip())

    def _end(self, name: str) -> None:
        _, span = self._path.pop()
        span.last_tag = span.start if span.empty else self._parser.CurrentByteIndex
        tag = _TAG.match(self._packet, span.last_tag)
        span.end = tag.end() if tag else span.last_tag

    def _declare(self, prefix: str | None, uri: str | None) -> None:
        self._scope.setdefault(prefix or "", []).append(uri or "")
        self._declared.append(prefix or "")


def _name(namespace: str, local: str) -> str:
    return f"{namespace}{_SEPARATOR}{local}"


def _region(item: _Span) -> Region:
    """What an item says."""

    def value(*path: tuple[str, str]) -> str:
        return item.values.get(tuple(_name(*step) for step in path), "")

    name = value((MWG, "Name"))
    try:
        x, y, w, h = (float(value((MWG, "Area"), (AREA, side))) for side in "xywh")
        box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    except ValueError:
        box = None
    return Region(box, value((MWG, "Type")), name, own=_is_untouched(item))


def _is_untouched(item: _Span) -> bool:
    """Whether an item says what `_new_item` wrote, and nothing else."""
    area, extensions = _name(MWG, "Area"), _name(MWG, "Extensions")
    sides = [(area, _name(AREA, side)) for side in "xywh"]
    kind, score = (_name(MWG, "Type"),), (extensions, _name(OWN, "score"))
    box = (extensions, _name(OWN, "box"))
    syntax = {(), (area,), (extensions,)}  # rdf:parseType
    said = {path: text for path, text in item.values.items() if text and path not in syntax}
    if said.keys() != {kind, score, box, (area, _name(AREA, "unit")), *sides}:
        return False
    try:
        now = [float(said[side]) for side in sides]
        written = [float(side) for side in said[box].split()]
    except ValueError:
        return False
    near = (abs(a - b) < ROUNDING for a, b in zip(now, written, strict=False))
    return said[kind] == "Face" and len(written) == len(now) and all(near)


def _check_shape(layout: _Layout, size: tuple[int, int]) -> None:
    """Regions of others must belong to a picture of this shape: ours stand beside them."""
    if layout.regions is None or all(_region(item).own for item in layout.items):
        return
    path = _name(MWG, "AppliedToDimensions")
    try:
        width, height = (
            float(layout.regions.values[path, _name(DIMENSIONS, side)]) for side in "wh"
        )
    except (KeyError, ValueError):
        return
    if width <= 0 or height <= 0 or abs(width / height / (size[1] / size[0]) - 1) > 0.01:
        raise DataError(
            f"its face regions were drawn on a picture of {width:g}×{height:g} px, it is stored as "
            f"{size[1]}×{size[0]} now: remove or correct them in the program that drew them"
        )


def _check_result(packet: bytes, others: Sequence[Region], own: int) -> None:
    """The packet to be must be XMP that says what it should.

    Raises:
        DataError: it is no XMP, a region of others is lost or changed, or a face is missing.
    """
    try:
        regions = read_regions(packet)
    except DataError as error:
        raise DataError(f"its XMP would be broken by face regions: {error}") from error
    kept = [repr(region) for region in regions if not region.own]  # numbers may be NaN
    if kept != [repr(region) for region in others] or len(regions) - len(kept) != own:
        raise DataError("face regions cannot be added to its XMP without a loss of others")


def _item(packet: bytes, item: _Span, layout: _Layout) -> bytes:
    """An item as it stands in its packet, with the namespaces that it needs."""
    declared = "".join(
        f" xmlns{':' if prefix else ''}{prefix}={quoteattr(uri)}"
        for prefix, uri in layout.namespaces.items()
        if prefix not in item.declared
    )
    text = packet[item.start : item.end]
    name = re.match(rb"<[^\s/>]+", text)
    split = name.end() if name else 0
    return b"     " + text[:split] + declared.encode() + text[split:] + b"\n"


def _new_item(face: Region) -> bytes:
    assert face.box is not None
    x1, y1, x2, y2 = face.box
    sides = [f"{side:.6f}" for side in ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)]
    area = " ".join(f'stArea:{name}="{side}"' for name, side in zip("xywh", sides, strict=True))
    mark = f'faceresnet:score="{face.score:.3f}" faceresnet:box="{" ".join(sides)}"'
    return (
        f'     <rdf:li {_NAMESPACES}><rdf:Description mwg-rs:Type="Face">'
        f'<mwg-rs:Area {area} stArea:unit="normalized"/>'
        f"<mwg-rs:Extensions {mark}/></rdf:Description></rdf:li>\n"
    ).encode()


def _regions(items: bytes, size: tuple[int, int]) -> bytes:
    """Make a whole Regions element."""
    head = (
        f'<mwg-rs:Regions {_NAMESPACES} rdf:parseType="Resource">\n'
        f'    <mwg-rs:AppliedToDimensions stDim:w="{size[1]}" stDim:h="{size[0]}" '
        'stDim:unit="pixel"/>\n    <mwg-rs:RegionList>\n     <rdf:Bag>\n'
    )
    # The namespaces are declared above: an item made here need not say them again.
    items = items.replace(f" {_NAMESPACES}".encode(), b"")
    tail = b"     </rdf:Bag>\n    </mwg-rs:RegionList>\n   </mwg-rs:Regions>"
    return head.encode() + items + tail


def _whole(regions: bytes) -> bytes:
    """Make a packet of its own."""
    return (
        b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="faceresnet">\n'
        b' <rdf:RDF xmlns:rdf="' + RDF.encode() + b'">\n'
        b'  <rdf:Description rdf:about="">\n   ' + regions + b"\n  </rdf:Description>\n"
        b' </rdf:RDF>\n</x:xmpmeta>\n<?xpacket end="w"?>\n'
    )


def _inserted(packet: bytes, layout: _Layout, regions: bytes) -> bytes:
    """Put the regions into a description of their own, after all others."""
    assert layout.rdf is not None
    block = (
        f' <rdf:Description xmlns:rdf="{RDF}" rdf:about={quoteattr(layout.about)}>\n   '.encode()
        + regions
        + b"\n  </rdf:Description>\n "
    )
    if not layout.rdf.empty:
        return _cut(packet, [(layout.rdf.last_tag, layout.rdf.last_tag, block)])
    opening = packet[layout.rdf.start : layout.rdf.end]
    name = re.match(rb"<([^\s/>]+)", opening)
    closing = b"</" + (name.group(1) if name else b"rdf:RDF") + b">"
    whole = opening[:-2].rstrip() + b">\n " + block + closing
    return _cut(packet, [(layout.rdf.start, layout.rdf.end, whole)])


def _edits(packet: bytes, layout: _Layout, written: bytes) -> list[tuple[int, int, bytes]]:
    """Take our old items out of the list and put the new ones after those of others."""
    assert layout.bag is not None
    edits = []
    last = layout.bag.start
    for item in layout.items:
        if _region(item).own:
            start = len(packet[: item.start].rstrip(b" \t"))
            end = item.end + (packet[item.end : item.end + 1] == b"\n")
            edits.append((start, end, b""))
        else:
            last = item.end
    if packet[last : last + 1] == b"\n":
        last += 1
    return [*edits, (last, last, written)]


def _cut(packet: bytes, edits: Sequence[tuple[int, int, bytes]]) -> bytes:
    """Replace spans of the packet, none of which overlap."""
    for start, end, replacement in sorted(edits, reverse=True):
        packet = packet[:start] + replacement + packet[end:]
    return packet
