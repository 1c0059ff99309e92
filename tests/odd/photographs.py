"""Odd photographs: one picture as a file of some container, depth, orientation and metadata, and what is right for it."""

import functools
import io
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from tests.odd.containers import GRAY, GRAY_ALPHA, PALETTE, PNG_START, RGB, RGBA, bmp, chunk, png, pnm, tiff

ORIENTATION = 0x0112


@dataclass(frozen=True)
class OddPhoto:
    """A file, and how it must be read: as one of `truths`, RGB uint8 (H, W, 3), upright.

    `off`: by how much its pixels may differ on average. `clear`: to refuse it is a weakness. `checked`: wrong pixels are a
    fault, as the format or its decoder can notice the damage.
    """

    what: str
    extension: str
    data: bytes
    truths: tuple[np.ndarray, ...]
    off: float = 1.0
    clear: bool = True
    checked: bool = True
    signature: bytes = b""
    """How the undamaged file begins: while it does, it is never "not an image"."""


def noise(r: random.Random, size: int) -> bytes:
    return np.random.default_rng(r.getrandbits(32)).bytes(size)


def draw_picture(r: random.Random, height: int, width: int, *, smooth: bool = False) -> np.ndarray:
    """Draw coarse patches of color, without any symmetry: uint8 (H, W, 3)."""
    rng = np.random.default_rng(r.getrandbits(32))
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
    coarse.putpixel((0, 0), (255, 250, 240))  # so that a picture always fills the range of its type
    return np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST))


def gray_of(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).convert("L"))


def spread(gray: np.ndarray) -> np.ndarray:
    """Return gray, uint8 (H, W), as RGB."""
    return np.repeat(gray[..., None], 3, 2)


def stored(upright: np.ndarray, turn: int) -> np.ndarray:
    """Return an upright picture as a camera with EXIF orientation `turn` stores it (https://exiv2.org/tags.html)."""
    across = (1, 0, *range(2, upright.ndim))
    made = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(across),
        6: np.rot90(upright, 1), 7: upright[::-1, ::-1].transpose(across), 8: np.rot90(upright, -1),
    }[turn]  # fmt: skip
    return np.ascontiguousarray(made)


def shown(data: bytes, turn: int = 1) -> np.ndarray:
    """Return what a lossy file holds, upright: decoded before anything odd is done to it."""
    with Image.open(io.BytesIO(data)) as image:
        return stored(np.asarray(image.convert("RGB")), {6: 8, 8: 6}.get(turn, turn))


def exif(turn: int, r: random.Random, *, odd: bool = False) -> bytes:
    """Return an EXIF block, without its `Exif\\0\\0`: in either byte order, with the orientation as SHORT or LONG."""
    order, mark = r.choice([("<", b"II"), (">", b"MM")])
    kind, form = r.choice([(3, "HH"), (3, "HH"), (3, "HH"), (4, "I")]) if odd else (3, "HH")
    value = struct.pack(order + form, turn, *[0] * (len(form) - 1))
    camera = b"Odd & S\xc3\xb6hne\0\0"
    rows = [(0x010F, 2, len(camera), struct.pack(f"{order}I", 8 + 2 + 24 + 4)), (ORIENTATION, kind, 1, value)]
    table = b"".join(struct.pack(f"{order}HHI", tag, form, count) + data for tag, form, count, data in rows)
    head = mark + struct.pack(f"{order}HI", 42, 8) + struct.pack(f"{order}H", len(rows))
    return head + table + bytes(4) + camera + (noise(r, r.randrange(64)) if odd else b"")


