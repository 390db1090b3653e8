"""Every reader gives an answer or the package's own error, however its files are damaged: some seconds of each.

`python tests/fuzzing.py --seconds 600` looks longer; docs/reliability.md has what that found.
"""

from __future__ import annotations

import pytest

from fuzzing import READERS, fuzz


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_end_in_the_packages_own_errors(reader: str) -> None:
    tried, bad = fuzz(reader, seconds=2.5)
    assert tried > 0
    assert not bad, "\n".join(f"seed {seed}: {told}" for seed, told in bad.items())
