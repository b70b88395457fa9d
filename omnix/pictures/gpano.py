"""Read the GPano data that cameras write into a picture's XMP: which part of the sphere it shows, and its tilt.

Namespace and meaning: developers.google.com/streetview/spherical-metadata.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple, NoReturn
from xml.etree import ElementTree

NAMESPACE = "{http://ns.google.com/photos/1.0/panorama/}"
INSTEAD = "choose another fit than by GPano"


class Gpano(NamedTuple):
    """The GPano data. Sizes and positions are in pixels of the picture that the camera wrote; None means not given."""

    projection: str = "equirectangular"
    full_width: float | None = None
    full_height: float | None = None
    width: float | None = None
    height: float | None = None
    left: float | None = None
    top: float | None = None
    heading: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0


SIZES = {
    "FullPanoWidthPixels": "full_width",
    "FullPanoHeightPixels": "full_height",
    "CroppedAreaImageWidthPixels": "width",
    "CroppedAreaImageHeightPixels": "height",
}
PLACES = {"CroppedAreaLeftPixels": "left", "CroppedAreaTopPixels": "top"}
ANGLES = {"PoseHeadingDegrees": "heading", "PosePitchDegrees": "pitch", "PoseRollDegrees": "roll"}


class _Builder(ElementTree.TreeBuilder):
    """Refuses document types: XMP has none, and one could define entities that grow to gigabytes."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        raise ValueError("document type")


def read_gpano(packets: Iterable[bytes]) -> Gpano | None:
    """Return the GPano data in XMP packets, None if there is none.  Raises ValueError for impossible values.

    An XMP packet that can't be read is an error only if it mentions GPano.
    """
    facts: dict[str, str] = {}
    for packet in packets:
        try:
            facts |= _facts(packet)
        except (ElementTree.ParseError, ValueError) as error:
            if b"GPano" in packet.replace(b"\0", b""):  # also in UTF-16
                raise ValueError(f"the GPano data can't be read ({error}); {INSTEAD}.") from error
    known = {name: facts[name] for name in ("ProjectionType", *SIZES, *PLACES, *ANGLES) if facts.get(name)}
    return _meant(known) if known else None


def _facts(packet: bytes) -> Mapping[str, str]:
    """Collect GPano's properties, as attributes or as elements, under any prefix."""
    wide = packet[:2] in (b"\xff\xfe", b"\xfe\xff")  # UTF-16, where a zero byte is half a letter
    text = packet if wide else packet.strip(b"\0 \r\n\t")
    root = ElementTree.fromstring(text, ElementTree.XMLParser(target=_Builder()))
    found: dict[str, str] = {}
    for element in root.iter():
        found |= {key: value.strip() for key, value in element.attrib.items()}
        found[element.tag] = (element.text or "").strip()
    return {key.removeprefix(NAMESPACE): value for key, value in found.items() if key.startswith(NAMESPACE)}


def _meant(facts: Mapping[str, str]) -> Gpano:
    sizes = {ours: _number(name, facts) for name, ours in (SIZES | PLACES).items() if name in facts}
    given = {ours: size for ours, size in sizes.items() if size > 0 or ours in PLACES.values()}  # some cameras write 0
    angles = {ours: _number(name, facts) for name, ours in ANGLES.items() if name in facts}
    return Gpano(facts.get("ProjectionType", "equirectangular"), **given, **angles)


def _number(name: str, facts: Mapping[str, str]) -> float:
    try:
        number = float(facts[name])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"GPano:{name} is {facts[name][:40]!r}, expected a number; {INSTEAD}.")
    return number
