"""Features of a frozen encoder: computed once, by all ranks together, and what training makes of them."""

import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.training.conftest import MakeTrainer, Power, small_recipe, weights
from vitseg import dist
from vitseg.data.features import FEATURES
from vitseg.data.manifest import read_manifest
from vitseg.dist import World
from vitseg.errors import RankLostError, UsageError
from vitseg.recipe import Recipe
from vitseg.training import features as features_module
from vitseg.training.features import encoder_digest, kept_features
from vitseg.training.job import Job
from vitseg.training.loop import Trainer
from vitseg.training.objectives.segmentation import Segmentation
from vitseg.training.worker import batches_of

CPU = torch.device("cpu")
FROZEN = ["model.encoder=frozen", "optimizer.learning_rate=0.01"]


@pytest.fixture
def copy(shards: str, tmp_path: Path) -> str:
    """Copy the shards, for features are written beside them."""
    folder = tmp_path / "copy"
    shutil.copytree(shards, folder, ignore=shutil.ignore_patterns("_vitseg"))
    return str(folder)


def objective_of(shards: str, recipe: Recipe) -> Segmentation:
    """Return an objective whose encoder is the same, whatever its decoder is."""
    manifest = read_manifest(shards)
    model = Segmentation.build_model(recipe, manifest)
    encoder = Segmentation.build_model(
        dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, decoder="patch")), manifest
    )
    model.encoder.load_state_dict(encoder.encoder.state_dict())
    return Segmentation(model, recipe, manifest)


def job_of(shards: str, recipe: Recipe) -> Job:
    return Job("folder", shards, "f" * 64, recipe)


def find(shards: str, recipe: Recipe, world: World | None = None, objective: Segmentation | None = None):
    manifest, world = read_manifest(shards), world or World(0, 1, CPU)
    objective = objective or objective_of(shards, recipe)
    return kept_features(job_of(shards, recipe), objective, manifest, world, lambda: None)


def files(shards: str) -> set[str]:
    return {path.name for path in Path(shards, FEATURES).rglob("*.f16")}


def test_a_batch_brings_what_the_encoder_says_of_its_images(copy: str) -> None:
    recipe = small_recipe(*FROZEN, "model.decoder=spiral")
    objective, manifest = objective_of(copy, recipe), read_manifest(copy)
    features = find(copy, recipe)
    assert len(files(copy)) == 3 * 2 + 1  # training shards, mirrored too, and that of validation
    for batches in batches_of(copy, manifest, recipe, World(0, 1, CPU), features):
        for batch in batches.epoch(0):
            images, labels, tokens = objective.inputs(batch, 0, range(len(batch.keys)))
            assert tokens.shape == (len(images), 4 * 8, 32)
            torch.testing.assert_close(tokens.float(), objective.model.encode(images), rtol=2e-3, atol=2e-3)
            with torch.no_grad():
                output = objective.model(*objective.model_inputs(images, labels, tokens))
                wanted = objective.model(*objective.model_inputs(images, labels))
                torch.testing.assert_close(output, wanted, rtol=0.01, atol=0.01)


