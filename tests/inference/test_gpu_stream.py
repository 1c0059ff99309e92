"""The stream's logic, on the processor: tests/test_cuda.py runs it on a GPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitseg.architecture import Architecture
from vitseg.config import load_recipe
from vitseg.errors import DataError
from vitseg.inference import chunk, gpu_stream
from vitseg.inference.gpu_stream import GpuStream, lend_stream, upsample_batch
from vitseg.inference.upsample import upsample_colors, upsample_scores
from vitseg.labels import palette, train_classes
from vitseg.model.bundle import Bundle, load_bundle, save_bundle
from vitseg.model.segmenter import Segmenter, build_model
from vitseg.precision import Precision

from .conftest import encode, put, read_ids, rows, run

CPU = torch.device("cpu")
FLOAT32 = Precision("float32", "of a test")
SIZE = (16, 24)
SIZES = [(16, 24), (16, 24), (40, 30), (5, 70), (5, 70)]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle", "classes")


def make_bundle(folder: Path, target: str) -> Bundle:
    arch = Architecture(patch_size=8, encoder_projection=8, blocks=1, heads=1, head_width=4, mlp_units=(8,),
                        decoder_projection=8, decoder_mlp_units=(8,), target=target)  # fmt: skip
    network = build_model(arch, SIZE, 19 if target == "classes" else 0, seed=1)
    torch.nn.init.normal_(network.decoder.head.weight, std=0.5)  # or classes are about equally likely
    save_bundle(folder, network, train_classes() if target == "classes" else ())
    return load_bundle(folder)


def photos(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), np.uint8))


def predict_alone(bundle: Bundle, photo: np.ndarray) -> torch.Tensor:
    network = bundle.predict if bundle.classes else bundle.colors
    return network(torch.from_numpy(photo).permute(2, 0, 1)[None])[0].contiguous()


@pytest.mark.parametrize("at_once", [2**27, 19 * 24 * 40, 500])
def test_predictions_are_those_of_the_processor(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(gpu_stream, "_SCORES_AT_ONCE", at_once)
    batch = photos(5)
    found = GpuStream(bundle, CPU, 8, precision=FLOAT32, flip=False).launch(batch, SIZES)()
    for photo, size, ours in zip(batch, SIZES, found, strict=True):
        theirs = upsample_scores(predict_alone(bundle, photo), size)
        assert ours.ids.shape == size
        assert (ours.ids == theirs.ids).mean() > 0.99  # but where two classes are equal but for rounding
        assert ours.mean_confidence == pytest.approx(theirs.mean_confidence, abs=1e-5)
        assert np.abs(ours.confidence.astype(int) - theirs.confidence).max() <= 1


def test_images_of_a_model_without_classes_are_those_of_the_processor(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "rgb")
    batch = photos(5)
    found = GpuStream(bundle, CPU, 5, precision=FLOAT32, flip=False).launch(batch, SIZES)()
    for photo, size, ours in zip(batch, SIZES, found, strict=True):
        theirs = upsample_colors(predict_alone(bundle, photo), size)
        assert np.abs(ours.colors.astype(int) - theirs.colors).max() <= 1


def test_a_mask_depends_neither_on_its_neighbors_nor_on_their_number(bundle: Bundle) -> None:
    stream = GpuStream(bundle, CPU, 4, precision=FLOAT32, flip=True)
    one, *others = photos(4)
    masks = [
        stream.launch(batch, [(40, 30)] * len(batch))()[place].ids.copy()
        for batch, place in [([one], 0), ([*others, one], 3), ([one, others[1]], 0)]
    ]
    assert all(np.array_equal(masks[0], mask) for mask in masks[1:])


class Graph:
    """Replays as a CUDA graph does: from the same buffer into the same memory."""

    def __init__(self, stream: GpuStream) -> None:
        self.stream, self.found = stream, stream._predict()

    def replay(self) -> None:
        for old, new in zip(self.found, self.stream._predict(), strict=True):
            old.copy_(new)


def test_a_batch_is_unharmed_by_the_next_one_that_is_launched_before_it_is_collected(bundle: Bundle) -> None:
    stream, (one, two) = GpuStream(bundle, CPU, 1, precision=FLOAT32, flip=False), photos(2)
    wanted = [stream.launch([photo], [SIZE])() for photo in (one, two)]
    with torch.inference_mode():
        stream._graph = graph = Graph(stream)
        stream._found = graph.found
    waiting = [stream.launch([photo], [SIZE]) for photo in (one, two)]
    for (theirs,), collect in zip(wanted, waiting, strict=True):
        (ours,) = collect()
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        np.testing.assert_array_equal(ours.confidence, theirs.confidence)
        assert ours.mean_confidence == theirs.mean_confidence


class Devices(TorchDispatchMode):
    """Notes the devices of the tensors that operations get."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= {value.device.type for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("preset", ["tiny", "small", "base", "vit-base", "paper"])
