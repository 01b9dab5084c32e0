"""A checksum over a checkpoint file, at the file's end: both are put in place together, and a copy keeps it.

It is the comment of the zip archive that `torch.save` writes, which `torch.load` does not look at.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

MARK = b"sha256 of what is before: "
LENGTH = len(MARK) + 64
ARCHIVE, END = b"PK\x03\x04", b"PK\x05\x06"  # how an archive begins, and how its last record does
END_BYTES = 22  # of that record, without a comment; the comment's length is the last two


def is_archive(path: Path) -> bool:
    """Whether a file begins as those of `torch.save` do."""
    with path.open("rb") as file:
        return file.read(len(ARCHIVE)) == ARCHIVE


def seal(path: Path) -> None:
    """Adds the checksum to a file of `torch.save`.

    Raises:
        OSError: the disk is full, or fails.
    """
    with path.open("r+b") as file:
        file.seek(-END_BYTES, 2)
        record = file.read(END_BYTES)
        assert record.startswith(END), "torch.save has written no zip archive"
        file.seek(-2, 2)
        file.write(LENGTH.to_bytes(2, "little") + MARK)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")
        file.seek(0, 2)
        file.write(digest.hexdigest().encode())


def is_intact(path: Path) -> bool | None:
    """Whether a file still is what was sealed; None if it has no seal."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - LENGTH))
        comment = file.read()
        if not comment.startswith(MARK):
            return None
        file.seek(0)
        digest, left = hashlib.sha256(), size - 64
        while left:
            block = file.read(min(left, 1 << 24))
            digest.update(block)
            left -= len(block)
    return comment.removeprefix(MARK) == digest.hexdigest().encode()


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def own_digests(folder: Path, rank: int, world_size: int) -> dict[str, str]:
    """The checksums of a rank's own files in a folder of shards, by path.

    Args:
        folder: with the files of all ranks.
        rank: whose files; the first rank also has those whose names belong to no rank.
        world_size: number of ranks.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        named = re.search(r"rank_?(\d+)", path.name)
        if path.is_file() and rank == (int(named[1]) % world_size if named else 0):
            found[str(path.relative_to(folder))] = digest_of(path)
    return found
