"""Description and manifest of a set of images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any


def without(description: Mapping[str, Any], skipped: Sequence[int]) -> dict[str, Any]:
    """Description of a source (`count`, `fingerprint`, ...) without its images `skipped` (indices).

    It is another set of images, so it has another fingerprint.
    """
    if not skipped:
        return dict(description)
    content = json.dumps([description["fingerprint"], sorted(skipped)])
    return {
        **description,
        "count": description["count"] - len(skipped),
        "fingerprint": hashlib.sha256(content.encode()).hexdigest(),
        "skipped": len(skipped),
    }
