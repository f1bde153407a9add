"""Header fields of mp4 and mkv files that can't be read or set through FFmpeg's interface."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_SEGMENT, _TRACKS, _TRACK, _TRACK_TYPE, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0x83, 0xE0
_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT, _VOID, _CRC = 0x54B0, 0x54BA, 0x54B2, 0xEC, 0xBF


def boxes(file: BinaryIO, span: tuple[int, int]) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """(kind, (start, end) of its content) of the mp4 boxes between two file positions."""
    position, end = span
    while position < end:
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            return
        size, kind = struct.unpack(">I4s", header[:8])
        start = position + 8
        if size == 1 and len(header) == 16:
            size, start = struct.unpack(">Q", header[8:])[0], position + 16
        if size == 0:  # the last box may leave its size open
            size = end - position
        if size < 8:
            return
        yield kind, (start, position + size)
        position += size


def hide_after(path: Path, ticks: int) -> None:
    """Ends the shown part of the picture track of an mp4 of ours after `ticks` of its movie timescale.

    A trimmed recording keeps packets that its edit list hides. FFmpeg copies them but not their being hidden.
    """
    with path.open("r+b") as file:
        moov = next(span for kind, span in boxes(file, (0, path.stat().st_size)) if kind == b"moov")
        trak = next(span for kind, span in boxes(file, moov) if kind == b"trak")  # the picture comes first
        edts = next(span for kind, span in boxes(file, trak) if kind == b"edts")
        elst = next(span for kind, span in boxes(file, edts) if kind == b"elst")
        file.seek(elst[0])
        version, entries = struct.unpack(">B3xI", file.read(8))
        wide = version == 1
        file.seek(elst[0] + 8 + (entries - 1) * (20 if wide else 12))
        file.write(struct.pack(">Q" if wide else ">I", ticks))


def set_display_size(path: Path, width: int, height: int) -> None:
    """Sets the size, in pixels, at which an mkv of ours is shown; FFmpeg writes it, but PyAV doesn't let it.

    The fields take the place of a void that FFmpeg leaves behind the picture's own, so nothing else moves.
    """
    with path.open("r+b") as file:
        segment = next(span for kind, _, span in _elements(file, (0, path.stat().st_size)) if kind == _SEGMENT)
        tracks = next(span for kind, _, span in _elements(file, segment) if kind == _TRACKS)
        for kind, _, track in _elements(file, tracks):
            parts = list(_elements(file, track)) if kind == _TRACK else []
            if any(part == _TRACK_TYPE and _content(file, span) == b"\x01" for part, _, span in parts):
                _replace_display_size(file, parts, width, height)
                break
        first, _, checksum = next(_elements(file, tracks))
        if first == _CRC:
            crc = zlib.crc32(_content(file, (checksum[1], tracks[1])))
            file.seek(checksum[0])
            file.write(struct.pack("<I", crc))


def _replace_display_size(file: BinaryIO, parts: list, width: int, height: int) -> None:
    kinds = [kind for kind, _, _ in parts]
    place = kinds.index(_VIDEO)
    # Where HDR10+ has filled the void, or a side needs more than 16 bits, the aspect ratio remains what the codec says.
    if _VOID not in kinds[place:] or max(width, height) > 0xFFFF:
        return
    void = kinds.index(_VOID, place)
    shown = (_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT)
    (_, start, span), (_, gap, (_, end)) = parts[place], parts[void]
    kept = [_content(file, (at, part[1])) for kind, at, part in _elements(file, span) if kind not in shown]
    fields = [_element(kind, struct.pack(">H", side)) for kind, side in zip(shown, (width, height), strict=False)]
    changed = _element(_VIDEO, b"".join(kept + fields)) + _content(file, (span[1], gap))
    file.seek(start)
    file.write(changed + _element(_VOID, bytes(end - start - len(changed) - 2)))


def _content(file: BinaryIO, span: tuple[int, int]) -> bytes:
    file.seek(span[0])
    return file.read(span[1] - span[0])


def _element(kind: int, content: bytes) -> bytes:
    """An EBML element of fewer than 127 bytes."""
    return kind.to_bytes((kind.bit_length() + 7) // 8, "big") + bytes([0x80 | len(content)]) + content


def _elements(file: BinaryIO, span: tuple[int, int]) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """(kind, where it starts, (start, end) of its content) of the EBML elements between two file positions."""
    position, end = span
    while position < end:
        file.seek(position)
        head = file.read(12)
        length = 9 - head[0].bit_length()  # leading zeros say how many bytes a number has
        size_length = 9 - head[length].bit_length()
        size = int.from_bytes(head[length : length + size_length], "big") & ((1 << 7 * size_length) - 1)
        start = position + length + size_length
        yield int.from_bytes(head[:length], "big"), position, (start, start + size)
        position = start + size
