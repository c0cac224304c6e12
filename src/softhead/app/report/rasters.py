"""Small images as data URIs: rows of pixels that were classified, and coefficients drawn as pixels."""

import base64
import struct
import zlib

import numpy as np

MOST_PIXELS = 48  # of a side: larger images are averaged over blocks, which keeps the page small
_FOR, _AGAINST = (44, 111, 208), (214, 106, 20)  # seen on a white page and on a black one


def image_shape(shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Return (height, width) or (height, width, channels) where rows of this shape are images, else None."""
    if shape is None or len(shape) not in (2, 3) or min(shape[:2]) < 2:
        return None
    return shape if len(shape) == 2 or shape[2] in (1, 3) else None


def picture(pixels: np.ndarray, low: float, high: float) -> str:
    """Return an image, grey or in three colours, as a data URI; `low` is drawn black and `high` white."""
    values = _small(np.asarray(pixels, float), MOST_PIXELS)
    scaled = np.nan_to_num((values - low) / (high - low if high > low else 1.0)).clip(0.0, 1.0)
    return _png((255.0 * scaled).round().astype(np.uint8))


def signed_picture(values: np.ndarray, largest: float, most_pixels: int = MOST_PIXELS) -> str:
    """Return coefficients as a data URI: blue where positive, orange where negative, clear where zero."""
    small = _small(np.asarray(values, float), most_pixels)
    if small.ndim == 3:
        small = small.mean(axis=2)
    strength = (np.abs(small) / (largest or 1.0)).clip(0.0, 1.0)
    rgba = np.empty((*small.shape, 4), np.uint8)
    rgba[..., :3] = np.where(small[..., None] > 0.0, _FOR, _AGAINST)
    rgba[..., 3] = (255.0 * strength).round()
    return _png(rgba)


def _small(image: np.ndarray, most_pixels: int) -> np.ndarray:
    """Average an image over square blocks until its sides are short enough."""
    factor = -(-max(image.shape[:2]) // most_pixels)
    if factor == 1:
        return image
    rows, columns = (range(0, side, factor) for side in image.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(image, rows, axis=0), columns, axis=1)
    ones = np.ones(image.shape[:2])
    areas = np.add.reduceat(np.add.reduceat(ones, rows, axis=0), columns, axis=1)
    return sums / areas.reshape(areas.shape + (1,) * (image.ndim - 2))


def _png(pixels: np.ndarray) -> str:
    """Return 8-bit pixels as the data URI of a PNG (ISO/IEC 15948): 2-D is grey, else 1, 3 or 4 channels."""
    height, width = pixels.shape[:2]
    colour = {1: 0, 3: 2, 4: 6}[pixels.size // (height * width)]
    lines = np.zeros((height, 1 + pixels.size // height), np.uint8)  # each line begins with 0: no filter
    lines[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return "data:image/png;base64," + base64.b64encode(data).decode()
