# SPDX-License-Identifier: Apache-2.0
"""The files of this folder import one another by plain names, as they do when run as scripts."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
