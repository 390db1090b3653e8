from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassJaccardIndex

import fullyconv
from closeness import assert_close, assert_same_tensors
from conftest import NAMES, write_tree
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.errors import WeightsError
from fullyconv.images import read_mask
from fullyconv.labels import Labels
from fullyconv.training.module import SegmentationModule
from fullyconv.training.optimization import factor

SMALL = "fcn8s_resnet18_quarter"


def module(**changes: Any) -> SegmentationModule:
    torch.manual_seed(0)
    return SegmentationModule(**({"model": SMALL, "classes": NAMES, "optimizer": "adamw", "lr": 3e-3} | changes))


def trainer(tmp_path: Path, **changes: Any) -> L.Trainer:
    options: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": tmp_path,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return L.Trainer(**(options | changes))


def fit(tmp_path: Path, segmenter: SegmentationModule, data: SegmentationDataModule, **changes: Any) -> L.Trainer:
    run = trainer(tmp_path, **changes)
    with warnings.catch_warnings():
        # Lightning recommends workers and longer epochs; nothing of it concerns these tests.
        warnings.filterwarnings("ignore", message=".*(many workers|logging interval|treespec|sync_dist|eval mode).*")
        run.fit(segmenter, data)
    return run


def statistics(parent: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in parent.named_buffers() if "running" in name}


@pytest.fixture
def data(tree: Path) -> SegmentationDataModule:
    return SegmentationDataModule.from_folder(tree, batch_size=4, scale=(1.0, 1.0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[SegmentationModule, SegmentationDataModule, L.Trainer]:
    root = tmp_path_factory.mktemp("trained")
    data = SegmentationDataModule.from_folder(
        write_tree(root / "shapes", {"train": 16, "val": 4, "test": 4}), batch_size=4, scale=(1.0, 1.0)
    )
    segmenter = module()
    return segmenter, data, fit(root, segmenter, data, max_epochs=12)


def test_training_learns_what_the_colors_mean(trained: Any) -> None:
    segmenter, data, run = trained
    assert float(run.callback_metrics["val/mean_iou"]) > 0.8
    result = segmenter.predict(data.splits["test"][0].image)
    truth = data.labels.encode(read_mask(data.splits["test"][0].mask))
    valid = truth != 255
    assert (result.mask == truth)[valid].mean() > 0.9
    assert result.mask.shape == (48, 64)


def test_the_logged_mean_iu_is_that_of_torchmetrics_over_the_whole_set(trained: Any) -> None:
    segmenter, data, run = trained
    metric = MulticlassJaccardIndex(3, ignore_index=255)
    segmenter.eval()
    for batch in data.val_dataloader():
        with torch.inference_mode():
            metric.update(segmenter(batch["image"]).argmax(1), batch["mask"])
    assert float(run.callback_metrics["val/mean_iou"]) == pytest.approx(float(metric.compute()), abs=1e-3)


def test_loss_mean_iu_and_the_iu_of_every_class_are_logged_by_name(trained: Any) -> None:
    logged = trained[2].callback_metrics.keys()
    assert {"train/loss", "val/loss", "val/mean_iou", "val/pixel_accuracy", *(f"val/iou/{n}" for n in NAMES)} <= logged


def test_the_whole_story_is_in_the_model_folder(trained: Any, tmp_path: Path) -> None:
    segmenter = trained[0].eval()
    image = torch.rand(2, 3, 37, 50)
    loaded = SegmentationModule.from_pretrained(
        segmenter.save_pretrained(tmp_path / "a", score={"mean_iou": 12.0}, license="mine")
    )
    assert not loaded.training
    assert_same_tensors(loaded, segmenter)
    assert_close(loaded(image), segmenter(image), varying=(2, 3))
    assert loaded.labels == segmenter.labels
    assert loaded.score == {"mean_iou": 12.0}
    assert loaded.license == "mine"
    half = SegmentationModule.from_pretrained(segmenter.save_pretrained(tmp_path / "b", dtype="float16"))
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    difference = (half(image) - segmenter(image)).abs().max()
    assert 0 < difference < 0.01 * segmenter(image).abs().max()
    for name, value in statistics(segmenter.model).items():
        assert torch.equal(statistics(half.model)[name], value)


def test_a_model_folder_of_another_model_is_refused_with_a_load_report(tmp_path: Path) -> None:
    folder = module().save_pretrained(tmp_path / "a")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace(SMALL, "fcn32s_resnet18_quarter"))
    with pytest.raises(WeightsError, match=r"unknown: .*head.score.16"):
        SegmentationModule.from_pretrained(folder)
    (folder / "config.json").write_text(text.replace(SMALL, "fcn8s_vgg"))
    with pytest.raises(WeightsError, match=r"config.json: does not describe a model of this package"):
        SegmentationModule.from_pretrained(folder)


def test_a_checkpoint_holds_plain_values_and_loads_without_pickle(trained: Any, tmp_path: Path) -> None:
    segmenter, _, run = trained
    run.save_checkpoint(tmp_path / "run.ckpt")
    raw = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert raw["hyper_parameters"]["classes"] == NAMES
    loaded = SegmentationModule.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True).eval()
    assert_same_tensors(loaded, segmenter)


