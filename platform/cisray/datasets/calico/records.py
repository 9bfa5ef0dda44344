"""Read TFRecord files of tf.train.Example without TensorFlow.

A file is one ZLIB (or gzip) stream of records. A record: its length as uint64, the CRC of these 8 bytes, its bytes, the
CRC of those; CRCs are CRC32C as uint32, rotated by 15 bits and shifted, and all numbers are little-endian. Its bytes
are a protocol buffer, of which a dataset uses one road:

    Example.features = 1  >  Features.feature = 1 (a map: key = 1, value = 2)  >  Feature.bytes_list = 1  >  value = 1

All of these are length-delimited, so that a reader needs two varints per field and can hand out views: protobuf's own
would copy each of Borzoi's targets, which are 93 MB a record.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from cisray.errors import InputError
from cisray.genome.compression import GZIP_ERRORS, check_is_file

_READ_BYTES = 1 << 20
_ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS
_MASK_SHIFT = 0xA282EAD8
_LENGTH_DELIMITED = 2


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the bytes of each record of a TFRecord file, one in memory at a time.

    Raises:
        InputError: the file is missing, not compressed, truncated, or a record's checksum is not its own.
    """
    check_is_file(path, wanted="a TFRecord file")
    number = 0
    with path.open("rb") as handle, io.BufferedReader(_Unpacked(handle)) as stream:
        try:
            while header := stream.read(12):
                yield _read_record(stream, header, where=record_name(path, number))
                number += 1
        except GZIP_ERRORS as error:
            raise InputError(
                f"{record_name(path, number)}: truncated or damaged, or not a ZLIB-compressed TFRecord file ({error}); "
                "copy or make it again"
            ) from error


def record_name(path: Path, number: int) -> str:
    """Return what an error calls a record; they are counted from 0, as Calico counts files."""
    return f"{path}: record {number}"


def parse_example(record: bytes, *, where: str) -> dict[str, memoryview]:
    """Return the features of a tf.train.Example that hold one string of bytes, as views; others are left out.

    Raises:
        InputError: the record is no tf.train.Example; the message names `where` it stands.
    """
    found = {}
    try:
        for features in _fields(memoryview(record), 1):
            for entry in _fields(features, 1):
                key = b"".join(_fields(entry, 1)).decode()
                values = [
                    value for feature in _fields(entry, 2) for each in _fields(feature, 1) for value in _fields(each, 1)
                ]
                if len(values) == 1:
                    found[key] = values[0]
    except (IndexError, ValueError) as error:
        raise InputError(
            f"{where}: not a tf.train.Example ({error}); wanted records with the features sequence and target"
        ) from error
    return found


def masked_crc(data: bytes) -> int:
    """Return the CRC32C of bytes as TFRecord stores it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_SHIFT) & 0xFFFFFFFF


def _read_record(stream: BinaryIO, header: bytes, *, where: str) -> bytes:
    if len(header) < 12:
        raise EOFError("the stream ends inside a record's length")
    length, length_crc = struct.unpack("<QI", header)
    # before anything is read by a length that may be noise
    if length_crc != masked_crc(header[:8]):
        raise InputError(f"{where}: the checksum of its length does not match; the file is damaged, copy it again")
    record = stream.read(length)
    crc = stream.read(4)
    if len(record) < length or len(crc) < 4:
        raise EOFError(f"the stream ends inside a record of {length} bytes")
    if struct.unpack("<I", crc) != (masked_crc(record),):
        raise InputError(f"{where}: its checksum does not match its {length} bytes; the file is damaged, copy it again")
    return record


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a compressed stream, which must end where the file does."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        self._inflate = zlib.decompressobj(wbits=_ZLIB_OR_GZIP)
        self._is_empty = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._packed.read(_READ_BYTES)
            if not packed and self._is_empty:  # TensorFlow leaves an empty file where it wrote no record
                return 0
            self._is_empty = False
            data = self._inflate.decompress(packed, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)
            if not packed:
                raise EOFError("the compressed stream has no end")
        if self._inflate.unused_data or self._packed.read(1):
            raise zlib.error("bytes follow the end of the compressed stream")
        return 0


def _fields(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yield the payload of every length-delimited field of a message whose number is `wanted`."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        length, position = _varint(data, position)
        if tag & 7 != _LENGTH_DELIMITED or position + length > len(data):
            raise ValueError(f"no length-delimited field at byte {position}")
        if tag >> 3 == wanted:
            yield data[position : position + length]
        position += length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return the number of 7-bit groups, lowest first, that starts at `position`, and where it ends."""
    number = shift = 0
    while True:
        byte = data[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position
        if shift > 63:
            raise ValueError(f"a number without an end at byte {position}")
