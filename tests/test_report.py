"""The page after training: the scores it states, and that nothing of it comes from or leads to elsewhere."""

from __future__ import annotations

import base64
import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fullyconv
from conftest import write_tree
from fullyconv import cli, report
from fullyconv.data.datamodule import SegmentationDataModule
from fullyconv.labels import Labels
from fullyconv.report import write_report
from fullyconv.training.module import SegmentationModule

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The tags, attributes and text of a page; fails where tags do not close in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open
        self.text = " ".join(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "shapes", {"train": 3, "val": 9, "test": 2})


def segmenter_for(data: SegmentationDataModule) -> SegmentationModule:
    torch.manual_seed(0)
    module = SegmentationModule("fcn32s_resnet18_quarter", classes=data.classes)
    with torch.no_grad():  # scores that differ, which a new score layer of zeros does not give
        module.model.head.score["32"].weight.normal_()
    return module.eval()


def test_the_scores_on_the_page_are_those_of_evaluate(shapes: Path, tmp_path: Path) -> None:
    data = SegmentationDataModule.from_folder(shapes)
    segmenter = segmenter_for(data)
    told = write_report(segmenter, data, "val", tmp_path / "deep" / "page.html", told=["because"], command="a command")
    assert told.iou == pytest.approx(segmenter.evaluate(data, "val").iou, abs=5e-3)
    page = Page(tmp_path / "deep" / "page.html")
    assert f"{100 * told.mean_iou:.1f} %" in page.text
    for k, name in enumerate(data.classes):
        assert name in page.text
        assert f"{100 * told.iou[k]:.1f}" in page.text
    assert f"scored on the val split: 9 images, {told.pixels:,} pixels" in page.text
    assert "because" in page.text
    assert "a command" in page.text
    assert page.tags.count("img") == 4 * 9  # six of the worst and the three others, each in four views
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "page.html"]


def test_the_worst_images_come_first(shapes: Path, tmp_path: Path) -> None:
    data = SegmentationDataModule.from_folder(shapes)
    write_report(segmenter_for(data), data, "val", tmp_path / "page.html")
    listed = re.findall(r"<figcaption>\S+: mIoU ([\d.]+) %", (tmp_path / "page.html").read_text())
    values = [float(value) for value in listed]
    assert values[:6] == sorted(values[:6])
    assert values[6:] == sorted(values[6:], reverse=True)
    assert max(values[:6]) <= min(values[6:])


def test_the_page_stands_for_itself_and_escapes_what_comes_from_files(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "<b onclick=x>", {"train": 2, "val": 2})
    (root / "classes.txt").write_text("<script>alert(1)</script>\n\"'&\n<img src=http://example.org/x>\n")
    data = SegmentationDataModule.from_folder(root)
    write_report(segmenter_for(data), data, "val", tmp_path / "page.html", command="<script>")
    page = Page(tmp_path / "page.html")
    assert "script" not in page.tags
    assert "b" in page.tags  # ours, on the cards
    assert page.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert "<script>alert(1)</script>" in page.text  # as text
    assert "default-src 'none'" in (tmp_path / "page.html").read_text()


def test_the_curves_run_through_all_parts_of_a_run(shapes: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for version, epochs in {0: range(3), 2: range(3, 6), 10: range(6, 8)}.items():
        (log / f"version_{version}").mkdir(parents=True)
        with (log / f"version_{version}" / "metrics.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", "step", "train/loss", "val/mean_iou"])
            writer.writerows(
                [epoch, epoch * 10, "" if epoch == 1 else 2.0 - epoch / 10, epoch / 10] for epoch in epochs
            )
    (log / "version_of mine").mkdir()  # nobody's but a person's
    (log / "version_of mine" / "metrics.csv").write_text("epoch,train/loss\n0,99\n")
    with (log / "version_10" / "metrics.csv").open("a") as file:
        file.write("8,8")  # what a killed process leaves
    data = SegmentationDataModule.from_folder(shapes)
    write_report(segmenter_for(data), data, "val", tmp_path / "page.html", history=log)
    text = (tmp_path / "page.html").read_text()
    points = {name: line.split() for name, line in re.findall(r"aria-label='([^']*)'.*?points='([^']*)'", text)}
    assert {name: len(line) for name, line in points.items()} == {"train/loss": 7, "val/mean_iou": 8}
    heights = [float(point.split(",")[1]) for point in points["val/mean_iou"]]
    assert heights == sorted(heights, reverse=True)  # up the page, as it grew
    labels = re.findall(r"text-anchor='(?:middle|end)'>([^<]*)<", text)
    assert labels == ["0", "1", "2", "1", "5", "8", "0", "0.5", "1", "1", "5", "8"]  # loss to 2 and mean_iou to 1


