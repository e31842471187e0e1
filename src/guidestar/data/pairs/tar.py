"""Where the files of a tar archive begin and end."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from guidestar.errors import UserError

_BLOCK = 512
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class CutShort(UserError):
    """A tar archive ends before its end mark."""


def scan_tar(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each regular file in an archive; only the headers are read.

    Args:
        path: an uncompressed tar archive.

    Raises:
        CutShort: the archive ends before its end mark, or goes on with something that is no header; raised after all
            whole files were given.
        UserError: it is compressed, or no tar archive.
        OSError: it cannot be read.
    """
    total = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(6)
        for magic, kind in _COMPRESSED.items():
            if head.startswith(magic):
                raise UserError(
                    f"{path} is compressed ({kind}), and a compressed archive cannot be read in random order. Unpack "
                    "it; JPEG images hardly shrink."
                )
        stream.seek(0)
        try:
            archive = tarfile.TarFile(fileobj=stream)
        except tarfile.TarError as error:
            raise UserError(f"{path} is no tar archive ({error}).") from error
        name = None
        try:
            while (member := archive.next()) is not None:
                # Otherwise it keeps every header of a large archive.
                archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
                if member.offset_data + member.size > total:
                    raise CutShort(f"{path} is cut short: it ends within {member.name!r}, at byte {total:,}.")
                name = member.name
                if member.isreg() and not member.issparse():
                    yield member.name, member.offset_data, member.size
        except tarfile.TarError as error:
            raise CutShort(f"{path} is cut short: it ends after {name!r}, at byte {total:,} ({error}).") from error
        stream.seek(archive.offset)
        if stream.read(_BLOCK) != bytes(_BLOCK):
            raise CutShort(
                f"{path} is cut short or damaged: {name!r} is followed by no header and no end mark, at byte "
                f"{archive.offset:,} of {total:,}."
            )


def read_at(descriptor: int, offset: int, size: int) -> bytes:
    """So many bytes of an open file from an offset on, without moving its position.

    Raises:
        OSError: the file ends before.
    """
    content = os.pread(descriptor, size, offset)
    while len(content) < size:
        more = os.pread(descriptor, size - len(content), offset + len(content))
        if not more:
            raise OSError(f"the file ends at byte {offset + len(content):,}, before byte {offset + size:,}.")
        content += more
    return content
