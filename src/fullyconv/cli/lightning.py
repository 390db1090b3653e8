"""Lightning's command line, by which a recipe is trained, validated and tested."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fullyconv.cli.opening import quiet_lightning
from fullyconv.cli.options import reading_words
from fullyconv.cli.recipes import respelled

if TYPE_CHECKING:
    from fullyconv.data.datamodule import SegmentationDataModule
    from fullyconv.labels import Labels
    from fullyconv.module import SegmentationModule


LINKED: dict[str, Callable[[Labels], Any]] = {
    "classes": lambda labels: list(labels.names),
    "palette": lambda labels: [list(color) for color in labels.palette],
    "ignore_index": lambda labels: labels.ignore_index,
    "label_values": lambda labels: dict(labels.values),
}
"""What a module of a recipe takes from the data, as plain values."""


@dataclass
class RunOptions:
    """Where a run writes, and what it leaves.

    Args:
        folder: holds logs, checkpoints and the model folder. ``--ckpt_path last`` resumes from it.
        model_folder: where the trained model is written; None means ``model`` in the run's folder.
        dtype: of the stored weights.
        license: license of the weights, as you state it; the license of the training data binds you.
        data: what the card calls the training data; None means the last part of its path.
        split: split on which the stored model folder is scored once, after training; "auto" is test where there is one,
            else val.
    """

    folder: str = "runs/fit"
    model_folder: str | None = None
    dtype: Literal["float32", "float16"] = "float16"
    license: str | None = None
    data: str | None = None
    split: Literal["auto", "val", "test", "none"] = "auto"


def run_lightning(
    command: str, words: list[str], start: SegmentationModule | None = None, planned: bool = False
) -> SegmentationDataModule:
    """Run Lightning's command line, and give the data that it used."""
    quiet_lightning()
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
    from lightning.pytorch.loggers import CSVLogger

    from fullyconv.checkpointing import AtomicCheckpointIO, EpochSeed, PatientStop
    from fullyconv.data.datamodule import SegmentationDataModule
    from fullyconv.module import SegmentationModule

    if words and not words[0].startswith("-"):
        words = ["--data.data", words[0], *words[1:]]

    class CLI(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_class_arguments(RunOptions, "run")
            # The data knows its classes when it exists; a module must never be built for other ones.
            for key, form in LINKED.items():
                parser.link_arguments("data.labels", f"model.{key}", compute_fn=form, apply_on="instantiate")

        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            """Let nothing in a checkpoint run: Lightning unpickles what it fetches from an address, unless told."""
            super().parse_arguments(parser, args)
            given = self.config[command]
            if "://" in str(given.ckpt_path or ""):
                raise ValueError(
                    f"--ckpt_path {given.ckpt_path}: training goes on from a file on this machine; fetch it, or "
                    "start from weights that are verified: --model.backbone_weights SOURCE, or fit DATA --model MODEL"
                )
            if given.weights_only is False:
                raise ValueError("--weights_only false: would run what a checkpoint holds; leave it out")
            given.weights_only = True
            if given.ckpt_path and Path(given.ckpt_path).is_file():
                AtomicCheckpointIO().load_checkpoint(given.ckpt_path)  # says what is wrong with it

        def instantiate_trainer(self, **kwargs: Any) -> Any:
            run = self._run()
            config = self._get(self.config_init, "trainer", default={})
            trainer_config = dict(config)
            chosen_on_val = "val" in self.datamodule.splits
            if not chosen_on_val:
                trainer_config["limit_val_batches"] = 0
            own: list[Any] = [
                ModelCheckpoint(
                    dirpath=Path(run["folder"]) / "checkpoints",
                    filename="best",
                    monitor=SegmentationModule.monitor if chosen_on_val else None,  # None: the last epoch
                    mode="max",
                    save_last=True,
                    save_on_train_epoch_end=None if chosen_on_val else True,
                    enable_version_counter=False,
                ),
                TQDMProgressBar(refresh_rate=10),
            ]
            wanted = [
                callback
                for callback, flag in zip(own, ("enable_checkpointing", "enable_progress_bar"), strict=True)
                if trainer_config.get(flag) is not False
            ]
            wanted.append(EpochSeed(int(self._get(self.config_init, "seed_everything", default=0) or 0)))
            if planned and chosen_on_val:
                from fullyconv.training import patience_of

                patience = patience_of(int(trainer_config.get("max_epochs") or 1))
                wanted.append(PatientStop(SegmentationModule.monitor, mode="max", patience=patience))
            trainer_config["callbacks"] = [*(trainer_config.get("callbacks") or []), *wanted]
            if not trainer_config.get("plugins"):
                trainer_config["plugins"] = [AtomicCheckpointIO()]
            if trainer_config.get("logger") in (None, True):
                trainer_config["logger"] = CSVLogger(run["folder"], name="log")
            trainer_config["default_root_dir"] = trainer_config.get("default_root_dir") or run["folder"]
            return self._instantiate_trainer(trainer_config | kwargs, [])

        def _run(self) -> dict[str, Any]:
            return dict(vars(self.config[command].run))

        def before_fit(self) -> None:
            _scored_split(self.datamodule, RunOptions(**self._run()))
            if start is not None:
                self.model.start_from(start)

        def after_fit(self) -> None:
            first = self.trainer.is_global_zero
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                # The stored model folder is scored by one process alone, on all of the split.
                torch.distributed.barrier()
                torch.distributed.destroy_process_group()
            if first:
                _keep_model_folder(self.trainer, self.model, self.datamodule, RunOptions(**self._run()))

    done = CLI(
        SegmentationModule,
        SegmentationDataModule,
        args=[command, *respelled(words)],
        parser_kwargs={"prog": "fullyconv"},
        seed_everything_default=0,
    )
    used: SegmentationDataModule = done.datamodule
    return used


def _keep_model_folder(trainer: Any, module: SegmentationModule, data: SegmentationDataModule, run: RunOptions) -> None:
    """Store the best checkpoint as a model folder, score what was stored, and write the score into it."""
    import torch

    from fullyconv.module import SegmentationModule

    best = trainer.checkpoint_callback.best_model_path if trainer.checkpoint_callback else ""
    if best:
        # weights_only: a checkpoint holds plain values and tensors, and nothing of it is ever executed.
        state = torch.load(best, map_location="cpu", weights_only=True)
        module.load_state_dict(state["state_dict"])
        module.training_record |= {"best epoch": int(state["epoch"]) + 1}
    module.training_record |= {
        "data": run.data or Path(str(data.hparams["data"])).name,
        "epochs": int(trainer.current_epoch),
        "steps": int(trainer.global_step),
        "minutes": round(module.training_seconds / 60, 1),
        "hardware": _hardware(module.device),
    }
    folder = Path(run.model_folder or Path(run.folder) / "model")
    module.save(folder, dtype=run.dtype, license=run.license)
    print(f"\nmodel folder written to {folder}")
    split = _scored_split(data, run)
    if split is not None:
        stored = SegmentationModule.load(folder)
        result = stored.evaluate(data, split)
        score = {"data": module.training_record["data"], "split": split} | result.to_dict(stored.classes)
        words = reading_words(data.hparams)
        # A folder is never taken for a repository of the hub where it begins with a dot.
        place = str(folder) if folder.is_absolute() else f"./{folder}"
        if folder.name == f"{module.hparams['model']}.{module.training_record['data']}":
            place = folder.name  # called as models of the zoo are
        where = f"{shlex.quote(place)} {shlex.quote(str(data.hparams['data']))}"
        score["command"] = f"fullyconv test {where} --split {split}{words}"
        module.save(folder, dtype=run.dtype, license=run.license, score=score)
        print(f"{score['data']}, {split} split, measured on the stored model folder")
        print(result.table(stored.classes))


def _scored_split(data: SegmentationDataModule, run: RunOptions) -> str | None:
    """Say on which split the model folder is scored; refuse one that is not there before anything is trained."""
    if run.split == "none":
        return None
    if run.split == "auto":
        return next((split for split in ("test", "val") if split in data.splits), None)
    if run.split not in data.splits:
        raise ValueError(
            f"--run.split {run.split}: the data has {', '.join(data.splits)}; name one of them, or leave it out"
        )
    return run.split


def _hardware(device: Any) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread(s) of torch"