def test_the_axis_of_a_curve_holds_its_values_and_zero_and_is_round() -> None:
    def axis(*values: float) -> list[float]:
        drawn = report._chart("val/loss", list(enumerate(values)))
        return [float(tick) for tick in re.findall(r"text-anchor='end'>([^<]*)<", drawn)]

    assert axis(0.49, 0.49, 0.49) == [0, 0.3, 0.6]
    assert axis(0.0, 0.0) == [0, 0.5, 1]
    assert axis(7.3) == [0, 4, 8]
    assert axis(1000.0, 99.0) == [0, 500, 1000]
    assert axis(-0.3, -0.1) == [-0.4, -0.2, 0]
    assert "<circle" in report._chart("val/loss", [(0, 7.3)])  # one epoch is a point


def test_without_logs_the_page_says_why_there_are_no_curves(shapes: Path, tmp_path: Path) -> None:
    data = SegmentationDataModule.from_folder(shapes)
    for history, why in ((tmp_path / "nothing", "no epoch stands in a log"), (None, "this page is of a model alone")):
        write_report(segmenter_for(data), data, "val", tmp_path / "page.html", history=history)
        page = Page(tmp_path / "page.html")
        assert "svg" not in page.tags
        assert why in page.text


def test_the_matrix_names_what_is_mistaken_most_and_leaves_out_what_does_not_occur() -> None:
    labels = Labels.of(["background", "cat", "dog", "unicorn"])
    total = np.array([[90, 10, 0, 0], [0, 60, 40, 0], [0, 0, 50, 0], [0, 0, 0, 0]])
    drawn = report._matrix(total, labels)
    assert re.findall("<li>(.*?)</li>", drawn) == [
        "cat for dog: 40 pixels, 40.0 % of cat",
        "background for cat: 10 pixels, 10.0 % of background",
    ]
    assert "unicorn" not in drawn
    cells = re.findall(r"<td title='([^']*)'[^>]*>(\d+)<", drawn)
    assert ("cat taken for dog: 40.0 %", "40") in cells
    assert len(cells) == 5
    assert "Every pixel is right" in report._matrix(np.diag([1, 2, 3, 0]), labels)


def test_the_matrix_is_blue_where_right_and_red_where_wrong_and_stronger_with_the_share() -> None:
    labels = Labels.of(["background", "cat", "dog"])
    drawn = report._matrix(np.array([[90, 10, 0], [0, 60, 40], [20, 0, 80]]), labels)
    cells = dict(re.findall(r"<td title='([^:]*):[^']*' style='([^']*)'>", drawn))
    assert cells == {
        "background taken for background": "background:rgba(59,125,216,0.90);color:#fff",
        "background taken for cat": "background:rgba(214,69,65,0.20)",
        "cat taken for cat": "background:rgba(59,125,216,0.60)",
        "cat taken for dog": "background:rgba(214,69,65,0.80);color:#fff",
        "dog taken for background": "background:rgba(214,69,65,0.40)",
        "dog taken for dog": "background:rgba(59,125,216,0.80);color:#fff",
    }
    swatches = re.findall(r"swatch' style='background:([^']*)'></span>(\w+)", drawn)
    assert swatches == [(_css(color), name) for name, color in zip(labels.names, labels.palette, strict=True)]