class TestModes:
    def test_fitting_a_loaded_segmenter_trains_in_train_mode(
        self, tmp_path: Path, data: SegmentationDataModule
    ) -> None:
        segmenter = SegmentationModule.from_pretrained(module().save_pretrained(tmp_path / "a"))
        before = statistics(segmenter.model)
        fit(tmp_path, segmenter, data)
        after = statistics(segmenter.model)
        assert all(not torch.equal(before[name], after[name]) for name in before)

    def test_batch_norm_of_frozen_parts_keeps_its_statistics_and_the_others_move(
        self, tmp_path: Path, data: SegmentationDataModule
    ) -> None:
        segmenter = module(freeze=["model.backbone.conv1", "model.backbone.bn1", "model.backbone.layer1"]).eval()
        frozen = ("backbone.bn1", "backbone.layer1")
        statistics_before, weights_before = statistics(segmenter.model), segmenter.model.state_dict()
        weights_before = {name: value.clone() for name, value in weights_before.items()}
        fit(tmp_path, segmenter, data)
        for name, value in statistics(segmenter.model).items():
            assert torch.equal(value, statistics_before[name]) == name.startswith(frozen), name
        for name, value in segmenter.model.named_parameters():
            stays = name.startswith((*frozen, "backbone.conv1"))
            assert torch.equal(value, weights_before[name]) == stays, name

    def test_predicting_leaves_every_mode_as_it_was(self) -> None:
        segmenter = module(freeze=["model.backbone.layer1"]).train()
        modes = [part.training for part in segmenter.modules()]
        first = segmenter.predict(np.zeros((20, 30, 3), dtype=np.uint8))
        assert [part.training for part in segmenter.modules()] == modes
        assert first.mask.shape == (20, 30)

    def test_freezing_a_name_that_is_not_there_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no parameter is called 'backbone' or lies under it; there are"):
            module(freeze=["backbone"])

    def test_freezing_everything_is_refused_before_training(self) -> None:
        with pytest.raises(ValueError, match="nothing is left to train"):
            module(freeze=["model"]).configure_optimizers()


class TestOptimization:
    def test_biases_learn_twice_as_fast_without_decay_and_the_backbone_slower(self) -> None:
        segmenter = module(
            optimizer="sgd", lr=0.1, bias_lr_factor=2, backbone_lr_factor=0.1, weight_decay=5e-4, schedule="constant"
        )
        groups = segmenter.configure_optimizers().param_groups
        found = {id(p): group for group in groups for p in group["params"]}
        assert len(found) == len(list(segmenter.parameters()))
        for name, parameter in segmenter.named_parameters():
            group, bias = found[id(parameter)], parameter.ndim == 1
            backbone = name.startswith("model.backbone.")
            assert group["lr"] == pytest.approx(0.1 * (2 if bias else 1) * (0.1 if backbone else 1)), name
            assert group["weight_decay"] == (0 if bias else 5e-4), name

    @pytest.mark.parametrize(
        ("schedule", "expected"),
        [("poly", [1, 0.75**0.9, 0.5**0.9, 0]), ("cosine", [1, 0.853553, 0.5, 0]), ("constant", [1, 1, 1, 1])],
    )
    def test_schedules_end_at_the_last_step(self, schedule: Any, expected: list[float]) -> None:
        segmenter = module(schedule=schedule)
        assert [factor(segmenter.hparams, step, 100) for step in (0, 25, 50, 100)] == pytest.approx(expected)

    def test_warm_up_rises_to_the_base_rate(self) -> None:
        segmenter = module(schedule="poly", warmup_steps=4)
        assert [factor(segmenter.hparams, step, 104) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])

    def test_the_averaged_weights_are_what_is_validated_and_kept(
        self, tmp_path: Path, data: SegmentationDataModule
    ) -> None:
        # plain gradient descent: where a gradient is all rounding, adamw makes a whole step of its sign
        plain, averaged = (
            module(schedule="constant", optimizer="sgd", lr=0.1, ema_decay=decay) for decay in (None, 0.5)
        )
        states: list[dict[str, torch.Tensor]] = []

        class Record(L.Callback):
            def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
                states.append({n: p.detach().clone() for n, p in pl_module.named_parameters()})

        fit(tmp_path, plain, data, callbacks=[Record()])
        assert len(states) == 2
        fit(tmp_path, averaged, data)
        # The first step is copied, the second one averaged in while the decay is at (1 + 1) / (10 + 1).
        for name, value in averaged.named_parameters():
            assert_close(value, 2 / 11 * states[0][name] + 9 / 11 * states[1][name])


