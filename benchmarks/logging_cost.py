"""What it costs to log at every step: loss, mIoU and progress bar, in milliseconds over a loop that logs nothing.

One tiny network on batches of four images of 64 x 64 pixels, three trainings in turn: `Trainer(barebones=True)`; our
module with its loss, the mIoU of our confusion matrix, logger and bar, all at every step; and the same with
torchmetrics' Jaccard index, as its documentation logs it.

    python benchmarks/logging_cost.py --repeats 5 --steps 200
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassJaccardIndex

from fullyconv import SegmentationModule
from fullyconv.backbones.plain import PlainConvolutions
from fullyconv.confusion import scores
from fullyconv.fcn import FCN
from fullyconv.heads import PlainHead
from fullyconv.training.metrics import best_class, confusion_matrix
from measuring import Row, add_arguments, clock_for, finish, machine, print_rows, ratios, spread, version

CLASSES = [f"class {index}" for index in range(5)]
BARE, OURS, PEER = "barebones", "fullyconv", "torchmetrics"


class Batches(Dataset[dict[str, Any]]):
    """The same few images again and again."""

    def __init__(self, images: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.image = torch.rand(16, 3, 64, 64, generator=generator)
        self.mask = torch.randint(0, len(CLASSES), (16, 64, 64), generator=generator)
        self.images = images

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = index % 16
        return {
            "image": self.image[place],
            "mask": self.mask[place],
            "size": torch.tensor([64, 64]),
            "path": str(place),
        }


class Bare(SegmentationModule):
    """A tiny network; logs nothing."""

    def __init__(self) -> None:
        super().__init__(model="fcn8s_resnet18_quarter", classes=CLASSES)
        backbone = PlainConvolutions("tiny", [[8], [16]], pool=True)
        self.model = FCN(backbone, PlainHead(16, len(CLASSES), backbone.geometry[4], stride=4))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.loss(self(batch["image"]), batch["mask"])
        return loss


class Ours(Bare):
    """Logs the loss, and the mIoU of each batch by our confusion matrix."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self(batch["image"])
        loss: Tensor = self.loss(logits, batch["mask"])
        matrix = confusion_matrix(best_class(logits.detach()), batch["mask"], len(CLASSES))
        values = {"train/loss": loss.detach(), "train/mean_iou": scores(matrix.numpy()).mean_iou}
        self.log_dict(values, prog_bar=True, batch_size=len(batch["image"]))
        return loss


class Peer(Bare):
    """Logs the loss, and torchmetrics' Jaccard index of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.jaccard = MulticlassJaccardIndex(len(CLASSES), ignore_index=255)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self(batch["image"])
        loss: Tensor = self.loss(logits, batch["mask"])
        self.jaccard(logits.detach(), batch["mask"])
        values = {"train/loss": loss, "train/mean_iou": self.jaccard}
        self.log_dict(values, prog_bar=True, batch_size=len(batch["image"]), on_step=True)
        return loss


def train(kind: type[Bare], steps: int, folder: str, clock: Callable[[], float]) -> float:
    """Give the seconds of a step, without the first tenth."""
    times: list[float] = []

    class Ticks(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            times.append(clock())

    torch.manual_seed(0)
    module = kind()
    common: dict[str, Any] = {"max_steps": steps, "accelerator": "cpu", "devices": 1}
    options: dict[str, Any] = {"barebones": True}
    if kind is not Bare:
        options = {
            "logger": CSVLogger(folder),
            "log_every_n_steps": 1,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "callbacks": [Ticks(), TQDMProgressBar(refresh_rate=1)],
        }
    else:
        # no callbacks run there, so the module itself looks at the clock
        module.on_train_batch_end = lambda *_: times.append(clock())  # type: ignore[method-assign]
    loader = DataLoader(Batches(4 * steps), batch_size=4)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        L.Trainer(**common, **options).fit(module, loader)
    first = max(1, steps // 10)
    return (times[-1] - times[first]) / (len(times) - 1 - first)


def main() -> None:
    """Measure, and print rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, repeats=5)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    about = machine("torch", "lightning", "torchmetrics", threads=options.threads)
    print(about, flush=True)
    kinds: dict[str, type[Bare]] = {BARE: Bare, OURS: Ours, PEER: Peer}
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Callable[[int], float]] = {
            name: (lambda steps, kind=kind: train(kind, steps, folder, clock_for(options.threads)))
            for name, kind in kinds.items()  # type: ignore[misc]
        }
        for turn in range(options.repeats + 1):
            for name, run in runs.items():
                taken = run(options.steps if turn else max(10, options.steps // 10))
                if turn:
                    seconds[name].append(taken)
    extra = {
        name: [one - bare for one, bare in zip(seconds[name], seconds[BARE], strict=True)] for name in (OURS, PEER)
    }
    positive = all(value > 0 for value in extra[OURS])
    row = Row(
        what="loss, mIoU and bar at every step, beyond a bare loop",
        ours="confusion matrix of fullyconv",
        peer=f"{version('torchmetrics')}, Jaccard index logged",
        seconds=spread(extra[OURS]),
        peer_seconds=spread(extra[PEER]),
        times=ratios(extra[PEER], extra[OURS]) if positive else None,
        most_seconds=0.002,
        note=f"a bare step takes {1000 * spread(seconds[BARE])[0]:.2f} ms",
    )
    print_rows([row])
    finish([row], options.json, about)


if __name__ == "__main__":
    main()
