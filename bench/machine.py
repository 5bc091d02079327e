# SPDX-License-Identifier: Apache-2.0
"""What a result must say about where it was taken: machine, versions, commit, date, load."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import discrete_grad as dg

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def host_kind() -> str:
    """The name of a kind of machine in file names: cpu-2cores."""
    return f"cpu-{cores()}cores"


def load_average() -> list[float]:
    """Over 1, 5 and 15 minutes: above the benchmark's own threads, other work disturbed it."""
    return [round(value, 2) for value in os.getloadavg()]


def today() -> str:
    return datetime.now(timezone.utc).date().isoformat()


def environment() -> dict[str, object]:
    """The record that goes with every result."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", "csrc", "discrete_grad")),
        "host_kind": host_kind(),
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "discrete_grad": metadata.version("discrete-grad"),
        "simd": _config_line("SIMD level: "),
        "build": _config_line("build: "),
        "load_average": load_average(),
    }


def save(written: dict[str, Any], path: Path) -> None:
    """Write a result as JSON, a list with one entry a line, and say where it is."""
    parts = []
    for name, value in written.items():
        if isinstance(value, list):
            text = "[\n  " + ",\n  ".join(json.dumps(entry) for entry in value) + "\n ]"
        else:
            text = json.dumps(value, indent=1).replace("\n", "\n ")
        parts.append(f" {json.dumps(name)}: {text}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    print(f"wrote {path}")


def _git(*arguments: str) -> str | None:
    """git's answer, or None outside a repository or without git."""
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def _config_line(start: str) -> str | None:
    for line in dg.show_config().splitlines():
        if line.startswith(start):
            return line.removeprefix(start)
    return None


def _processor() -> str:
    """Its name with family and model: some machines give no more than the maker's name."""
    fields: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").split("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
    name = fields.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in fields:
        name += f" (family {fields['cpu family']}, model {fields.get('model', '?')})"
    return name


def _memory_gib() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
