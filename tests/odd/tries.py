"""One try of each kind: make odd inputs, run the product on them, judge."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np

from tests.odd.class_lists import ClassList, draw_classes, draw_labels
from tests.odd.containers import chunk
from tests.odd.damage import ACCIDENTS, changed_by, damaged, may_be_noticed
from tests.odd.folders import FOLDERS, OddFolder, plain
from tests.odd.judge import (
    FAULT,
    READ,
    REFUSED,
    TOLD,
    UNNOTICED,
    WRONG,
    Judgment,
    judge_repetition,
    looks_like,
    pick_name,
    write_files,
)  # fmt: skip
from tests.odd.masks import OddMask, draw_mask, draw_turned
from tests.odd.photographs import OddPhoto, draw_picture, exif, saved, stored, whole_photo
from tests.odd.product import Prepared, Segmented, preprocess, read_shards, segment

NO_IMAGE = "not an image"


def try_photographs(r: random.Random, work: Path, count: int = 24, damage: float = 0.5) -> Judgment:
    """Segment a folder of odd photographs of one size, whole and damaged, and prepare the same ones as samples."""
    judgment = Judgment()
    size = (r.randrange(5, 40), r.randrange(5, 40))
    photos: dict[str, OddPhoto] = {}
    for number in range(count):
        photo = whole_photo(r, *size)
        if r.random() < damage:
            photo = damaged(photo, r)
        extension = r.choice([photo.extension, photo.extension, photo.extension.upper(), "jpg", ""])
        photos[pick_name(r, number, extension).rstrip(".")] = photo
    write_files(work / "photos", {name: photo.data for name, photo in photos.items()})
    tile = r.random() < 0.25
    made = segment(work / "photos", work / "masks", size, tile=tile)
    judge_photographs(judgment, photos, made)
    judge_repetition(judgment, "photographs", made, segment(work / "photos", work / "masks", size, tile=tile))
    judge_same_refusals(judgment, photos, made, preprocess(work / "photos", work / "shards", size, layout="photos"))
    return judgment


def judge_photographs(judgment: Judgment, photos: dict[str, OddPhoto], made: Segmented) -> None:
    judgment.faults("photographs", made.faults)
    rows = {row["key"]: row for row in made.rows}
    if len(rows) != len(made.rows) or made.listed != len(photos) or made.error:
        judgment.add(
            "photographs", FAULT, f"{len(photos)} files, {made.listed} listed, {len(made.rows)} rows; {made.error}"
        )
    for key, photo in photos.items():
        row = rows.get(key)
        if row is None:
            judgment.add(photo.what, FAULT, f"{key!r} has no row")
        elif key in made.pixels:
            judge_pixels(judgment, photo, made.pixels[key])
        elif row["error"] == NO_IMAGE and _begins_as_image(photo):
            judgment.add(photo.what, WRONG, f"{key!r}: bytes that begin as an image are {row['error']!r}")
        elif not row["error"] or "\n" in row["error"]:
            judgment.add(photo.what, FAULT, f"a row without one line of reason: {row}")
        else:
            judgment.add(photo.what, REFUSED if photo.clear else TOLD, row["error"])


def _begins_as_image(photo: OddPhoto) -> bool:
    return (
        bool(photo.signature)
        and photo.extension in ("png", "jpg", "webp", "tif")
        and photo.data.startswith(photo.signature)
    )


def judge_pixels(judgment: Judgment, photo: OddPhoto, pixels: np.ndarray) -> None:
    if any(looks_like(pixels, truth, photo.off) for truth in photo.truths):
        judgment.add(photo.what, READ)
    elif not photo.checked:
        judgment.add(photo.what, UNNOTICED)
    else:
        off = [
            np.abs(pixels.astype(int) - truth).mean().round(1) if pixels.shape == truth.shape else pixels.shape
            for truth in photo.truths
        ]
        judgment.add(photo.what, WRONG, f"pixels differ from the truth by {off} on average")


def judge_same_refusals(judgment: Judgment, photos: dict[str, OddPhoto], made: Segmented, prepared: Prepared) -> None:
    """Training takes a photograph exactly where segmenting does."""
    judgment.faults("photographs as samples", prepared.faults)
    if prepared.error:
        if made.pixels and not all(Path(key).suffix == "" for key in made.pixels):
            judgment.add("photographs as samples", FAULT, f"{prepared.error}, but {len(made.pixels)} were segmented")
        return
    for key in prepared.samples.keys() | prepared.skipped.keys():
        if (key in prepared.samples) != (key in made.pixels):
            judgment.add(
                photos[key].what,
                FAULT,
                f"{key!r}: {'skipped' if key in prepared.skipped else 'a sample'} of preprocess, else of segment",
            )


def try_masks(r: random.Random, work: Path, scheme: str | None = None) -> Judgment:
    """Prepare a small data set whose masks are odd in one way, or some of them."""
    judgment = Judgment()
    classes = draw_classes(r)
    height, width = r.randrange(12, 40), r.randrange(12, 40)
    masks: dict[str, tuple[str, OddMask]] = {}
    files: dict[str, bytes] = {"classes.json": json.dumps(list(classes.rows)).encode()}
    photos: dict[str, np.ndarray] = {}
    turn = r.choice([1, 1, 1, 1, *range(5, 9)]) if height != width else 1
    mixed, damage = r.random() < 0.5, r.random() < 0.2
    for number in range(r.randrange(1, 4)):
        plain_first = mixed and number == 0 and not classes.what.startswith("large")
        mask = _draw_mask(r, classes, (height, width), "ids" if plain_first else scheme, 1 if plain_first else turn)
        scheme = scheme or (None if plain_first else mask.what.split(" upright")[0].split(" as stored")[0])
        if damage and not plain_first:
            mask = _damaged_mask(r, mask)
        split = r.choice(["train", "train", "val"]) if number else "train"
        photo = draw_picture(r, height, width, smooth=True)
        key = f"{split}/images/{number}.png"
        block = chunk(b"eXIf", exif(1 if plain_first else turn, r))
        data = saved(stored(photo, 1 if plain_first else turn), "PNG")
        files |= {key: data[:33] + block + data[33:], f"{split}/masks/{number}.{mask.extension}": mask.data}
        masks[key], photos[key] = (f"{split}/masks/{number}.{mask.extension}", mask), photo
    write_files(work / "source", files)
    made = preprocess(work / "source", work / "shards", (height, width))
    judge_masks(judgment, classes, masks, made)
    judge_repetition(judgment, "masks", made, preprocess(work / "source", work / "again", (height, width)))
    for key, sample in made.samples.items():
        if not looks_like(sample.photo, photos[key], 20):
            judgment.add("masks", WRONG, f"{key}: another photograph")
    return judgment


def _draw_mask(r: random.Random, classes: ClassList, size: tuple[int, int], scheme: str | None, turn: int) -> OddMask:
    """Draw masks until one suits the classes; a turned photograph has an upright mask, or one turned as it is."""
    for attempt in range(1000):
        wanted = scheme if attempt < 100 else None
        picture = draw_labels(r, classes, *size)
        as_stored = turn > 1 and r.random() < 0.6
        mask = draw_turned(r, classes, picture, wanted, turn) if as_stored else draw_mask(r, classes, picture, wanted)
        if mask:
            return replace(mask, what=f"{mask.what} {'as stored' if as_stored else 'upright'}") if turn > 1 else mask
    raise AssertionError(f"no mask suits {classes}")


def _damaged_mask(r: random.Random, mask: OddMask) -> OddMask:
    name = r.choice(ACCIDENTS)
    data = changed_by(mask.data, name, mask.extension, r)
    noticed = may_be_noticed("", mask.extension, data, name)
    return replace(mask, what=f"{mask.what} | {name}", data=data, clear=False, checked=noticed)


def judge_masks(judgment: Judgment, classes: ClassList, masks: dict[str, tuple[str, OddMask]], made: Prepared) -> None:
    judgment.faults(f"masks, {classes.what}", made.faults)
    seen = {
        int(number)
        for sample in made.samples.values()
        if sample.split == "train"
        for number in np.unique(sample.target)
    }
    if (missing := set(range(made.classes)) - seen) and seen and not made.told.get("warnings"):
        judgment.add(f"masks, {classes.what}", WRONG, f"no pixel of the train ids {missing} in train, and no warning")
    for key, (label, mask) in masks.items():
        what = f"{mask.what}, {classes.what}"
        clear = mask.clear and classes.clear
        if key in made.samples:
            found, shared = made.samples[key].target, "can't tell them apart" in str(made.told)
            judge_target(judgment, what, replace(mask, clear=clear), found, bool(made.told), shared=shared)
        elif made.error or key in made.skipped or label in made.skipped:
            why = made.error or made.skipped.get(key) or made.skipped[label]
            judgment.add(what, REFUSED if clear else TOLD, why)
        else:
            judgment.add(what, FAULT, f"{key} is neither a sample nor a row")


def judge_target(judgment: Judgment, what: str, mask: OddMask, target: np.ndarray, told: bool, *, shared: bool) -> None:
    """Judge train ids (H, W); `told`: something was, and `shared`: that two classes have one color."""
    different = target != mask.target
    if mask.loose is not None:
        different &= ~mask.loose
    if not different.any():
        judgment.add(what, READ)
    elif not mask.checked:
        judgment.add(what, UNNOTICED)
    elif told and ((target[different] == 255).all() or (shared and not mask.clear)):
        judgment.add(what, REFUSED if mask.clear else TOLD, "its pixels count for nothing")
    else:
        pairs = sorted({(int(a), int(b)) for a, b in zip(mask.target[different], target[different], strict=True)})
        shown = ", ".join(f"{a} read as {b}" for a, b in pairs[:6])
        judgment.add(
            what, WRONG, f"{different.mean():.0%} of the pixels: train ids {shown}; told: {told}; .{mask.extension}"
        )


def try_targets(r: random.Random, work: Path) -> Judgment:
    """Prepare pairs of images without classes: the targets are as odd as photographs are, and read as these are."""
    judgment = Judgment()
    size = (r.randrange(5, 40), r.randrange(5, 40))
    targets: dict[str, OddPhoto] = {}
    files: dict[str, bytes] = {}
    for number in range(6):
        target = whole_photo(r, *size)
        target = damaged(target, r) if r.random() < 0.3 else target
        key = f"train/images/{number}.png"
        files[key] = saved(draw_picture(r, *size), "PNG")
        if target.extension in READ_EXTENSIONS:
            files[f"train/targets/{number}.{target.extension}"] = target.data
        targets[key] = target
    write_files(work / "source", files)
    made = preprocess(work / "source", work / "shards", size, layout="images")
    judgment.faults("targets", made.faults)
    for key, target in targets.items():
        what = f"target {target.what}"
        if key in made.samples:
            judge_pixels(judgment, replace(target, what=what), made.samples[key].target)
        elif made.error or key in made.skipped:
            stack = "animated" in what or "pages" in what  # of which another page may be meant
            judgment.add(what, REFUSED if target.clear and not stack else TOLD, made.error or made.skipped[key])
        else:
            judgment.add(what, FAULT, f"{key} is neither a sample nor a row")
    return judgment


READ_EXTENSIONS = {"png", "jpg", "tif", "tiff", "webp", "bmp", "gif", "ppm", "pgm", "pbm", "jp2", "j2k", "avif"}


def try_addresses(r: random.Random, work: Path) -> Judgment:
    """Segment photographs at an odd address into another one, beside places that they could be taken for."""
    judgment = Judgment()
    size = (6, 7)
    (name, decoys), (place, _) = r.choice(ROOTS), r.choice(ROOTS)
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    keys = sorted(set(r.sample(KEYS, 4)))
    own = {key: draw_picture(r, *size) for key in keys}
    for folder in (f"in/{name}", *(f"in/{decoy}" for decoy in decoys), "in/other"):
        made = own if folder == f"in/{name}" else {key: draw_picture(r, *size) for key in KEYS}
        write_files(work / folder, files := {key: saved(pixels, "PNG") for key, pixels in made.items()})
        memory.pipe({f"/{work.name}/{folder}/{key}": data for key, data in files.items()})
    kind = r.choice(
        ["plain", "plain", "slash", "slashes", "dot", "up", "quoted file", "file", "single", "memory", "memory"]
    )
    source, wanted = f"{work}/in/{name}", own
    if kind == "single":
        wanted = {keys[0].rpartition("/")[2]: own[keys[0]]}
    source = {
        "slash": f"{source}/", "slashes": f"{work}//in/{name}//", "dot": f"{work}/./in/{name}/.",
        "up": f"{work}/in/other/../{name}",
        "memory": f"memory://{work.name}/in/{name}", "quoted file": (work / "in" / name).as_uri(),
        "file": "file://" + source.replace("%", "%25"), "single": f"{source}/{keys[0]}",
    }.get(kind, source)  # fmt: skip
    what = f"address {kind}"
    result = segment(source, work / "out" / place, size)
    judgment.faults(what, result.faults)
    if result.error:
        judgment.add(what, TOLD if "file" in kind else REFUSED, f"{source.removeprefix(str(work))!r}: {result.error}")
        return judgment
    for key in wanted.keys() | result.pixels.keys():
        if key not in wanted or key not in result.pixels:
            verdict = TOLD if any(row["key"] == key and row["error"] for row in result.rows) else WRONG
            judgment.add(
                what,
                verdict,
                f"{source.removeprefix(str(work))!r}: {key!r} is {'missing' if key in wanted else 'of another place'}",
            )
        elif not looks_like(result.pixels[key], wanted[key], 1):
            judgment.add(what, WRONG, f"{source.removeprefix(str(work))!r}: {key!r} is the photograph of another place")
        else:
            judgment.add(what, READ)
    if strange := [path.name for path in (work / "out").iterdir() if path.name != place]:
        judgment.add(what, WRONG, f"masks for {place!r} went to {strange}")
    return judgment


KEYS = ("a.png", "a b.png", "a%20b.png", "x#y.png", "x?y.png", "é.png", "e\u0301.png", "sub/a.png", "sub /a.png",
"sub%2Fa.png", "A.png", "a.PNG", " a.png",
        "a.png.png", "~.png", "$a.png", "*.png", "[a].png", "new\nline.png", "a\\b.png", "#.png", "?.png", "%.png",
        "%00.png", "a&b=c.png", "a;b.png", "a+b.png")  # fmt: skip
"""Names of photographs."""


def try_folders(r: random.Random, work: Path) -> Judgment:
    """Prepare a source whose files lie and are called in some odd way, at an address that is odd, too."""
    judgment = Judgment()
    odd = r.choice(FOLDERS)(r)
    name, decoys = r.choice(ROOTS)
    odd.write(work / name)
    for decoy in decoys:  # where an address would lead that is not taken as it is written
        other = plain(r)
        other.write(work / decoy)
    made = preprocess(work / name, work / "shards", odd.size)
    judge_folder(judgment, odd, made)
    judge_repetition(judgment, odd.what, made, preprocess(work / name, work / "again", odd.size))
    return judgment


ROOTS = (
    ("source", ()), ("source", ()), ("a b", ("a%20b",)), ("a%20b", ("a b",)), ("x#y", ("x",)), ("x?y=1", ("x",)), ("ä",
    ("a\u0308",)), ("c:", ()),
    ("~", ()), ("$HOME", ()), ("s3:", ()), (" x ", ("x",)), ("*", ("b",)), ("[a]", ("a",)), ("x.", ("x",)), ("new\nline",
    ()), ("a\\b", ("a",)),
)  # fmt: skip
"""Names of sources, and what they could be taken for."""


def judge_folder(judgment: Judgment, odd: OddFolder, made: Prepared) -> None:
    judgment.faults(odd.what, made.faults)
    if made.error:
        judgment.add(odd.what, REFUSED if odd.clear and odd.targets else TOLD, made.error)
        return
    for key, sample in made.samples.items():
        if odd.rows_only or key not in odd.targets:
            judgment.add(odd.what, WRONG, f"{key!r} became a sample")
        elif (sample.target != odd.targets[key]).any():
            judgment.add(odd.what, WRONG, f"{key!r} has another label, {sample.label!r}")
        else:
            judgment.add(odd.what, READ)
    for key in (odd.targets.keys() | odd.lost) - made.samples.keys():
        why = made.skipped.get(key) or made.skipped.get(odd.labels.get(key, ""))
        if why is None:
            judgment.add(odd.what, WRONG, f"{key!r} has no row")
        else:
            judgment.add(odd.what, REFUSED if odd.clear and key in odd.targets else TOLD, f"{key!r}: {why}")


def try_outputs(r: random.Random, work: Path) -> Judgment:
    """Damage what the product wrote itself: it makes it anew, or says what is wrong; no picture is ever another one."""
    judgment = Judgment()
    size = (16, 24)
    if r.random() < 0.5:
        odd = OddFolder("damaged shards", size=size).with_classes()
        for number in range(6):
            odd.add(r, f"train/images/{number}.png", f"train/masks/{number}.png")
        odd.write(work / "source")
        preprocess(work / "source", work / "shards", size)
        what = f"damaged {_damage_one(r, work / 'shards')}"
        for again in (False, True):  # as it is, and after the same command once more
            if again:
                judgment.faults(what, preprocess(work / "source", work / "shards", size, read=False).faults)
            read = read_shards(work / "shards", size)
            judgment.faults(what, read.faults)
            for key, sample in read.samples.items():
                if (sample.target != odd.targets[key]).any():
                    judgment.add(what, WRONG, f"{key} is read with another label")
            judgment.add(what, TOLD if read.error else READ)
        return judgment
    own = {f"{number}.png": draw_picture(r, *size) for number in range(4)}
    write_files(work / "photos", {key: saved(pixels, "PNG") for key, pixels in own.items()})
    segment(work / "photos", work / "masks", size)
    what = f"damaged {_damage_one(r, work / 'masks')}"
    made = segment(work / "photos", work / "masks", size)
    judgment.faults(what, made.faults)
    if made.error:
        judgment.add(what, TOLD)
    for key, pixels in own.items() if not made.error else ():
        if key not in made.pixels or not looks_like(made.pixels[key], pixels, 0.1):
            judgment.add(
                what,
                WRONG,
                f"{key}: {'another picture' if key in made.pixels else [row for row in made.rows if row['key'] == key]}",
            )
        else:
            judgment.add(what, READ)
    return judgment


def _damage_one(r: random.Random, folder: Path) -> str:
    """Damage one file, and return what it is."""
    path = r.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size))
    accident = r.choice(ACCIDENTS)
    path.write_bytes(changed_by(path.read_bytes(), accident, path.suffix[1:], r))
    inside = path.relative_to(folder)
    return f"{'own ' if len(inside.parts) > 1 else ''}{inside.suffix[1:] or 'file'} | {accident}"


Try = Callable[[random.Random, Path], Judgment]
TRIES: dict[str, Try] = {
    "photographs": try_photographs, "masks": try_masks, "folders": try_folders, "addresses": try_addresses,
    "targets": try_targets, "outputs": try_outputs,
}  # fmt: skip