def _css(color: tuple[int, int, int]) -> str:
    return f"rgb{color}" if any(color) else "none"


def test_what_differs_is_red_in_the_images_and_everything_else_pale(shapes: Path) -> None:
    data = SegmentationDataModule.from_folder(shapes)
    segmenter = segmenter_for(data)
    sample = data.dataset("val")[0]
    result = report._Result(0, "a", 0.5, 0.5)
    drawn = report._images([result], data.dataset("val"), segmenter, data.labels)
    tiles = [Image.open(io.BytesIO(base64.b64decode(text))) for text in re.findall("base64,([^']*)'", drawn)]
    wrong = segmenter.predict(sample["image"]).mask != sample["mask"].numpy()
    wrong &= sample["mask"].numpy() != 255
    assert wrong.any()
    assert not wrong.all()
    tile = np.asarray(tiles[3].resize(wrong.shape[::-1], Image.Resampling.BOX)).astype(int)
    red = tile[..., 0] - tile[..., 1] > 80
    assert (red == wrong).mean() > 0.95  # JPEG blurs a border by a pixel


def test_of_very_many_classes_the_largest_are_in_the_matrix_and_the_others_are_counted() -> None:
    labels = Labels.of([f"class number {k}" for k in range(70)])
    drawn = report._matrix(np.diag(np.arange(1, 71)), labels)
    assert "The 64 largest classes, without the 6 smallest" in drawn
    assert ">class number 5<" not in drawn
    assert ">class number 6<" in drawn


def test_the_legend_is_in_the_order_of_every_legend_with_shares_and_no_swatch_for_black() -> None:
    labels = Labels.of(["background", "cat", "dog"])
    drawn = report._legend(np.diag([50, 20, 30]), labels)
    assert re.findall(r"</span>(\w+) <span class='dim'>([^<]*)<", drawn) == [
        ("cat", "20.0 %"), ("dog", "30.0 %"), ("background", "50.0 %"),
    ]  # fmt: skip
    assert "rgb(0, 0, 0)" not in drawn


def test_what_cannot_be_scored_writes_nothing(shapes: Path, tmp_path: Path) -> None:
    data = SegmentationDataModule.from_folder(shapes)
    segmenter = segmenter_for(data)
    with pytest.raises(ValueError, match=r"ends in \.html"):
        write_report(segmenter, data, "val", tmp_path / "page.txt")
    with pytest.raises(ValueError, match="classes"):
        write_report(fullyconv.load("street"), data, "val", tmp_path / "page.html")
    (shapes / "val" / "masks").joinpath(next((shapes / "val" / "masks").iterdir()).name).write_bytes(b"no image")
    with pytest.raises(ValueError, match="val"):
        write_report(segmenter, SegmentationDataModule.from_folder(shapes), "val", tmp_path / "page.html")
    assert not list(tmp_path.glob("*.html"))
    assert not list(tmp_path.glob(".*.part"))


def test_the_module_is_as_it_was(shapes: Path, tmp_path: Path) -> None:
    data = SegmentationDataModule.from_folder(shapes)
    segmenter = segmenter_for(data).train()
    before = {key: value.clone() for key, value in segmenter.state_dict().items()}
    write_report(segmenter, data, "val", tmp_path / "page.html")
    assert all(module.training for module in segmenter.modules())
    assert all(torch.equal(value, before[key]) for key, value in segmenter.state_dict().items())


def test_the_command_line_writes_it(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = SegmentationDataModule.from_folder(shapes)
    segmenter_for(data).save_pretrained(tmp_path / "mine", license="CC BY 4.0")
    page = tmp_path / "page.html"
    assert cli.main(["test", str(tmp_path / "mine"), str(shapes), "--report", str(page)]) == 0
    said = capsys.readouterr()
    assert f"report written to {page}" in said.err
    assert "mIoU" in said.out
    assert "License of the weights: CC BY 4.0" in Page(page).text
