# SPDX-License-Identifier: Apache-2.0
"""Folders of examples, ``train/CLASS/FILE``: PNG and JPEG images, or texts; the label is the folder's name.

What stands there may come from strangers: pictures are measured before they are decoded, links out of the folder are
refused, and one broken file is one error that names it. Nothing depends on the order in which a disk lists files.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from casemate.core.errors import InvalidData
from casemate.core.extras import needs

Pixels = Literal["unit", "byte"]
PIXELS: tuple[Pixels, ...] = ("unit", "byte")
IMAGES, TEXTS = (".png", ".jpg", ".jpeg"), (".txt",)
ROOM = 8 << 30  # bytes that the rows of one part may take
_PIXELS = 1 << 26  # of one picture; a photograph has some 2^24
_TEXT = 16 << 20  # bytes of one text
# modes of Pillow that hold 8 bits of grey or of three colours; a palette and black-and-white become one of them
_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}


def read_folder(
    folder: Path, *, size: tuple[int, int] | None = None, pixels: Pixels = "unit"
) -> tuple[Any, np.ndarray]:
    """Read a folder of classes as images float32 (n, c, h, w) or as a list of texts, and the names of the classes.

    Args:
        folder: holds one folder a class, which holds files; names that begin with a dot are passed over.
        size: (height, width) that pictures are brought to; without it all must have one size.
        pixels: ``unit`` divides by 255, as torch's readers do; ``byte`` leaves 0 to 255.

    Raises:
        InvalidData: no such folder, files of several kinds, or one that cannot be read.
    """
    if pixels not in PIXELS:
        raise InvalidData(f"pixels={pixels!r} is unknown; use unit (0 to 1) or byte (0 to 255)")
    if size is not None and (len(size) != 2 or not all(0 < side <= 8192 for side in size)):  # type: ignore[redundant-expr]
        raise InvalidData(f"size={size!r} must be (height, width) in pixels")
    files = list(_files(folder))
    labels = np.array([path.parent.name for path in files])
    kinds = {path.suffix.lower() for path in files}
    if kinds <= set(TEXTS) and size is None and pixels == "unit":
        return [_text(path) for path in files], labels
    if kinds <= set(TEXTS):
        raise InvalidData(f"size and pixels are for images; {folder} holds texts")
    return _images(files, size, pixels), labels


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of all classes, by name; all of one kind."""
    root = folder.resolve()
    first: Path | None = None
    for inner in _seen(folder):
        _inside(inner, root)
        if not inner.is_dir():
            raise InvalidData(
                f"{_short(inner)} lies beside the folders of classes; write {folder.name}/CLASS/FILE"
            )
        for path in _seen(inner):
            _inside(path, root)
            kind = path.suffix.lower()
            if kind not in (*IMAGES, *TEXTS) or not path.is_file():
                raise InvalidData(f"{_short(path)} is no .png, .jpg or .txt file; take it out of the folder")
            first = first or path
            if (kind in TEXTS) != (first.suffix.lower() in TEXTS):
                raise InvalidData(
                    f"{_short(path)} and {_short(first)} are of two kinds; keep images or texts alone"
                )
            yield path
    if first is None:
        raise InvalidData(f"{folder} holds no files; write {folder.name}/CLASS/FILE, .png, .jpg or .txt")


def _seen(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _short(path: Path) -> str:
    return "/".join(path.parts[-3:])


def _inside(path: Path, root: Path) -> None:
    if not path.resolve().is_relative_to(root):
        raise InvalidData(f"{_short(path)} is a link that leads out of its folder; copy the file there")


def _text(path: Path) -> str:
    if path.stat().st_size > _TEXT:
        raise InvalidData(f"{_short(path)} holds more than {_TEXT >> 20} MiB; one text a file is expected")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidData(f"{_short(path)} is not UTF-8 at byte {error.start}; convert it to UTF-8") from None


def _images(files: list[Path], size: tuple[int, int] | None, pixels: Pixels) -> np.ndarray:
    """Measure all pictures, then decode them into one array (n, c, h, w)."""
    colour, shape = False, size
    for path in files:
        with _opened(path) as picture:
            width, height = picture.size
            if width * height > _PIXELS:
                raise InvalidData(
                    f"{_short(path)} claims {width} x {height} pixels; at most {_PIXELS} are read"
                )
            if picture.mode not in _MODES or "transparency" in picture.info:
                told = "with transparency" if "transparency" in picture.info else f"of mode {picture.mode}"
                raise InvalidData(f"{_short(path)} is an image {told}; save it as 8-bit greyscale or RGB")
            colour = colour or _MODES[picture.mode] == "RGB"
            shape = shape or (height, width)
            if size is None and shape != (height, width):
                raise InvalidData(
                    f"{_short(path)} has {height} x {width} pixels, {_short(files[0])} {shape[0]} x {shape[1]}; "
                    "give a size (height, width) that all are brought to"
                )
    height, width = shape or (0, 0)
    depth = 3 if colour else 1
    if (need := 4 * len(files) * depth * height * width) > ROOM:
        raise InvalidData(
            f"{len(files)} images of {height} x {width} need {need / 2**30:.0f} GiB of memory, more than "
            f"{ROOM >> 30}; give fewer, or a smaller size"
        )
    out = np.empty((len(files), depth, height, width), np.float32)
    for row, path in zip(out, files, strict=True):
        with _opened(path) as picture:
            plain = picture.convert("RGB" if colour else "L")
            if plain.size != (width, height):
                plain = plain.resize((width, height), needs("PIL.Image").Resampling.BILINEAR)
            row[:] = np.asarray(plain).reshape(height, width, depth).transpose(2, 0, 1)
    return out if pixels == "byte" else np.divide(out, 255, out=out)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a picture as PNG or JPEG; whatever its decoder raises is one error."""
    image = needs("PIL.Image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures: they are measured by the caller
            with image.open(path, formats=("PNG", "JPEG")) as picture:
                yield picture
    except InvalidData:
        raise
    except image.DecompressionBombError:
        raise InvalidData(f"{_short(path)} claims too many pixels; at most {_PIXELS} are read") from None
    except Exception as error:
        raise InvalidData(
            f"{_short(path)} is no sound PNG or JPEG image ({type(error).__name__}); remove it or save it anew"
        ) from error
