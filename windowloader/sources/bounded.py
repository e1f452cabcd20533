"""Decoding that stops at a size: a chunk of a damaged or hostile file may unpack to gigabytes.

In: compressed bytes, or an array of zarr-python. Out: at most as many bytes as were asked for, or ValueError; an array
that decodes so. TensorStore stops by itself at a chunk's size, but for Blosc, which unpacks to 2 GiB at most.
"""

from __future__ import annotations

import asyncio
import bz2
import dataclasses
import lzma
import math
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["bounded", "decode", "inflate"]

GZIP = 31  # zlib's word for the header and checksum of gzip
DICTIONARY = 128 << 20  # bytes that the tables of LZMA may take: its own presets ask for 65 MiB
CHECKSUMS = 64  # bytes that codecs may add to a chunk


def inflate(data: Any, limit: int, make: Callable[[], Any] = zlib.decompressobj) -> bytes:
    """Unpack one stream, or several one after the other, of at most ``limit`` bytes.

    Parameters
    ----------
    data : bytes-like
        What was stored.
    limit : int
        Bytes that may come out.
    make : callable
        Makes a decompressor of the standard library.

    Raises
    ------
    ValueError
        Where more would come out, or the stream breaks off.

    Examples
    --------
    >>> inflate(zlib.compress(b"abc"), 3)
    b'abc'
    >>> inflate(zlib.compress(bytes(10**6)), 1000)
    Traceback (most recent call last):
    ValueError: it decompresses to more than the 1000 bytes of its chunk
    """
    parts: list[bytes] = []
    left = limit
    while data or not parts:
        one = make()
        parts.append(one.decompress(data, left + 1))
        left -= len(parts[-1])
        if left < 0:
            raise ValueError(f"it decompresses to more than the {limit} bytes of its chunk")
        if not one.eof:
            raise ValueError("its compressed bytes are truncated")
        data = one.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


def decode(codec: Any, data: Any, limit: int) -> Any:
    """Undo a codec of numcodecs, of at most ``limit`` bytes; ValueError where more would come out."""
    name, data = codec.codec_id, memoryview(data).cast("B")
    if name in STREAMS:
        return inflate(data, limit, lambda: STREAMS[name](codec))
    declared = _declared(name, data) if name in KNOWN else 0
    if declared is None:  # this raises if it is more, without a number
        codec.decode(data, bytearray(limit))
    elif declared > limit:
        raise ValueError(f"it decompresses to {declared} bytes, and its chunk has {limit}")
    return codec.decode(data)


def _declared(name: str, data: memoryview) -> int | None:
    """Bytes that data of Blosc, LZ4 or Zstandard say they decompress to, or None."""
    # The library of Blosc would read beyond data that are shorter than their header says.
    if len(data) < 6 or (name == "blosc" and (len(data) < 16 or _number(data[12:16]) > len(data))):
        raise ValueError("its compressed bytes are truncated")
    if name == "lz4":
        return _number(data[:4])
    if name == "blosc":
        return _number(data[4:8])
    # Zstandard's frame header: RFC 8878, 3.1.1.1
    flags = data[4]
    width = (1 if flags & 0x20 else 0, 2, 4, 8)[flags >> 6]
    begin = 5 + (not flags & 0x20) + (0, 1, 2, 4)[flags & 3]
    return _number(data[begin : begin + width]) + (256 if width == 2 else 0) if width else None


def _number(data: memoryview) -> int:
    return int.from_bytes(data, "little")


def _xz(codec: Any) -> lzma.LZMADecompressor:
    if codec.format == lzma.FORMAT_RAW:
        return lzma.LZMADecompressor(codec.format, filters=codec.filters)
    return lzma.LZMADecompressor(codec.format, memlimit=DICTIONARY)


STREAMS: dict[str, Callable[[Any], Any]] = {
    "zlib": lambda _: zlib.decompressobj(),
    "gzip": lambda _: zlib.decompressobj(GZIP),
    "bz2": lambda _: bz2.BZ2Decompressor(),
    "lzma": _xz,
}
KNOWN = (*STREAMS, "blosc", "lz4", "zstd")


def bounded(array: Any) -> Any:
    """Return an array of zarr-python that decodes no chunk to more than its size.

    Parameters
    ----------
    array : zarr.Array
        As opened.

    Returns
    -------
    zarr.Array
    """
    import zarr

    metadata, itemsize = array.metadata, array.dtype.itemsize
    if metadata.zarr_format == 3:
        metadata = dataclasses.replace(metadata, codecs=tuple(map(_codec3, metadata.codecs)))
    elif metadata.compressor is not None and itemsize:
        filtered = 8 if metadata.filters else 1  # a filter may widen: int8 offsets of float64
        limit = math.prod(metadata.chunks) * itemsize * filtered
        metadata = dataclasses.replace(metadata, compressor=_codec2(metadata.compressor, limit))
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=array.store_path))


def _codec2(codec: Any, limit: int) -> Any:
    from numcodecs.abc import Codec  # type: ignore[import-untyped, unused-ignore]

    if codec.codec_id not in KNOWN:
        return codec

    class Bounded(Codec):  # type: ignore[misc]
        """A compressor that stops at a size."""

        codec_id, encode, get_config = codec.codec_id, codec.encode, codec.get_config

        def decode(self, buf: Any, out: Any = None) -> Any:
            return decode(codec, buf, limit)

    return Bounded()


def _codec3(codec: Any) -> Any:
    import numcodecs  # type: ignore[import-untyped, unused-ignore]
    from zarr.abc.codec import BytesBytesCodec
    from zarr.codecs import ShardingCodec

    if isinstance(codec, ShardingCodec):
        return dataclasses.replace(codec, codecs=tuple(map(_codec3, codec.codecs)))
    described = codec.to_dict()
    name = described["name"].removeprefix("numcodecs.")
    if name not in KNOWN:
        return codec
    options = described.get("configuration", {}) if described["name"] != name else {}
    plain = numcodecs.get_codec({"id": name, **options})

    class Bounded(BytesBytesCodec):  # type: ignore[misc, unused-ignore]
        """A codec that stops at a chunk's size."""

        is_fixed_size = False

        async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
            size = math.prod(chunk_spec.shape) * chunk_spec.dtype.to_native_dtype().itemsize
            found = await asyncio.to_thread(decode, plain, chunk_bytes.to_bytes(), size + CHECKSUMS)
            return chunk_spec.prototype.buffer.from_bytes(found)

        def to_dict(self) -> dict[str, Any]:
            return dict(described)

        def compute_encoded_size(self, input_byte_length: int, _chunk_spec: Any) -> int:
            raise NotImplementedError

    return Bounded()