def test_the_next_training_with_the_same_encoder_finds_them(
    copy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find(copy, small_recipe(*FROZEN))
    assert (
        "features of 24 training photographs and their mirror images and 6 of validation, 0.1 MB"
        in capsys.readouterr().out
    )
    monkeypatch.setattr(features_module, "_compute", lambda *arguments: pytest.fail("computed again"))
    for other in (["model.decoder=linear"], ["run.epochs=7"], ["data.flip=false"], ["model.dropout=0.1"]):
        assert find(copy, small_recipe(*FROZEN, *other))
        assert "found in" in capsys.readouterr().out


def test_jobs_that_measure_their_precision_share_features_however_that_ended(
    copy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, manifest = small_recipe(*FROZEN, "run.precision=auto"), read_manifest(copy)
    for name, wanted in (("bfloat16", "computed once"), ("float32", "found in")):
        objective = objective_of(copy, recipe)
        objective.compute_in(name)
        kept_features(job_of(copy, recipe), objective, manifest, World(0, 1, CPU), lambda: None)
        assert wanted in capsys.readouterr().out


@pytest.mark.parametrize(
    "other", ["run.seed=1", "model.heads=1", "model.pixels=fixed", "run.precision=bfloat16", "run.deterministic=true"]
)
def test_another_encoder_has_other_features(shards: str, other: str) -> None:
    digests = set()
    for recipe in (small_recipe(*FROZEN), small_recipe(*FROZEN, other)):
        digests.add(encoder_digest(objective_of(shards, recipe).model, recipe.run))
    assert len(digests) == 2


def test_an_interrupted_computation_keeps_whole_shards_and_goes_on(copy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, encode, batches = small_recipe(*FROZEN), features_module._encode, 0

    def cut(*arguments: object) -> torch.Tensor:
        nonlocal batches
        batches += 1
        if batches == 4:  # mirrored photographs of the second shard
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(features_module, "_encode", cut)
    with pytest.raises(KeyboardInterrupt):
        find(copy, recipe)
    whole = files(copy)
    assert len(whole) == 2
    find(copy, recipe)
    assert files(copy) > whole
    assert batches == 4 + 5  # none of the first shard


def test_ranks_share_the_work_and_wait_for_each_other(copy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "_POLL_S", 0.01)
    computed, compute = [], features_module._compute

    def spy(features, objective, shards, manifest, split, shard, views):
        computed.append(shard.name)
        return compute(features, objective, shards, manifest, split, shard, views)

    monkeypatch.setattr(features_module, "_compute", spy)
    recipe = small_recipe(*FROZEN)
    objectives = [objective_of(copy, recipe) for _ in range(2)]  # here: threads share torch's random numbers
    with ThreadPoolExecutor(2) as pool:
        ranks = list(pool.map(lambda rank: find(copy, recipe, World(rank, 2, CPU), objectives[rank]), range(2)))
    names = [shard.name for split in read_manifest(copy).splits.values() for shard in split.shards]
    assert sorted(computed) == sorted(names)
    for features in ranks:
        assert not any(
            features.missing(shard, ["photos"])
            for split in read_manifest(copy).splits.values()
            for shard in split.shards
        )


def test_ranks_with_other_weights_stop_instead_of_waiting_for_each_other(
    copy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(*FROZEN)
    own = int(encoder_digest(objective_of(copy, recipe).model, recipe.run)[:4], 16)
    for other, agrees in ((own, True), (own ^ 1, False)):  # what the second rank adds
        added = torch.tensor([other, other**2], dtype=torch.float64)
        with monkeypatch.context() as patch:
            patch.setattr(dist, "place", lambda: (0, 2))
            patch.setattr(dist, "sum_over_ranks", lambda mine, added=added: mine + added)
            if agrees:
                assert find(copy, recipe)
            else:
                with pytest.raises(RankLostError, match="disagree about the weights of the frozen encoder"):
                    find(copy, recipe)


def test_features_that_change_or_do_not_stay_are_not_kept(copy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert find(copy, small_recipe()) is None
    assert find(copy, small_recipe("model.encoder=1")) is None
    assert capsys.readouterr().out == ""
    for augment in ("augment.color=0.1", "augment.scale=[1.0, 1.5]"):
        assert find(copy, small_recipe(*FROZEN, augment)) is None
        assert "features are computed in each step" in capsys.readouterr().out
    assert not files(copy)


def test_more_than_the_limit_is_refused_before_anything_is_written(copy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITSEG_CACHE_GB", "0.0001")
    with pytest.raises(UsageError, match=r"0\.1 MB, would be more than VITSEG_CACHE_GB=0\.0001: raise it"):
        find(copy, small_recipe(*FROZEN))
    assert not files(copy)


def test_training_on_them_is_training_the_decoder_alone(make_trainer: MakeTrainer, copy: str) -> None:
    recipe = small_recipe(*FROZEN, "model.decoder=linear", "run.epochs=2", "optimizer.accumulate=2")
    manifest = read_manifest(copy)
    features = kept_features(
        job_of(copy, recipe), make_trainer("any", recipe).objective, manifest, World(0, 1, CPU), lambda: None
    )

    def make(name: str, logger: Power, *, kept: bool = True) -> Trainer:
        trainer = make_trainer(name, recipe, logger)
        kept_ones = features if kept else None
        trainer.data, trainer.validation = batches_of(copy, manifest, recipe, World(0, 1, CPU), kept_ones)
        encoder = trainer.model.encoder
        if kept:
            encoder.register_forward_pre_hook(lambda *_: pytest.fail("the encoder was asked"))
        return trainer

    plain = make("plain", Power(), kept=False)
    before = weights(plain)
    wanted = plain.run()
    straight = make("straight", Power())
    history = straight.run()
    assert history[-1]["train/loss"] == pytest.approx(wanted[-1]["train/loss"], rel=0.01)
    assert history[-1]["val/loss"] == pytest.approx(wanted[-1]["val/loss"], rel=0.01)
    with pytest.raises(KeyboardInterrupt):
        make("cut", Power(4)).run()
    resumed = make("cut", Power())
    assert resumed.run() == history
    for name, tensor in weights(straight).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
        if name.startswith("encoder."):
            assert torch.equal(tensor, before[name]), name
