"""Lightning's command line, by which a recipe is trained, validated and tested."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from fullyconv.cli.fit import PLANNED_BY
from fullyconv.cli.options import reading_words
from fullyconv.data.datamodule import LOADING, SegmentationDataModule
from fullyconv.errors import nearest
from fullyconv.locks import held
from fullyconv.report import SHOWN
from fullyconv.training.checkpointing import AtomicCheckpointIO, EpochSeed, KeptWeights
from fullyconv.training.heads import plain
from fullyconv.training.module import SegmentationModule
from fullyconv.training.runs import RunOptions, score, scored_split, store
from fullyconv.training.shortcomings import shortcomings
from fullyconv.training.stopping import Deadline, EnoughSteps, FiniteLoss, PatientStop

if TYPE_CHECKING:
    from fullyconv.plan import Plan


class RecipeCLI(LightningCLI):
    """Run a recipe.

    Args:
        command: ``fit``, ``validate`` or ``test``.
        words: of the command line after it.
        plan: of a run without a recipe: its data is not read again, and its settings hold where `words` say nothing
            else.
        budget: seconds for all of a run without a recipe, and `time.monotonic` when they began.

    Attributes:
        shortcomings: what the trained model lacks, in sentences.
        model_folder: what this process left; None of a trial of a few batches, and of all processes but the first.
    """

    shortcomings: Sequence[str] = ()
    model_folder: Path | None = None

    def __init__(
        self, command: str, words: Sequence[str], plan: Plan | None = None, budget: tuple[float, float] | None = None
    ) -> None:
        self._command, self._plan, self._budget = command, plan, budget
        with ExitStack() as self._held:
            super().__init__(
                SegmentationModule,
                SegmentationDataModule,
                args=[command, *words],
                parser_kwargs={"prog": "fullyconv", "exit_on_error": False, command: {"exit_on_error": False}},
                seed_everything_default=0,
            )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Give the command that is called: gathering the arguments of the others, too, takes as long as a short run."""
        return {self._command: super().subcommands()[self._command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what is the package's own, and what was chosen."""
        parser.add_class_arguments(RunOptions, "run")
        # The data knows its classes when it exists; a module must never be built for other ones.
        for key in ("classes", "palette", "ignore_index", "label_values"):
            parser.link_arguments(
                "data.labels", f"model.{key}", lambda labels, key=key: plain(labels)[key], apply_on="instantiate"
            )
        if self._plan is not None:
            parser.set_defaults(self._plan.settings)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Let nothing in a checkpoint run: Lightning unpickles what it fetches from an address, unless told."""
        try:
            super().parse_arguments(parser, args)
        except argparse.ArgumentError as error:
            raise ValueError(f"{self._command}: {self._refusal(error)}") from None
        options = self.config[self._command]
        if "://" in str(options.ckpt_path or ""):
            raise ValueError(
                f"--ckpt_path {options.ckpt_path}: training goes on from a file on this machine; fetch it, or "
                "start from weights that are verified: --model.backbone_weights SOURCE, or fit DATA --model MODEL"
            )
        if options.weights_only is False:
            raise ValueError("--weights_only false: would run what a checkpoint holds; leave it out")
        options.weights_only = True
        if options.ckpt_path and Path(options.ckpt_path).is_file():
            AtomicCheckpointIO().load_checkpoint(options.ckpt_path)  # says what is wrong with it

    def _refusal(self, error: argparse.ArgumentError) -> str:
        """Say what is wrong with the words, without the many lines of the usage."""
        message = re.sub(r'Parser key "([\w.]+)":\s*', r"--\1: ", str(error)).replace("\n", " ")
        unknown = re.search(r"unrecognized arguments?: (--[\w.-]+)", message)
        if unknown is None:
            return message
        if self._plan is None and unknown[1] in ("--epochs", "--minutes"):
            return f"{message}; of a recipe it is --trainer.max_epochs, or --trainer.max_time '{{minutes: 10}}'"
        options = {word for action in self._parser(self._command)._actions for word in action.option_strings}
        options |= {f"--{name}" for name in PLANNED_BY}
        return f"{message}. {nearest(unknown[1], options)}fullyconv {self._command} --help-all lists the options"

    def before_instantiate_classes(self) -> None:
        """Take the data that is open, whose run's folder is held already; hold that of a recipe."""
        if (plan := self._plan) is not None:

            def load(_: type, **options: Any) -> SegmentationDataModule:
                return plan.data.load_by(**{name: options[name] for name in LOADING})

            self.parser.add_instantiator(load, SegmentationDataModule, subclasses=False)
        elif self._command == "fit":
            hold(self._held, Path(self._run().folder))

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Make the trainer: the best weights by mIoU are kept, checkpoints are whole or not there."""
        folder = Path(self._run().folder)
        config = dict(self.config_init[self._command].trainer)
        if "val" not in self.datamodule.splits:
            config["limit_val_batches"] = 0
        chosen_on_val = config.get("limit_val_batches") != 0
        own: list[Any] = []
        if config.get("enable_checkpointing") is not False:
            own.append(KeptWeights(folder / "checkpoints", SegmentationModule.monitor if chosen_on_val else None))
        if config.get("enable_progress_bar") is not False:
            own.append(TQDMProgressBar(refresh_rate=10))
        own.append(EpochSeed(int(self.config_init[self._command].seed_everything or 0)))
        if self._command == "fit":
            own += [FiniteLoss(), self._watch()]
        if self._plan is not None and self._budget is None and chosen_on_val:
            validations = int(config.get("max_epochs") or 1) // int(config.get("check_val_every_n_epoch") or 1)
            patience = max(20, validations // 2)
            if patience < validations:
                print(f"stops after {patience} validations without a better mIoU on val")
            own.append(PatientStop(SegmentationModule.monitor, patience))
        config["callbacks"] = [*(config.get("callbacks") or []), *own]
        config["plugins"] = config.get("plugins") or [AtomicCheckpointIO()]
        if config.get("logger") in (None, True):
            config["logger"] = CSVLogger(str(folder), name="log")
        config["default_root_dir"] = config.get("default_root_dir") or str(folder)
        return self._instantiate_trainer(config | kwargs, [])

    def _watch(self) -> EnoughSteps:
        """Make what looks at the number of steps, and at the time where there is a budget of it."""
        if self._budget is None:
            return EnoughSteps(print)
        splits = {split: len(pairs) for split, pairs in self.datamodule.splits.items()}
        scored = splits.get(scored_split(self.datamodule, self._run()) or "", 0)
        reported = splits.get("test") or splits.get("val") or 0
        looks = scored + reported + min(2 * SHOWN, reported)
        return Deadline(*self._budget, splits.get("val", 0), looks, print)

    def _run(self) -> RunOptions:
        return RunOptions(**vars(self.config[self._command].run))

    def before_fit(self) -> None:
        """Refuse a split that is not there before anything is trained, and take the weights of the start."""
        scored_split(self.datamodule, self._run())
        start = self._plan.segmenter if self._plan is not None else None
        if start is not None and self.config[self._command].ckpt_path is None:
            self.model.start_from(start)

    def after_fit(self) -> None:
        """Leave a model folder and its score."""
        first = self.trainer.is_global_zero
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # The stored model folder is scored by one process alone, on all of the split.
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
        if not first:
            return
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            print("--trainer.fast_dev_run: a trial of a few batches went well; nothing of it is kept")
            return
        run, data = self._run(), self.datamodule
        if not getattr(self.trainer.checkpoint_callback, "best_model_path", ""):
            print("no epoch was validated and kept: the model folder has the weights of the last step")
        self.model_folder = store(self.trainer, self.model, run, data)
        print(f"\nmodel folder written to {self.model_folder}")
        steps = int(self.trainer.global_step)
        measured = score(self.model_folder, self.model, run, data, reading_words(data.hparams))
        split, scores = measured or ("", None)
        if scores is not None:
            print(f"{self.model.training_record['data']}, {split} split, measured on the stored model folder")
            print(scores.table(self.model.classes))
        self.shortcomings = shortcomings(scores, self.model.classes, split, steps)


def is_first() -> bool:
    """Tell whether this is the first of several processes, which speaks and writes for all."""
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]


def hold(stack: ExitStack, folder: Path) -> None:
    """Hold the folder of a run until the stack is closed; the first of several processes does so for all."""
    if is_first() and (before := stack.enter_context(held(folder))):
        print(f"{folder}: was in use by {before}, which was killed; this run goes on")
