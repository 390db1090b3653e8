"""MODEL_CARD.md: one section for every published model, written from the catalog so that it cannot drift.

python -m fullyconv.hub.model_card > MODEL_CARD.md
"""

from __future__ import annotations

from fullyconv.confusion import headline
from fullyconv.hub.catalog import Entry, entries

INTRODUCTION = """\
# Model card

Every model that `fullyconv` ships, one section each. The scores are what `fullyconv test` printed for the stored
weights, in percent, from one confusion matrix over the whole split at the images' own size; pixels labelled void count
for nothing. The licence of the weights follows from the data they were trained on. **It is never that of the code.**

This file is written by `python -m fullyconv.hub.model_card > MODEL_CARD.md`.
"""


def model_card() -> str:
    """Write the whole card."""
    return "\n".join([INTRODUCTION, *(_section(entry) for entry in entries())])


def _section(entry: Entry) -> str:
    config, score = entry.config, entry.config.score or {}
    names = config.labels["names"]
    lines = [
        f"## {entry.name}",
        "",
        *([f"Also: {', '.join(f'`{alias}`' for alias in entry.aliases)}.", ""] if entry.aliases else []),
        f"- **Architecture**: `{config.model['model']}`",
        f"- **Size**: {entry.bytes / 1e6:.1f} MB on disk ({config.weights['dtype']})",
        f"- **Classes** ({len(names)}): {', '.join(names)}",
        f"- **Licence of the weights**: {config.licence}",
        f"- **Recipe**: `fullyconv fit --config zoo/{entry.name}/recipe.yaml`",
        *(f"- **{key.capitalize()}**: {value}" for key, value in config.training.items()),
        "",
        f"On {score.get('data')}, {score.get('split')} split: {headline(score)}.",
        "",
        f"    {score.get('command')}",
        "",
        "| class | IU % |",
        "|---|---|",
        *(f"| {name} | {'-' if iu is None else f'{iu:.2f}'} |" for name, iu in (score.get("iu") or {}).items()),
        "",
    ]
    notes = entry.folder / "NOTES.md"
    if notes.is_file():
        lines.append(notes.read_text(encoding="utf-8"))
    return "\n".join(lines)


if __name__ == "__main__":
    print(model_card(), end="")
