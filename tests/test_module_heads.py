"""A module with several heads: the same keys in classes, logits, masks, predictions, metrics and the model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from closeness import assert_close, assert_same_mask, assert_same_tensors
from fullyconv.errors import WeightsError
from fullyconv.inference.segmentation import Segmentation
from fullyconv.labels import Labels
from fullyconv.training.module import SegmentationModule

CLASSES = {"semantic": ["sky", "road", "tree"], "geometric": ["above", "ground"]}
PRESET = "fcn16s_resnet18_quarter"


def make(**options: Any) -> SegmentationModule:
    torch.manual_seed(0)
    module = SegmentationModule(PRESET, classes=CLASSES, **options)
    for name, parameter in module.named_parameters():
        if ".score." in name:
            nn.init.normal_(parameter, std=0.1)
    return module.eval()  # type: ignore[return-value]


class Scenes(Dataset[dict[str, Any]]):
    """Images whose brightness tells the class; the two tasks divide them at different places."""

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        height, width = self.sizes[index]
        generator = torch.Generator().manual_seed(index)
        level = torch.randint(0, 3, (1, -(-height // 16), -(-width // 16)), generator=generator)
        level = level.repeat_interleave(16, 1).repeat_interleave(16, 2)[0, :height, :width]
        return {
            "image": (level / 2).expand(3, -1, -1) + 0.0,
            "mask": {"semantic": level.clone(), "geometric": (level > 0).long()},
            "size": torch.tensor([height, width]),
            "path": str(index),
        }


def loader(sizes: list[tuple[int, int]], batch: int = 2) -> DataLoader[dict[str, Any]]:
    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        height, width = (max(int(sample["size"][axis]) for sample in samples) for axis in (0, 1))

        def stacked(tensors: list[Tensor], value: float) -> Tensor:
            padded = [
                nn.functional.pad(t, (0, width - t.shape[-1], 0, height - t.shape[-2]), value=value) for t in tensors
            ]
            return torch.stack(padded)

        return {
            "image": stacked([sample["image"] for sample in samples], 0.5),
            "mask": {name: stacked([sample["mask"][name] for sample in samples], 255) for name in CLASSES},
            "size": torch.stack([sample["size"] for sample in samples]),
            "path": [sample["path"] for sample in samples],
        }

    return DataLoader(Scenes(sizes), batch_size=batch, collate_fn=collate)


def trainer(**options: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return L.Trainer(enable_model_summary=False, **(quiet | options))


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*fit.*logging interval.*")
def test_training_sums_the_losses_and_scores_every_head() -> None:
    torch.manual_seed(0)
    module = SegmentationModule(PRESET, classes=CLASSES, optimizer="adamw", lr=2e-3, schedule="constant")
    run = trainer(max_epochs=8, log_every_n_steps=1)
    run.fit(module, loader([(64, 96)] * 8), loader([(64, 96), (48, 80)]))
    logged = run.callback_metrics
    assert logged["val/mean_iou"] == logged["val/semantic/mean_iou"]
    assert {
        "val/geometric/mean_iou",
        "val/geometric/iou/ground",
        "val/semantic/iou/road",
        "train/loss",
    } <= logged.keys()
    assert logged["val/geometric/mean_iou"] > 0.5  # both classes by chance: a third
    assert logged["val/semantic/mean_iou"] > 0.35
    assert module.load_report is None


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_test_scores_are_those_of_each_head_at_each_images_own_size() -> None:
    module = make()
    run = trainer()
    run.test(module, loader([(48, 64), (32, 80), (40, 40)]), verbose=False)
    together = module.test_scores
    assert set(together) == set(CLASSES)  # type: ignore[arg-type]
    run.test(module, loader([(48, 64), (32, 80), (40, 40)], batch=1), verbose=False)
    for name, result in module.test_scores.items():  # type: ignore[attr-defined]
        assert result.iou == pytest.approx(together[name].iou, abs=5e-3)  # type: ignore[index]
        assert result.pixels == 48 * 64 + 32 * 80 + 40 * 40
    assert run.callback_metrics["test/mean_iou"] == run.callback_metrics["test/semantic/mean_iou"]


def test_loss_is_the_sum_of_the_losses_of_the_heads() -> None:
    module = make(class_weights={"geometric": [1.0, 3.0]})
    batch = next(iter(loader([(48, 64), (48, 64)])))
    logits = module(batch["image"])
    single = nn.functional.cross_entropy
    expected = single(logits["semantic"], batch["mask"]["semantic"]) + single(
        logits["geometric"], batch["mask"]["geometric"], weight=torch.tensor([1.0, 3.0])
    )
    assert_close(module.loss(logits, batch["mask"]), expected)
    with pytest.raises(
        ValueError, match=r'batch\["mask"\] has a Tensor; give a dict with masks for each head: semantic'
    ):
        module.loss(logits, batch["mask"]["semantic"])
    with pytest.raises(ValueError, match=r'batch\["mask"\] has the keys semantic; give a dict'):
        module.loss(logits, {"semantic": batch["mask"]["semantic"]})


def test_prediction_runs_once_and_gives_a_segmentation_for_each_head() -> None:
    module = make(preprocessing={"mean": [0.5] * 3, "std": [0.5] * 3, "short_side": 24})
    calls: list[int] = []
    module.model.backbone.register_forward_hook(lambda *_: calls.append(1))
    photo = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    result = module.predict(photo)
    assert len(calls) == 1
    assert list(result) == list(CLASSES)
    for name, segmentation in result.items():
        assert isinstance(segmentation, Segmentation)
        assert segmentation.mask.shape == (40, 50)
        assert segmentation.classes == CLASSES[name]
    plain = make()
    image = torch.from_numpy(photo.transpose(2, 0, 1).copy()).float() / 255
    with torch.no_grad():
        for name, logits in plain(image[None]).items():
            assert_same_mask(plain.predict(photo)[name].mask, logits.argmax(1)[0])
    results = plain.predict_step({"image": image[None], "size": torch.tensor([[30, 40]])}, 0)
    assert {name: result.mask.shape for name, result in results[0].items()} == dict.fromkeys(CLASSES, (30, 40))


def test_model_folder_keeps_heads_classes_and_logits(tmp_path: Path) -> None:
    module = make(
        palette={"geometric": [[1, 2, 3], [4, 5, 6]]}, label_values={"semantic": {1: "sky", 2: "road", 3: "tree"}}
    )
    folder = module.save_pretrained(tmp_path / "two")
    config = json.loads((folder / "config.json").read_text())
    assert list(config["labels"]) == ["heads"]
    loaded = SegmentationModule.from_pretrained(folder)
    assert loaded.labels == module.labels
    assert loaded.labels["semantic"].values[1] == "sky"
    assert_same_tensors(loaded, module)
    image = torch.rand(1, 3, 40, 50)
    with torch.no_grad():
        for name, logits in loaded(image).items():
            assert_close(logits, module(image)[name], varying=(2, 3))
    assert "semantic" in (folder / "README.md").read_text()

    config["labels"] = {"heads": [], "names": ["a", "b"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"config.json: labels must hold 'heads'"):
        SegmentationModule.from_pretrained(folder)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*fit.*logging interval.*")
def test_checkpoint_is_read_without_executing_it(tmp_path: Path) -> None:
    module = make(schedule="constant")
    run = trainer(max_steps=1)
    run.fit(module, loader([(96, 128)] * 2), loader([(96, 128)]))
    run.save_checkpoint(tmp_path / "last.ckpt")
    loaded = SegmentationModule.from_checkpoint(tmp_path / "last.ckpt")
    assert loaded.classes == CLASSES
    assert_same_tensors(loaded, module)


def test_single_head_stays_what_it_was(tmp_path: Path) -> None:
    module = SegmentationModule(PRESET, classes=["a", "b"]).eval()
    assert isinstance(module(torch.rand(1, 3, 16, 16)), Tensor)
    loaded = SegmentationModule.from_pretrained(module.save_pretrained(tmp_path / "one"))
    assert loaded.classes == ["a", "b"]
    with pytest.raises(ValueError, match=r"labels=.*: the model wants Labels"):
        loaded.with_classes({"a": loaded.labels})


def test_other_classes_keep_the_heads_that_stay_the_same() -> None:
    module = make()
    labels = {"semantic": Labels.of(["sky", "road", "tree"]), "material": Labels.of(["wood", "stone"])}
    other = module.with_classes(labels)
    assert other.classes == {name: list(entry.names) for name, entry in labels.items()}
    assert all(name.startswith("head.material.") for name in other.reinitialized)
    image = torch.rand(1, 3, 40, 50)
    with torch.no_grad():
        assert_close(other(image)["semantic"], module(image)["semantic"], varying=(2, 3))
        assert other(image)["material"].abs().max() == 0
    with pytest.raises(ValueError, match=r"the model wants a dict of Labels by head: semantic, geometric"):
        module.with_classes(Labels.of(["a", "b"]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="use with_classes with a dict of Labels by head"):
        module.expand_classes(["c"])


def test_next_stage_has_a_skip_more_in_every_head() -> None:
    module = make()
    grown = module.grow(8)
    assert grown.hparams["model"] == "fcn8s_resnet18_quarter"
    assert grown.reinitialized == tuple(f"head.{n}.score.8.{kind}" for n in CLASSES for kind in ("bias", "weight"))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for name, logits in grown(image).items():
            assert_close(logits, module(image)[name], varying=(2, 3))
    with pytest.raises(ValueError, match="has no such next stage"):
        module.grow(4)


def test_frozen_head_is_not_trained() -> None:
    module = make(freeze=["model.head.geometric"])
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in module.named_parameters() if name.startswith("model.head.geometric.")}


def test_data_of_other_classes_is_refused() -> None:
    module = make()

    class Data:
        classes: Any = CLASSES
        ignore_index = 255

    module.check_data(Data())
    Data.classes = ["sky", "road", "tree"]
    with pytest.raises(ValueError, match=r"the data has classes=.*they must be the same"):
        module.check_data(Data())
    Data.classes, Data.ignore_index = CLASSES, 0
    with pytest.raises(ValueError, match=r"the data has ignore_index=0, the model ignore_index=255: .*one ignore"):
        module.check_data(Data())


def test_errors_name_argument_rule_and_remedy() -> None:
    with pytest.raises(ValueError, match=r"classes\['b'\]=\['x'\]: name at least two classes"):
        SegmentationModule(PRESET, classes={"a": ["x", "y"], "b": ["x"]})
    with pytest.raises(ValueError, match=r"palette={'c': .*give a dict by the names of the heads, semantic, geometric"):
        make(palette={"c": [[0, 0, 0]]})
    with pytest.raises(ValueError, match="cannot name a head"):
        SegmentationModule(PRESET, classes={"a.b": ["x", "y"]})
    with pytest.raises(ValueError, match=r"labels ignore \[254, 255\]: heads share their ignore_index"):
        make().with_classes({"a": Labels.of(["x", "y"]), "b": Labels.of(["x", "y"], ignore_index=254)})
