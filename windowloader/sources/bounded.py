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
    if name in ("zlib", "gzip", "bz2", "lzma"):
        return inflate(data, limit, _streams(codec)[name])
    if name in ("blosc", "lz4", "zstd"):
        told = _told(name, data)
        if told is None:
            codec.decode(
                data, bytearray(limit)
            )  # raises where it is more; how much it is, only the next one tells
        elif told > limit:
            raise ValueError(f"it decompresses to {told} bytes, and its chunk has {limit}")
    return codec.decode(data)


def _told(name: str, data: memoryview) -> int | None:
    """Bytes that compressed data say they decompress to, or None."""
    if len(data) < 16 and (name == "blosc" or len(data) < 6):
        raise ValueError("its compressed bytes are truncated")
    if name == "lz4":
        return int.from_bytes(data[:4], "little")
    if name == "blosc":
        if int.from_bytes(data[12:16], "little") > len(data):  # which its library would read beyond
            raise ValueError("its compressed bytes are truncated")
        return int.from_bytes(data[4:8], "little")
    # Zstandard's frame header: RFC 8878, 3.1.1.1
    flags = data[4]
    width = (1 if flags & 0x20 else 0, 2, 4, 8)[flags >> 6]
    begin = 5 + (not flags & 0x20) + (0, 1, 2, 4)[flags & 3]
    size = int.from_bytes(data[begin : begin + width], "little") + (256 if width == 2 else 0)
    return size if width else None


def _streams(codec: Any) -> dict[str, Callable[[], Any]]:
    def xz() -> Any:
        return lzma.LZMADecompressor(codec.format, filters=codec.filters) if codec.format == lzma.FORMAT_RAW else (
            lzma.LZMADecompressor(codec.format, memlimit=DICTIONARY)
        )  # fmt: skip

    gzip: Callable[[], Any] = lambda: zlib.decompressobj(GZIP)  # noqa: E731
    return {"zlib": zlib.decompressobj, "gzip": gzip, "bz2": bz2.BZ2Decompressor, "lzma": xz}


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
    if metadata.zarr_format == 2:
        filtered = 8 if metadata.filters else 1  # a filter may widen: int8 offsets of float64
        limit = math.prod(metadata.chunks) * itemsize * filtered
        if metadata.compressor is not None and itemsize:
            metadata = dataclasses.replace(metadata, compressor=_codec2(metadata.compressor, limit))
    else:
        metadata = dataclasses.replace(metadata, codecs=tuple(map(_codec3, metadata.codecs)))
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=array.store_path))


def _codec2(codec: Any, limit: int) -> Any:
    from numcodecs.abc import Codec  # type: ignore[import-untyped, unused-ignore]

    class Bounded(Codec):  # type: ignore[misc]
        """A compressor that stops at a size."""

        codec_id = codec.codec_id

        def decode(self, buf: Any, out: Any = None) -> Any:
            """Unpack a chunk."""
            return decode(codec, buf, limit)

        def encode(self, buf: Any) -> Any:  # pragma: no cover, nothing is written
            """Pack a chunk."""
            return codec.encode(buf)

        def get_config(self) -> dict[str, Any]:
            """Return how it is written in metadata."""
            found: dict[str, Any] = codec.get_config()
            return found

    return Bounded()


def _codec3(codec: Any) -> Any:
    from zarr.abc.codec import BytesBytesCodec
    from zarr.codecs import ShardingCodec

    if isinstance(codec, ShardingCodec):
        return dataclasses.replace(codec, codecs=tuple(map(_codec3, codec.codecs)))
    described = codec.to_dict() if isinstance(codec, BytesBytesCodec) else {}
    name = str(described.get("name", "")).removeprefix("numcodecs.")
    if name not in ("gzip", "zstd", "blosc", "zlib", "bz2", "lzma", "lz4"):
        return codec
    import numcodecs  # type: ignore[import-untyped, unused-ignore]

    options: Any = described.get("configuration", {}) if described["name"] != name else {}
    plain = numcodecs.get_codec({"id": name, **options})

    @dataclasses.dataclass(frozen=True)
    class Bounded(BytesBytesCodec):  # type: ignore[misc, unused-ignore]
        """A codec that stops at a chunk's size."""

        is_fixed_size = False

        async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
            limit = (
                math.prod(chunk_spec.shape) * chunk_spec.dtype.to_native_dtype().itemsize + 64
            )  # checksums
            found = await asyncio.to_thread(decode, plain, chunk_bytes.to_bytes(), limit)
            return chunk_spec.prototype.buffer.from_bytes(found)

        def to_dict(self) -> dict[str, Any]:
            return dict(described)

        def compute_encoded_size(self, input_byte_length: int, _chunk_spec: Any) -> int:
            raise NotImplementedError

    return Bounded()
