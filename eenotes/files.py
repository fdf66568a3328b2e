"""Files that are complete under their name, or not there at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, which takes its place at the end of the block.

    Folders that are missing are made.  If the block raises, ``path`` stays as it was.  Two
    processes may write the same file: the last one wins.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial_file
        os.replace(partial_file, path)
    finally:
        partial_file.unlink(missing_ok=True)