class TestProvenance:
    def test_a_score_measured_on_other_weights_is_not_kept(self, tmp_path: Path, data: SegmentationDataModule) -> None:
        first = module()
        first.save_pretrained(tmp_path / "first", score={"mean_iou": 99.0}, license="academic use")
        loaded = SegmentationModule.from_pretrained(tmp_path / "first")
        assert loaded.score == {"mean_iou": 99.0}
        fit(tmp_path, loaded, data, limit_train_batches=1)
        again = SegmentationModule.from_pretrained(loaded.save_pretrained(tmp_path / "second"))
        assert again.score is None
        assert again.license == "academic use"
        assert again.training_record == {"started from": "first"}

    def test_the_license_of_the_weights_binds_what_is_made_from_them(self, tmp_path: Path) -> None:
        module(model="fcn32s_resnet18_quarter").save_pretrained(tmp_path / "first", license="academic use")
        loaded = SegmentationModule.from_pretrained(tmp_path / "first")
        for other in (loaded.with_classes(Labels.of(["a", "b"])), loaded.grow(16)):
            assert other.license == "academic use"
            assert other.training_record == {"started from": "first"}
            assert other.score is None

    def test_a_run_does_not_go_on_with_other_classes(self, tmp_path: Path, data: SegmentationDataModule) -> None:
        run = fit(tmp_path, module(), data, limit_train_batches=1)
        run.save_checkpoint(tmp_path / "run.ckpt")
        other = module(classes=["ground", "sky", "box"])
        with pytest.raises(ValueError, match=r"the checkpoint has classes=.*the module .*only with the same"):
            trainer(tmp_path).validate(other, data.val_dataloader(), ckpt_path=tmp_path / "run.ckpt")

    @pytest.mark.filterwarnings("ignore:this processor only emulates")
    def test_half_precision_predicts_and_saves(self, tmp_path: Path) -> None:
        image = np.random.default_rng(0).integers(0, 255, (33, 40, 3)).astype(np.uint8)
        for dtype in (torch.bfloat16, torch.float64):
            segmenter = module().to(dtype)
            assert segmenter.predict(image).mask.shape == (33, 40)
            assert SegmentationModule.from_pretrained(segmenter.save_pretrained(tmp_path / str(dtype))).classes == NAMES


