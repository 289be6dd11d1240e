"""Description and manifest of a set of images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any


def without(description: Mapping[str, Any], skipped: Sequence[int]) -> dict[str, Any]:
    """The description of a source (`count`, `fingerprint`, ...) without its images `skipped` (indices in the source).

    It is another set of images, so it has another fingerprint.
    """
    if not skipped:
        return dict(description)
    ordered = sorted(skipped)
    fingerprint = hashlib.sha256(
        json.dumps([description["fingerprint"], ordered]).encode()
    ).hexdigest()
    return {
        **description,
        "count": description["count"] - len(ordered),
        "fingerprint": fingerprint,
        "skipped": len(ordered),
    }
