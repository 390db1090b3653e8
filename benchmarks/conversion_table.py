"""Convert every torchvision classifier and a cross-section of timm's, and write docs/conversion-table.md.

    OMP_NUM_THREADS=1 python benchmarks/conversion_table.py             # everything, an hour or two on one core
    OMP_NUM_THREADS=1 python benchmarks/conversion_table.py --only torchvision
    OMP_NUM_THREADS=1 python benchmarks/conversion_table.py --only timm --names vgg16 resnet18

Results are kept in a file of JSON lines as they come, so that a run that was stopped goes on where it was; `--again`
measures anew. The table is written from all results in that file.

No weights are downloaded. Random weights alone would make the comparison worthless: the scores of an untrained network
hardly depend on the image, so that any converter would pass. Therefore batch norm is calibrated with one batch in train
mode, the biases of fully connected layers are zero, and the error is held against the *signal*, how much the scores of
two images differ: a conversion counts as right only if its error is below a thousandth of the signal.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullyconv.conversion import convolutionalize
from fullyconv.errors import ConversionError

SEED = 0
TABLE = Path(__file__).resolve().parents[1] / "docs" / "conversion-table.md"
CACHE = Path(tempfile.gettempdir()) / "fullyconv-conversion-table.jsonl"

# Families of timm, one of the smaller members each.
TIMM = [
    "resnet18",
    "resnet50d",
    "resnetv2_50",
    "seresnet50",
    "resnext50_32x4d",
    "skresnet18",
    "ecaresnet26t",
    "resnest14d",
    "gcresnet50t",
    "resnet50_clip",
    "vgg16",
    "vgg11_bn",
    "densenet121",
    "inception_v3",
    "inception_v4",
    "inception_resnet_v2",
    "xception41",
    "legacy_xception",
    "mobilenetv1_100",
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "efficientnet_b0",
    "tf_efficientnet_b0",
    "efficientnetv2_rw_t",
    "mnasnet_100",
    "semnasnet_075",
    "spnasnet_100",
    "lcnet_050",
    "tinynet_e",
    "fbnetc_100",
    "hardcorenas_a",
    "mixnet_s",
    "ghostnet_100",
    "ghostnetv2_100",
    "repghostnet_050",
    "rexnet_100",
    "convnext_atto",
    "convnextv2_atto",
    "regnetx_002",
    "regnety_002",
    "nfnet_l0",
    "dm_nfnet_f0",
    "dpn68",
    "hrnet_w18_small",
    "repvgg_a0",
    "mobileone_s0",
    "cspresnet50",
    "darknet53",
    "cs3darknet_s",
    "dla34",
    "vovnet39a",
    "ese_vovnet19b_dw",
    "res2net50_26w_4s",
    "selecsls42b",
    "pnasnet5large",
    "nasnetalarge",
    "poolformer_s12",
    "caformer_s18",
    "convformer_s18",
    "edgenext_xx_small",
    "fastvit_t8",
    "starnet_s1",
    "inception_next_tiny",
    "rdnet_tiny",
    "focalnet_tiny_srf",
    "convmixer_768_32",
    "tresnet_m",
    "mobilevit_xxs",
    "mobilevitv2_050",
    "hgnet_tiny",
    "hgnetv2_b0",
    "nextvit_small",
    "test_resnet",
    "gernet_s",
    "repvit_m0_9",
    "fasternet_t0",
    "mambaout_femto",
    "efficientvit_b0",
    "davit_tiny",
    "pvt_v2_b0",
    "swiftformer_xs",
    "shvit_s1",
    "halonet26t",
    "bat_resnext26ts",
    "maxvit_tiny_tf_224",
    "botnet26t_256",
    "visformer_tiny",
    "coatnet_0_rw_224",
    "efficientformer_l1",
    "levit_128s",
    "hiera_tiny_224",
    "swin_tiny_patch4_window7_224",
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "cait_xxs24_224",
    "mixer_s16_224",
    "resmlp_12_224",
    "gmlp_s16_224",
    "xcit_nano_12_p16_224",
    "twins_svt_small",
    "crossvit_tiny_240",
    "pit_ti_224",
]


def torchvision_names() -> list[str]:
    """List every image classifier of torchvision."""
    import torchvision

    return sorted(torchvision.models.list_models(module=torchvision.models))


def build(library: str, name: str) -> tuple[nn.Module, tuple[int, int]]:
    """Build a classifier with random weights, and say for which size it is made."""
    if library == "timm":
        import timm

        model = timm.create_model(name, pretrained=False)
        cfg = model.pretrained_cfg
        return model, tuple(cfg["input_size"][1:])
    import torchvision

    # Sizes its weights were trained for where the network depends on it; anything runs at 224 otherwise.
    sizes = {"inception_v3": 299}
    return torchvision.models.get_model(name, weights=None), (sizes.get(name, 224),) * 2


def images(count: int, size: tuple[int, int], seed: int) -> Tensor:
    """Draw smooth images that differ from each other in color and structure."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 7, 7, generator=generator)
    fine = torch.randn(count, 3, *size, generator=generator)
    return F.interpolate(coarse, size=size, mode="bicubic", align_corners=False) + 0.3 * fine


