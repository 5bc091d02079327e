# SPDX-License-Identifier: Apache-2.0
"""tests/mutate.py takes hours where the extension is compiled for each mutation, and is run seldom;
what it would change must still be there.
"""

from __future__ import annotations

import pytest

from tests.mutate import MUTATIONS, REPOSITORY, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.file}-{m.name}")
def test_text_to_mutate_is_there_once(mutation: Mutation) -> None:
    text = (REPOSITORY / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1
    assert mutation.new != mutation.old
