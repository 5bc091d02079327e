# SPDX-License-Identifier: Apache-2.0
"""Files that an interruption leaves either as they were or as they should be."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.errors import RecordError


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` write a file beside ``path``, then put it in its place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The ending stays: NumPy appends its own to a name without it.
    part = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, atomically; NaN and infinities raise ValueError."""
    # Through json first, which turns keys and tuples into what is read back.
    text = _format(json.loads(json.dumps(content, allow_nan=False)), "") + "\n"
    replace(path, lambda part: part.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        RecordError: the file is not there or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read as JSON: {error}") from error


def _format(value: Any, indent: str) -> str:
    """Objects and lists of them over several lines, lists of plain values on one."""
    deeper = indent + " "
    if isinstance(value, dict) and value:
        lines = [f"{deeper}{json.dumps(k)}: {_format(v, deeper)}" for k, v in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        lines = [deeper + _format(v, deeper) for v in value]
        return "[\n" + ",\n".join(lines) + f"\n{indent}]"
    return json.dumps(value)