class TestDifferentData:
    def test_data_with_other_classes_is_refused_before_anything_is_trained(
        self, tmp_path: Path, data: SegmentationDataModule
    ) -> None:
        with pytest.raises(ValueError, match=r"the data has classes=.* the model .*classes=data.classes"):
            fit(tmp_path, module(classes=["box", "ground", "sky"]), data)

    def test_other_classes_keep_everything_but_the_score_layers(self) -> None:
        segmenter = module()
        nn.init.normal_(segmenter.model.get_submodule("head").score["32"].weight)
        other = segmenter.with_classes(Labels.of(["a", "b", "c"]))
        assert other.classes == ["a", "b", "c"]
        assert other.reinitialized == tuple(
            sorted(f"head.score.{stride}.{part}" for stride in (8, 16, 32) for part in ("weight", "bias"))
        )
        own = segmenter.model.state_dict()
        for name, value in other.model.state_dict().items():
            if name in other.reinitialized:
                assert not value.any(), name
            else:
                assert torch.equal(value, own[name]), name
        same = segmenter.with_classes(segmenter.labels)
        assert same.reinitialized == ()
        assert all(torch.equal(value, own[name]) for name, value in same.model.state_dict().items())
        assert segmenter.with_classes(Labels.of(["x", "y"])).model(torch.rand(1, 3, 8, 8)).shape == (1, 2, 8, 8)

    def test_the_next_stage_starts_at_the_outputs_of_this_one(self) -> None:
        stage = module(model="fcn32s_resnet18_quarter").eval()
        nn.init.normal_(stage.model.get_submodule("head").score["32"].weight)
        image = torch.rand(1, 3, 64, 96)
        before = stage(image)
        for stride in (16, 8, 4):
            stage = stage.grow(stride)
            assert stage.hparams["model"] == f"fcn{stride}s_resnet18_quarter"
            assert_close(stage(image), before, varying=(2, 3))
        for name, stride in (("fcn4s_resnet18_quarter", 2), ("fcn32s_resnet18_quarter", 8), ("fcn8s_googlenet", 4)):
            with pytest.raises(ValueError, match=rf"stride={stride}: {name} has no such next stage"):
                module(model=name).grow(stride)

    def test_mixed_sizes_are_scored_as_if_each_image_were_alone(self, tmp_path: Path) -> None:
        root = write_tree(tmp_path / "mixed", {"train": 4, "val": 2, "test": 2})
        for size, seed in (((33, 70), 5), ((61, 40), 6)):
            other = write_tree(tmp_path / f"other{seed}", {"test": 1}, size, seed)
            for kind in ("images", "masks"):
                (other / "test" / kind / "000.png").rename(root / "test" / kind / f"{seed}.png")
        segmenter = module().eval()
        nn.init.normal_(segmenter.model.get_submodule("head").score["8"].weight)
        together = SegmentationDataModule.from_folder(root, eval_batch_size=4)
        alone = SegmentationDataModule.from_folder(root, eval_batch_size=1)
        results = []
        for data in (together, alone):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*(many workers|treespec|sync_dist).*")
                trainer(tmp_path).test(segmenter, data, verbose=False)
            results.append(segmenter.test_scores)
        assert results[0].pixels == results[1].pixels
        assert results[0].iou == pytest.approx(results[1].iou, abs=5e-3)
        assert 0.01 < results[0].mean_iou < 0.99