def calibrate(model: nn.Module, size: tuple[int, int]) -> None:
    """Give batch norm the statistics of a batch, and take out the biases that would outweigh the image."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over what is seen
    model.train()
    smaller = (max(64, size[0] // 2), max(64, size[1] // 2))
    with torch.no_grad():
        try:
            model(images(4, smaller, seed=1))
        except Exception:  # some run at one size only
            for norm in norms:
                norm.reset_running_stats()
            model(images(4, size, seed=1))
    model.eval()


def measure(library: str, name: str) -> dict[str, Any]:
    """Convert one classifier and compare it with itself."""
    torch.manual_seed(SEED)
    row: dict[str, Any] = {"library": library, "name": name}
    model, size = build(library, name)
    row["size"] = size
    calibrate(model, size)
    model.eval()
    try:
        dense = convolutionalize(model, size, copy=False)
    except ConversionError as error:
        return {**row, "converted": False, "why": str(error), "error_class": type(error).__name__}
    x = images(2, size, seed=2)
    with torch.no_grad():
        own, ours = model(x), dense(x)
    scale = own.abs().max()
    dropped = tuple(f"{part}." for part in dense.report.dropped)
    keys = [key for key in model.state_dict() if not key.startswith(dropped)] if dropped else list(model.state_dict())
    try:
        grid = dense.grid(384, 384)
    except ValueError:
        grid = None
    return {
        **row,
        "converted": True,
        "error": float((ours.flatten(1) - own).abs().max() / scale),
        "signal": float((own[0] - own[1]).abs().max() / scale),
        "grid": grid,
        "larger": [g for g in dense.report.grids.values() if g is not None and g != (1, 1)] != [],
        "stride": dense.geometry.stride[0],
        "field": dense.geometry.receptive_field[0],
        "guarantee": dense.guarantee,
        "keys": keys == list(dense.state_dict()),
        "valid_sizes": dense.report.valid_sizes,
    }


def table(rows: list[dict[str, Any]], library: str) -> list[str]:
    """Write the rows of one library as a Markdown table."""
    rows = [row for row in rows if row["library"] == library]
    done = [row for row in rows if row["converted"]]
    right = [row for row in done if row["error"] < 1e-3 * row["signal"]]
    larger = [row for row in done if row["larger"]]
    lines = [
        f"{len(done)} of {len(rows)} converted, {len(right)} of them exact at their own size, "
        f"{len(larger)} give more scores on at least one larger size; "
        f"largest relative error {max((row['error'] for row in done), default=0):.1e}, "
        f"smallest signal {min((row['signal'] for row in done), default=0):.2g}; "
        f"state-dict keys unchanged in {sum(row['keys'] for row in done)}.",
        "",
        "| classifier | input | error | signal | grid at 384 | stride | receptive field | guarantee |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in done:
        grid = "x".join(map(str, row["grid"])) if row["grid"] else "does not run (1)"
        lines.append(
            f"| {row['name']} | {row['size'][0]} | {row['error']:.1e} | {row['signal']:.2f} | {grid} | "
            f"{row['stride']:g} | {row['field']:g} | {row['guarantee']} |"
        )
    refused = [row for row in rows if not row["converted"]]
    if refused:
        lines += ["", "Not converted:", "", "| classifier | input | error | why |", "|---|---|---|---|"]
        for row in refused:
            lines.append(f"| {row['name']} | {row['size'][0]} | `{row['error_class']}` | {shortened(row['why'])} |")
    return [*lines, ""]


def shortened(why: str) -> str:
    """Leave out of a message what is the same for all of them, and what comes after the cause."""
    why = re.sub(r"^classifier=\w+: (is not convolutional: )?", "", why)
    why = re.sub(r" the entire \d+ x \d+ image at once and are neither .*?\)", " the entire image at once", why)
    return re.sub(r"\. (At \d+ x \d+ pixels|Use fullyconv).*$", "", why).replace("|", "\\|")


def document(rows: list[dict[str, Any]]) -> str:
    """Write the whole page."""
    import timm
    import torchvision

    lines = [
        "# Which classifiers convert",
        "",
        "All classifiers of torchvision and a selection of timm, converted by `fullyconv.convolutionalize`. For those "
        "that do not convert, `fullyconv.sliding_window` computes the scores.",
        "",
        "- **input**: the side of the classifier's input.",
        "- **error**: largest difference between the scores of the converted and of the original classifier at this "
        "size, relative to the largest score.",
        "- **signal**: how much the scores of two images differ, on the same scale: the error is far below it.",
        "- **grid at 384**: rows x columns of scores on an image of 384 x 384 pixels.",
        "- **stride**, **receptive field**: pixels from one score to the next, and pixels that a score can depend on.",
        "- **guarantee**: [what a score means](guarantees.md#converted-classifiers).",
        "",
        "(1) The backbone runs only at some sizes; `dense.report` lists those that were tried.",
        "",
        "Measured by `benchmarks/conversion_table.py` with random weights and calibrated batch norm, on one CPU core, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}.",
        "",
    ]
    for library in ("torchvision", "timm"):
        if any(row["library"] == library for row in rows):
            lines += [f"## {library}", "", *table(rows, library)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("torchvision", "timm"))
    parser.add_argument("--names", nargs="+", help="only these")
    parser.add_argument("--again", action="store_true", help="measure also what the cache has")
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"JSON lines (default {CACHE})")
    parser.add_argument("--out", type=Path, default=TABLE, help=f"page to write (default {TABLE})")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    known: dict[tuple[str, str], dict[str, Any]] = {}
    if arguments.cache.exists():
        for line in arguments.cache.read_text().splitlines():
            row = json.loads(line)
            known[row["library"], row["name"]] = row
    wanted = [("torchvision", name) for name in torchvision_names()] + [("timm", name) for name in TIMM]
    for library, name in wanted:
        if arguments.only not in (None, library) or (arguments.names and name not in arguments.names):
            continue
        if (library, name) in known and not arguments.again:
            continue
        row = measure(library, name)
        known[library, name] = row
        with arguments.cache.open("a") as file:
            file.write(json.dumps(row) + "\n")
        told = f"error {row['error']:.1e} signal {row['signal']:.2g}" if row["converted"] else row["why"][:150]
        print(f"{library} {name}: {told}", flush=True)
        gc.collect()
    arguments.out.write_text(document([known[key] for key in wanted if key in known]))
    print(arguments.out)


if __name__ == "__main__":
    main()