def saved(pixels: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _profile(r: random.Random) -> bytes:
    good = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return r.choice([good, noise(r, 300), b"", good + bytes(r.choice([1000, 200_000]))])


def _palette(rgb: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices (H, W) and colors (N, 3) of a picture in at most so many colors; its own first where they are few."""
    colors, indices = np.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)
    indices = indices.reshape(rgb.shape[:2])
    if len(colors) > most:
        indices, colors = indices % most, colors[:most]
    return indices, colors


def png_photo(r: random.Random, height: int, width: int) -> OddPhoto:
    turn = r.choice([1, 1, 1, *range(1, 9)])
    rgb = draw_picture(r, height, width)
    kind = r.choice(
        [
            "gray1",
            "gray2",
            "gray4",
            "gray8",
            "gray16",
            "rgb8",
            "rgb8",
            "rgb16",
            "p1",
            "p2",
            "p4",
            "p8",
            "la8",
            "la16",
            "rgba8",
            "rgba16",
        ]
    )
    truth, samples, color, depth, palette = _png_samples(r, rgb, kind)
    before, note = _png_chunks(r, turn, color, len(palette) if palette is not None else 0)
    after = r.choice(
        [b"", b"", chunk(b"tEXt", b"Comment\0after"), chunk(b"zTXt", b"x\0\0" + zlib.compress(b"a" * 100))]
    )
    interlaced, idat = r.random() < 0.2, r.choice([1 << 20, 1 << 20, 7, 1])
    data = png(
        stored(samples, turn), color, depth, palette=palette, interlaced=interlaced, before=before, after=after, idat=idat,
        empty_idat=r.random() < 0.1, filtered=r.choice([0, 1, 2]),
    )  # fmt: skip
    what = f"png {kind}{' interlaced' if interlaced else ''} turn {turn}{note}"
    return OddPhoto(what, "png", data, (truth,))


def _png_samples(
    r: random.Random, rgb: np.ndarray, kind: str
) -> tuple[np.ndarray, np.ndarray, int, int, np.ndarray | None]:
    """Return the truth, the samples, color type, depth and palette of a picture as some kind of PNG."""
    gray = gray_of(rgb)
    depth = int(kind.lstrip("graybpl"))
    alpha = np.random.default_rng(r.getrandbits(32)).integers(0, 256, gray.shape).astype(int)
    if kind.startswith("p"):
        indices, colors = _palette(rgb, 1 << depth)
        return colors[indices].astype(np.uint8), indices, PALETTE, depth, colors
    if kind.startswith("gray"):
        levels = (1 << depth) - 1
        samples = gray.astype(int) * 257 if depth == 16 else gray.astype(int) * levels // 255
        return spread((samples * 255 // levels).astype(np.uint8)), samples, GRAY, depth, None
    wide = 257 if depth == 16 else 1
    if kind.startswith("la"):
        return spread(gray), np.stack([gray.astype(int), alpha], -1) * wide, GRAY_ALPHA, depth, None
    if kind.startswith("rgba"):
        return rgb, np.concatenate([rgb.astype(int), alpha[..., None]], -1) * wide, RGBA, depth, None
    return rgb, rgb.astype(int) * wide, RGB, depth, None


def _png_chunks(r: random.Random, turn: int, color: int, colors: int) -> tuple[bytes, str]:
    """Return chunks to stand before the pixels, and what they are."""
    made = chunk(b"eXIf", exif(turn, r, odd=r.random() < 0.3)) if turn > 1 else b""
    clear = {GRAY: b"\0\1", RGB: b"\0\1\0\2\0\3"}.get(color, noise(r, colors))
    odd: dict[str, Callable[[], bytes]] = {
        "": lambda: b"",
        "text": lambda: chunk(b"tEXt", b"Title\0" + noise(r, 50).replace(b"\0", b"")),
        "large text": lambda: chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * (3 << 20))),
        "large plain text": lambda: chunk(b"tEXt", b"Comment\0" + b"a" * (1 << 21)),
        "many texts": lambda: b"".join(chunk(b"zTXt", b"k%d\0\0" % n + zlib.compress(b"b" * (1 << 20))) for n in range(70)),
        "broken text": lambda: chunk(b"zTXt", b"Comment\0\0" + noise(r, 40)),
        "text without end": lambda: chunk(b"iTXt", b"Comment\0\1\0" + noise(r, 9)),
        "profile": lambda: chunk(b"iCCP", b"x\0\0" + zlib.compress(_profile(r))),
        "large profile": lambda: chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2 << 20))),
        "broken profile": lambda: chunk(b"iCCP", b"x\0\0" + noise(r, 40)),
        "wrong crc of gAMA": lambda: chunk(b"gAMA", b"\0\0\xb1\x8f", wrong_crc=True),
        "wrong crc of text": lambda: chunk(b"tEXt", b"a\0b", wrong_crc=True),
        "wrong crc of pHYs": lambda: chunk(b"pHYs", bytes(9), wrong_crc=True),
        "short gAMA": lambda: chunk(b"gAMA", b"\0"),
        "long pHYs": lambda: chunk(b"pHYs", bytes(20)),
        "unknown": lambda: chunk(b"oDDy", noise(r, 30)),
        "unknown, wrong crc": lambda: chunk(b"oDDy", noise(r, 30), wrong_crc=True),
        "times": lambda: 3 * chunk(b"tIME", b"\x07\xe8\1\1\0\0\0"),
        "broken exif": lambda: chunk(b"eXIf", noise(r, 40)) if turn == 1 else b"",
        "no exif": lambda: chunk(b"eXIf") if turn == 1 else b"",
        "animation": lambda: chunk(b"acTL", b"\0\0\0\1\0\0\0\0"),
        "transparency": lambda: chunk(b"tRNS", clear) if color in (GRAY, RGB, PALETTE) else b"",
    }  # fmt: skip
    name = r.choice(["", "", *odd])
    return made + odd[name](), f", {name}" if name else ""


def jpeg_photo(r: random.Random, height: int, width: int) -> OddPhoto:
    turn = r.choice([1, 1, *range(1, 9)])
    rgb = draw_picture(r, height, width, smooth=True)
    mode = r.choice(["RGB", "RGB", "RGB", "L", "CMYK", "keep RGB", "MPO"])
    truth = spread(gray_of(rgb)) if mode == "L" else rgb
    image = Image.fromarray(truth if mode == "MPO" else stored(truth, turn))
    options: dict[str, Any] = {"quality": 95, "subsampling": r.choice([0, 0, 1, 2]), "progressive": r.random() < 0.3}
    if r.random() < 0.2:
        options["restart_marker_rows"] = 1
    if mode == "keep RGB":
        options |= {"keep_rgb": True, "subsampling": 0}
    elif mode == "MPO":
        options |= {"save_all": True, "append_images": [Image.fromarray(rgb[::-1].copy())]}
    else:
        image = image.convert(mode)
    data = saved(image, "MPO" if mode == "MPO" else "JPEG", **options)
    truth = shown(data, 1 if mode == "MPO" else turn)
    segments = b""
    if turn > 1 and mode != "MPO":  # whose offsets must not move
        segments += _segment(0xE1, b"Exif\0\0" + exif(turn, r, odd=r.random() < 0.3))
    extra, note = _jpeg_segments(r, turn) if mode != "MPO" else (b"", "")
    data = data[:2] + segments + extra + data[2:]
    return OddPhoto(f"jpeg {mode} turn {turn}{note}", "jpg", data, (truth,))


def _segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2) + data


def _jpeg_segments(r: random.Random, turn: int) -> tuple[bytes, str]:
    profile = _profile(r)
    odd: dict[str, bytes] = {
        "": b"",
        "comment": _segment(0xFE, noise(r, 60_000)),
        "profile": _segment(0xE2, b"ICC_PROFILE\0\1\1" + profile[:60_000]),
        "part of a profile": _segment(0xE2, b"ICC_PROFILE\0\2\3" + profile[:60_000]),
        "XMP": _segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation='1'>"),
        "broken XMP": _segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + noise(r, 99)),
        "Photoshop": _segment(0xED, b"Photoshop 3.0\x008BIM" + noise(r, 20)),
        "unknown": _segment(0xEB, noise(r, 200)),
        "fill bytes": b"\xff\xff\xff" + _segment(0xFE, b"x"),
    }
    if turn == 1:
        count_of = bytes.fromhex("4d4d002a00000008ffff")
        odd |= {
            "broken exif": _segment(0xE1, b"Exif\0\0" + noise(r, 60)),
            "short exif": _segment(0xE1, b"Exif\0\0MM\0*"),
            "endless exif": _segment(0xE1, b"Exif\0\0" + count_of),
            "orientation 0": _segment(0xE1, b"Exif\0\0" + exif(0, r)),
            "orientation 9": _segment(0xE1, b"Exif\0\0" + exif(9, r)),
        }
    name = r.choice(["", "", *odd])
    return odd[name], f", {name}" if name else ""


def tiff_photo(r: random.Random, height: int, width: int) -> OddPhoto:
    turn = r.choice([1, 1, *range(1, 9)])
    rgb = draw_picture(r, height, width)
    gray = gray_of(rgb)
    kind = r.choice(
        [
            "gray1",
            "gray4",
            "gray8",
            "white is zero",
            "gray16",
            "rgb8",
            "rgb8",
            "rgb16",
            "rgba8",
            "p8",
            "cmyk8",
            "float 0-1",
            "float 0-255",
            "double",
            "half",
            "int32",
            "uint32 as 16",
        ]
    )
    options: dict[str, Any] = {
        "order": r.choice("<>"), "deflate": r.random() < 0.4, "strip": r.choice([0, 1, 3, 7]), "planar": r.random() < 0.2,
        "big": r.random() < 0.1, "orientation": turn if turn > 1 else r.choice([0, 0, 1]), "tile": r.choice([0, 0, 0, 16, 32]),
    }  # fmt: skip
    truths, samples, depth, more = _tiff_samples(rgb, gray, kind)
    tag, note = r.choice([
        ((), ""), ((), ""), (((305, 2, b"odd \xff\xfe\0"),), ", text"), (((65000, 7, noise(r, 50)),), ", private tag"),
        (((34675, 7, _profile(r) or b"x"),), ", profile"), (((700, 1, b"<x:xmpmeta>"),), ", XMP"),
        (((282, 5, bytes(8)),), ", resolution 0/0"), (((34665, 13, b"\xff\xff\xff\x7f"),), ", exif nowhere"),
    ])  # fmt: skip
    if kind in ("gray8", "rgb8", "gray16", "rgb16") and options["deflate"] and r.random() < 0.4:
        options["predictor"] = 2
    data = tiff(stored(samples, turn), depth, tags=tag, **options, **more)
    clear = kind not in ("double", "half", "int32", "uint32 as 16", "gray2", "gray4", "gray12", "int16")
    kept = " ".join(name for name in ("deflate", "planar", "big", "tile", "predictor") if options.get(name))
    clear &= not (options["big"] and options["order"] == ">")  # which hardly any program writes
    what = f"tiff {kind} {kept} {options['order']} turn {turn}{note}"
    return OddPhoto(what, "tif", data, truths, clear=clear, checked=True)


def _tiff_samples(
    rgb: np.ndarray, gray: np.ndarray, kind: str
) -> tuple[tuple[np.ndarray, ...], np.ndarray, int, dict[str, Any]]:
    plain = (spread(gray),)
    wide, share = gray.astype(np.uint16) * 257, (gray / 255).astype(np.float32)
    if kind == "gray1":
        return (spread(np.where(gray > 127, 255, 0).astype(np.uint8)),), (gray > 127).astype(np.uint8), 1, {}
    if kind == "gray4":
        return (spread((gray // 16 * 17).astype(np.uint8)),), gray // 16, 4, {}
    if kind == "gray2":
        return (spread((gray // 64 * 85).astype(np.uint8)),), gray // 64, 2, {}
    if kind == "gray12":
        return plain, gray.astype(np.uint16) << 4 | gray >> 4, 12, {}
    if kind == "white is zero":
        return plain, 255 - gray, 8, {"photometric": 0}
    if kind == "p8":
        indices, colors = _palette(rgb, 256)
        full = np.zeros((256, 3), np.uint8)
        full[: len(colors)] = colors
        return (full[indices],), indices.astype(np.uint8), 8, {"palette": full}
    if kind == "rgba8":
        alpha = np.full((*gray.shape, 1), 200, np.uint8)
        return (rgb,), np.concatenate([rgb, alpha], 2), 8, {"extra": 2}
    if kind == "cmyk8":
        inks = np.concatenate([255 - rgb, np.zeros((*gray.shape, 1), np.uint8)], 2)
        return (rgb,), inks, 8, {"photometric": 5}
    made: dict[str, tuple[np.ndarray, int]] = {
        "gray8": (gray, 8), "gray16": (wide, 16), "float 0-1": (share, 32), "float 0-255": (share * 255, 32),
        "double": (share.astype(np.float64), 64), "half": (share.astype(np.float16), 16),
        "int32": (gray.astype(np.int32) << 23 | gray.astype(np.int32) << 15, 32),
        "uint32 as 16": (wide.astype(np.uint32), 32), "int16": ((wide >> 1).astype(np.int16), 16),
    }  # fmt: skip
    if kind in made:
        return plain, *made[kind], {}
    return (rgb,), (rgb.astype(np.uint16) * 257 if kind == "rgb16" else rgb), 16 if kind == "rgb16" else 8, {}


def pillow_photo(r: random.Random, height: int, width: int) -> OddPhoto:
    """Draw a file of a container that Pillow writes."""
    rgb = draw_picture(r, height, width)
    smooth = draw_picture(r, height, width, smooth=True)
    gray = gray_of(rgb)
    turn = r.choice([1, 1, *range(2, 9)])
    block = b"Exif\0\0" + exif(turn, r)
    turned = stored(rgb, turn)
    indices, colors = _palette(rgb, 256)
    few, shown_few = Image.fromarray(indices.astype(np.uint8)), colors[indices].astype(np.uint8)
    few.putpalette(colors.tobytes())
    second = Image.fromarray(rgb[::-1].copy())
    clear = np.concatenate([rgb, spread(gray)[..., :1]], 2)
    lossy = saved(stored(smooth, turn), "WEBP", quality=95, exif=block)
    inside = saved(smooth, "TIFF", compression="jpeg", quality=95)
    avif = saved(smooth, "AVIF", quality=95, subsampling="4:4:4")
    made: dict[str, Callable[[], tuple[str, bytes, np.ndarray, float]]] = {
        "webp lossless": lambda: ("webp", saved(turned, "WEBP", lossless=True, exif=block), rgb, 1),
        "webp lossless alpha": lambda: ("webp", saved(clear, "WEBP", lossless=True, exact=True), rgb, 1),
        "webp": lambda: ("webp", lossy, shown(lossy, turn), 1),
        "webp animated": lambda: ("webp", saved(rgb, "WEBP", lossless=True, save_all=True, append_images=[second]), rgb, 1),
        "tiff lzw": lambda: ("tif", saved(rgb, "TIFF", compression="tiff_lzw"), rgb, 1),
        "tiff packbits": lambda: ("tiff", saved(gray, "TIFF", compression="packbits"), spread(gray), 1),
        "tiff jpeg": lambda: ("tif", inside, shown(inside), 1),
        "tiff pages": lambda: ("tif", saved(rgb, "TIFF", save_all=True, append_images=[second]), rgb, 1),
        "bmp 24": lambda: ("bmp", bmp(rgb), rgb, 1),
        "bmp top down": lambda: ("bmp", bmp(rgb, top_down=True), rgb, 1),
        "bmp 16": lambda: ("bmp", bmp(rgb, bits=16), rgb, 6),
        "bmp palette": lambda: ("bmp", saved(few, "BMP"), shown_few, 1),
        "bmp gray": lambda: ("bmp", saved(gray, "BMP"), spread(gray), 1),
        "gif": lambda: ("gif", saved(few, "GIF"), shown_few, 1),
        "gif gray": lambda: ("gif", saved(gray, "GIF"), spread(gray), 1),
        "gif animated": lambda: ("gif", saved(few, "GIF", save_all=True, append_images=[second]), shown_few, 1),
        "ppm": lambda: ("ppm", pnm(rgb, 255, comment=b"odd 9 9"), rgb, 1),
        "ppm text": lambda: ("ppm", pnm(rgb, 255, text=True), rgb, 1),
        "ppm 16": lambda: ("ppm", pnm(rgb.astype(int) * 257, 65_535), rgb, 1),
        "pgm 16": lambda: ("pgm", pnm(gray.astype(int) * 257, 65_535), spread(gray), 1),
        "pgm 15": lambda: ("pgm", pnm(gray.astype(int) // 17, 15), spread(gray // 17 * 17), 1),
        "pgm 4095": lambda: ("pgm", pnm(gray.astype(int) * 4095 // 255, 4095), spread(gray), 1.5),
        "pbm": lambda: ("pbm", saved(Image.fromarray(gray > 127), "PPM"), spread(np.where(gray > 127, 255, 0).astype(np.uint8)), 1),
        "jp2": lambda: ("jp2", saved(rgb, "JPEG2000", irreversible=False), rgb, 1),
        "j2k": lambda: ("j2k", saved(rgb, "JPEG2000", irreversible=False, no_jp2=True), rgb, 1),
        "avif": lambda: ("avif", avif, shown(avif), 1),
    }  # fmt: skip
    name = r.choice(list(made))
    extension, data, truth, off = made[name]()
    return OddPhoto(
        f"{name}{f' turn {turn}' if 'exif' in name else ''}",
        extension,
        data,
        (truth,),
        off,
        checked=name.startswith("tiff deflate"),
    )


def unsure_photo(r: random.Random, height: int, width: int) -> OddPhoto:
    """Draw a picture whose numbers don't fill their type: the rule must be one of those that people use, or it is refused."""
    gray = gray_of(draw_picture(r, height, width))
    bits = r.choice([10, 12, 14])
    top = (1 << bits) - 1
    part = (gray.astype(np.uint32) * top // 255).astype(np.uint16)
    readings = (spread((part >> (bits - 8)).astype(np.uint8)), spread((part / 257).round().astype(np.uint8)))
    floats = gray.astype(np.float32) / 255 * r.choice([1000.0, 65_535.0, 2.0])
    odd = np.where(gray > 128, np.float32(r.choice([np.nan, np.inf, -1.0])), gray / np.float32(255))
    kept = spread(gray)
    zeroed = [spread(np.where(gray > 128, fill, gray).astype(np.uint8)) for fill in (0, 255)]
    kind, data, truths = r.choice([
        (f"png {bits} of 16 bits", png(part.astype(int), GRAY, 16), readings),
        (f"tiff {bits} of 16 bits", tiff(part, 16), readings),
        (f"png {bits} of 16 bits RGB", png(np.repeat(part[..., None], 3, 2).astype(int), RGB, 16), readings),
        (f"tiff {bits} of 16 bits RGB", tiff(np.repeat(part[..., None], 3, 2), 16), readings),
        ("tiff floats over 1", tiff(floats, 32), (kept, spread(np.clip(floats, 0, 255).astype(np.uint8)))),
        ("tiff odd floats", tiff(odd.astype(np.float32), 32), (kept, *zeroed)),
    ])  # fmt: skip
    return OddPhoto(kind, kind[:4].strip().replace("tiff", "tif"), data, truths, 1.5, clear=False)


@functools.cache
def _nothing(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def bomb(r: random.Random, height: int, width: int) -> OddPhoto:
    """Draw a small file that claims to be, or unfolds to, something huge."""
    rgb = draw_picture(r, height, width)
    head = png(rgb, RGB)
    huge = struct.pack(
        ">II5B", *r.choice([(60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (20_000, 9_000)]), 8, RGB, 0, 0, 0
    )
    texts = chunk(b"zTXt", b"a\0\0" + _nothing(64 << 20)) * 10
    profile = chunk(b"iCCP", b"a\0\0" + _nothing(64 << 20))
    screen = struct.pack("<HH", 65_535, 65_535)
    gif = saved(gray_of(rgb), "GIF")
    pixels = PNG_START + chunk(b"IHDR", huge)
    kind, extension, data, truths = r.choice([
        ("png size", "png", pixels + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND"), ()),
        ("png pixels", "png", PNG_START + chunk(b"IHDR", struct.pack(">II5B", width, height, 8, RGB, 0, 0,
        0)) + chunk(b"IDAT", _nothing(64 << 20)) + chunk(b"IEND"), (np.zeros_like(rgb),)),
        ("png texts", "png", head[:33] + texts + head[33:], (rgb,)), ("png profile", "png",
        head[:33] + profile + head[33:], (rgb,)),
        ("gif screen", "gif", gif[:6] + screen + gif[10:], ()), ("ppm size", "ppm", b"P6\n99999 99999\n255\n" + bytes(99), ()),
        ("bmp size", "bmp", bmp(rgb)[:18] + struct.pack("<ii", 70_000, 70_000) + bmp(rgb)[26:], ()),
        ("jpeg size", "jpg", _jpeg_of_size(saved(rgb, "JPEG"), 65_500, 65_500), ()),
        ("tiff size", "tif", tiff(rgb).replace(struct.pack("<HHII", 256, 4, 1, width), struct.pack("<HHII", 256, 4, 1,
        2_000_000)), ()),
    ])  # fmt: skip
    return OddPhoto(f"bomb {kind}", extension, data, truths, clear=False)


def _jpeg_of_size(data: bytes, height: int, width: int) -> bytes:
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def foreign_file(r: random.Random, height: int, width: int) -> OddPhoto:
    """Draw a file of a kind that is not read: never a picture, and images are told as what they are."""
    rgb = draw_picture(r, height, width)
    images: dict[str, Callable[[], bytes]] = {
        "ico": lambda: saved(rgb, "ICO"), "tga": lambda: saved(rgb, "TGA"), "pcx": lambda: saved(rgb, "PCX"),
        "dds": lambda: saved(rgb, "DDS"), "sgi": lambda: saved(rgb, "SGI"), "icns": lambda: b"icns" + bytes(60),
        "psd": lambda: b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\5\0\0\0\5\0\x08\0\3" + bytes(200),
        "heic": lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + noise(r, 300), "jxl": lambda: b"\xff\x0a" + noise(r, 99),
        "qoi": lambda: b"qoif\0\0\0\5\0\0\0\5\3\0" + noise(r, 40),
    }  # fmt: skip
    others: dict[str, bytes] = {
        "txt": b"remember the milk", "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch odd) run\n",
        "pdf": b"%PDF-1.7\n",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "html": b"<html><img src=x></html>",
        "zip": b"PK\3\4" + noise(r, 99), "pkl": b"\x80\x04cos\nsystem\n(S'touch odd'\ntR.",
        "mp4": b"\0\0\0\x18ftypisom" + noise(r, 99),
        "npy": b"\x93NUMPY\1\0" + noise(r, 99), "xml": b"<?xml version='1.0'?><a/>", "gz": b"\x1f\x8b\x08" + noise(r, 99),
    }  # fmt: skip
    if r.random() < 0.5:
        name = r.choice(sorted(images))
        return OddPhoto(f"foreign image {name}", name, images[name](), (), clear=False)
    name = r.choice(sorted(others))
    return OddPhoto(f"foreign {name}", name, others[name], (), clear=False)


MAKERS = (
    bomb,
    foreign_file,
    png_photo,
    png_photo,
    png_photo,
    jpeg_photo,
    jpeg_photo,
    jpeg_photo,
    tiff_photo,
    tiff_photo,
    pillow_photo,
    pillow_photo,
    unsure_photo,
)


def whole_photo(r: random.Random, height: int, width: int) -> OddPhoto:
    """Draw an undamaged photograph of a height and width, upright."""
    photo = r.choice(MAKERS)(r, height, width)
    length = {"png": 8, "webp": 12, "jpg": 3}.get(photo.extension, 4)
    return replace(photo, signature=photo.data[:length])
