"""Recipes, and the words that those of older versions wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

OLD_NAMES = {"artefact": "model_folder", "licence": "license"}
"""Options of a run in the recipes of older versions -> those of today."""


def respelled(words: Sequence[str]) -> list[str]:
    """Give the command line of a run today's names, also in the recipes that it names.

    Args:
        words: of a command line. A recipe with names of older versions is replaced by its content.
    """
    found: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        option, equals, value = word.partition("=")
        if option.startswith("--run."):
            word = f"--run.{OLD_NAMES.get(option[6:], option[6:])}{equals}{value}"
        elif before == "--config":
            word = _recipe(word)
        elif option == "--config" and equals:
            word = f"{option}={_recipe(value)}"
        found.append(word)
    return found


def _recipe(config: str) -> str:
    if not any(name in (text := _text(config)) for name in OLD_NAMES):
        return config
    import yaml

    recipe = yaml.safe_load(text)
    run = recipe.get("run") if isinstance(recipe, dict) else None
    if not isinstance(run, dict) or not OLD_NAMES.keys() & run.keys():
        return config
    return json.dumps(recipe | {"run": {OLD_NAMES.get(key, key): value for key, value in run.items()}})


def _text(config: str) -> str:
    try:
        return Path(config).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""  # jsonargparse says what is wrong with it