def test_a_graph_can_hold_every_preset_as_from_the_second_pass_on_nothing_is_copied_to_the_device(preset: str) -> None:
    arch, meta = load_recipe(preset).model, torch.device("meta")  # a device without memory, other than the processor
    with meta:
        model = Segmenter(arch, (64, 96), 19).eval().to(meta)
    classes = train_classes()
    bundle = Bundle(model, arch, classes, (64, 96), palette(classes), "", "", {})
    images = torch.zeros(2, 3, 64, 96, dtype=torch.uint8, device=meta)
    bundle.predict(images)
    with Devices() as devices:
        bundle.predict(images)
    assert devices.seen == {"meta"}


@pytest.mark.parametrize("target", ["classes", "rgb"])
def test_output_that_is_not_numbers_is_an_error(tmp_path: Path, target: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", target)
    bundle.model.decoder.head.bias.fill_(float("nan"))
    collect = GpuStream(bundle, CPU, 2, precision=FLOAT32, flip=False).launch(photos(2), [SIZE, SIZE])
    with pytest.raises(DataError, match="not numbers"):
        collect()


def test_scaled_at_once_are_no_more_scores_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(5, 3, 8, 8)
    wanted = F.interpolate(scores, size=(20, 30), mode="bilinear").argmax(1)
    made: list[int] = []
    interpolate = F.interpolate

    def watched(*arguments: torch.Tensor, **options: object) -> torch.Tensor:
        made.append((found := interpolate(*arguments, **options)).numel())
        return found

    monkeypatch.setattr(F, "interpolate", watched)
    for most in (3 * 20 * 30 * 2, 3 * 30 * 7):  # two images, or seven rows of one
        monkeypatch.setattr(gpu_stream, "_SCORES_AT_ONCE", most)
        made.clear()
        assert (upsample_batch(scores, (20, 30)) == wanted).float().mean() > 0.99
        assert max(made) <= most


def test_a_stream_is_lent_again_and_never_to_two_at_once(bundle: Bundle) -> None:
    with (
        lend_stream(bundle, CPU, 2, precision=FLOAT32, flip=False) as one,
        lend_stream(bundle, CPU, 2, precision=FLOAT32, flip=False) as two,
    ):
        assert one is not two
    with lend_stream(bundle, CPU, 2, precision=FLOAT32, flip=False) as again:
        assert again in (one, two)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Jobs use streams; the list gets the batches under way, and their images, at each launch."""
    seen: list[tuple[int, int]] = []
    waiting: list[object] = []
    launch = GpuStream.launch

    def watched(stream: GpuStream, images: list[np.ndarray], sizes: list[tuple[int, int]]) -> Callable[[], object]:
        collect = launch(stream, images, sizes)
        waiting.append(collect)
        seen.append((len(waiting), len(images)))
        return lambda: (waiting.remove(collect), collect())[1]

    monkeypatch.setattr(chunk, "batches_ahead", lambda context: 1)
    monkeypatch.setattr(GpuStream, "launch", watched)
    return seen


def test_a_job_launches_one_batch_ahead_and_every_image_gets_its_own_mask(
    folders: tuple[Path, Path], bundle: Bundle, launched: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, dest = folders
    batch = photos(11)
    for number, photo in enumerate(batch):
        put(source, f"{number:02}.png", encode(np.tile(photo, (1 + number % 2, 1, 1))))
    put(source, "05.png", b"no image")
    monkeypatch.setattr(chunk, "load_once", lambda model: bundle)
    job, summary = run(source, dest, chunk_images=20, batch_size=3)
    assert (summary.ok, summary.failed) == (10, 1)
    assert [row["status"] for row in rows(job)] == ["ok"] * 5 + ["failed"] + ["ok"] * 5
    assert launched == [(1, 3), (2, 3), (2, 3), (2, 1)]
    for number in (0, 2, 4, 6, 8, 10):
        wanted = upsample_scores(predict_alone(bundle, batch[number]), SIZE).ids
        assert (read_ids(dest / f"{number:02}.png.png") == wanted).mean() > 0.99


def test_a_batch_of_large_images_is_launched_before_it_is_full(
    folders: tuple[Path, Path], bundle: Bundle, launched: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, dest = folders
    for number, photo in enumerate(photos(4)):
        put(source, f"{number}.png", encode(photo))
    monkeypatch.setattr(chunk, "load_once", lambda model: bundle)
    monkeypatch.setattr(chunk, "_PIXELS_LAUNCHED", SIZE[0] * SIZE[1])
    assert run(source, dest, batch_size=4)[1].ok == 4
    assert [count for _, count in launched] == [2, 2]