PROCESSES = """
import json, sys, warnings
import torch
import lightning as L
from fullyconv import SegmentationDataModule, SegmentationModule

warnings.simplefilter("ignore")
torch.set_num_threads(1)
folder, data = sys.argv[1:]
segmenter = SegmentationModule.from_pretrained(folder)
run = L.Trainer(
    accelerator="cpu", devices=2, strategy="ddp_fork", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
result = run.validate(segmenter, SegmentationDataModule.from_folder(data, batch_size=2), verbose=False)[0]
print("RESULT", json.dumps(result))
"""


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(tmp_path: Path) -> None:
    # Seven images: a padded sampler would count one of them twice. From a process of their own, because one that has
    # computed gradients cannot be forked.
    root = write_tree(tmp_path / "odd", {"train": 4, "val": 7})
    segmenter = module()
    nn.init.normal_(segmenter.model.get_submodule("head").score["8"].weight)
    folder = segmenter.save_pretrained(tmp_path / "a")
    done = subprocess.run(
        [sys.executable, "-c", PROCESSES, str(folder), str(root)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stderr
    two = json.loads(lines[0].removeprefix("RESULT "))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(many workers|treespec|sync_dist).*")
        data = SegmentationDataModule.from_folder(root, batch_size=2)
        one = trainer(tmp_path).validate(SegmentationModule.from_pretrained(folder), data, verbose=False)[0]
    keys = [key for key in one if key != "val/loss"]
    assert len(keys) >= 4
    for key in keys:
        assert two[key] == pytest.approx(one[key], abs=1e-3), key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": None}, "name at least two classes"),
        ({"classes": ["only"]}, "name at least two classes"),
        ({"model": "fcn8_resnet18_quarter"}, "Did you mean"),
        ({"class_weights": [1.0]}, "1 entries for 3 classes"),
        ({"ema_decay": 1.0}, "ema_decay=1.0: must lie between 0 and 1"),
        ({"schedule": "linear"}, 'choose "constant", "poly" or "cosine"'),
        ({"optimizer": "adam"}, 'choose "sgd" or "adamw"'),
        ({"lr": -1.0}, "lr=-1.0: must be a positive number"),
        ({"loss": "ce"}, "no loss is called 'ce'"),
        ({"ignore_index": 1}, "ignore_index=1"),
        ({"ignore_index": -100}, "ignore_index=-100"),
        ({"in_channels": 4}, "the preprocessing has 3 channels"),
        ({"lr": "0.1"}, "lr='0.1': must be a positive number"),
        ({"weight_decay": float("nan")}, "weight_decay=nan"),
        ({"warmup_steps": -5}, "warmup_steps=-5"),
        ({"freeze": "model.backbone"}, "give a list of prefixes"),
        ({"model": None}, "model=None: give a name"),
        ({"classes": ["a", "b\x1b[31m\n# c"]}, "one printable line"),
        ({"class_weights": [0.0, 0.0, 0.0]}, "some above 0"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(**changes)


def test_labels_bring_palette_values_and_what_is_ignored_along(tmp_path: Path) -> None:
    labels = Labels.of(["road", "sky"], palette=[(1, 2, 3), (4, 5, 6)], values={0: "ignore", 7: "road", 9: "sky"})
    segmenter = SegmentationModule("fcn32s_resnet18_quarter", classes=labels)
    assert segmenter.labels == labels
    assert segmenter.hparams["classes"] == ["road", "sky"]
    assert fullyconv.load(segmenter.save_pretrained(tmp_path / "a")).labels == labels
    with pytest.raises(ValueError, match="leave these out"):
        SegmentationModule("fcn32s_resnet18_quarter", classes=labels, palette=[[0, 0, 0], [1, 1, 1]])


def test_a_schedule_without_an_end_is_refused(tmp_path: Path, data: SegmentationDataModule) -> None:
    with pytest.raises(ValueError, match="set max_epochs or max_steps"):
        fit(tmp_path, module(), data, max_epochs=-1, limit_train_batches=1)


class TestFurtherClasses:
    def segmenter(self, upsampling: str = "bilinear") -> SegmentationModule:
        torch.manual_seed(0)
        module = SegmentationModule("fcn8s_resnet18_quarter", classes=["sky", "road"], upsampling=upsampling)
        with torch.no_grad():
            for parameter in module.model.head.parameters():
                parameter.normal_()
        return module.eval()

    @pytest.mark.parametrize("upsampling", ["bilinear", "learned"])
    def test_old_classes_keep_their_scores_and_new_ones_start_at_zero(self, upsampling: str) -> None:
        own = self.segmenter(upsampling)
        grown = own.expand_classes(["crack", "wall"])
        image = torch.rand(1, 3, 64, 96)
        with torch.inference_mode():
            before, after = own(image), grown(image)
        assert_close(after[:, :2], before, varying=(2, 3))
        assert (after[:, 2:] == 0).all()
        assert grown.classes == ["sky", "road", "crack", "wall"]
        assert grown.load_report is not None
        assert set(grown.load_report.adapted) >= {"head.score.32.weight", "head.score.16.weight", "head.score.8.weight"}
        assert grown.load_report.reinitialized == ()
        assert len(grown.load_report.copied) + len(grown.load_report.adapted) == len(grown.model.state_dict())

    def test_names_colors_and_values_of_the_old_classes_stay(self) -> None:
        own = self.segmenter()
        grown = own.expand_classes(["crack"])
        assert grown.labels.palette[:2] == own.labels.palette
        assert len(set(grown.labels.palette)) == 3
        assert grown.labels.values == {0: "sky", 1: "road", 2: "crack", 255: "ignore"}

    def test_a_value_that_is_taken_is_not_given_away(self) -> None:
        own = self.segmenter().with_classes(Labels.of(["sky", "road"], values={0: "sky", 1: "road", 2: "ignore"}))
        values = own.expand_classes(["crack", "wall"]).labels.values
        assert values == {0: "sky", 1: "road", 2: "ignore", 3: "crack", 4: "wall", 255: "ignore"}
        labels = Labels.of(["sky", "road", "crack"], values={0: "sky", 1: "road", 2: "ignore", 7: "crack"})
        assert own.expand_classes(labels).labels == labels

    @pytest.mark.parametrize(
        ("classes", "message"),
        [
            ("crack", "is one string; give a list of names"),
            (["road"], "holds 'road' twice"),
            ([], "must begin with the known ones"),
            (Labels.of(["road", "sky", "crack"]), "must begin with the known ones"),
            (Labels.of(["sky"]), "must begin with the known ones"),
        ],
    )
    def test_what_does_not_go_on_from_the_old_classes_is_refused(self, classes: object, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.segmenter().expand_classes(classes)  # type: ignore[arg-type]
