"""External checkpoints in the workflow's plan."""

from pathlib import Path

import pytest

from tests.fixtures.workflow import plan, stats, whole

pytestmark = [pytest.mark.workflow]


def test_an_external_checkpoint_is_imported_sampled_and_scored(tmp_path: Path) -> None:
    (tmp_path / "theirs.pt").touch()
    row = "checkpoints={theirs: {file: theirs.pt, family: sit, model: tiny/2, step: 7}}"
    plain = stats(whole(plan(tmp_path, "--", "comparison")))
    result = plan(tmp_path, "--config", row, "--", "comparison")
    assert result.returncode == 0, whole(result)[-4000:]
    planned = stats(whole(result))
    assert planned["import_checkpoint"] == 1
    assert planned["train"] == plain["train"]
    assert planned["sample"] == plain["sample"] + 1
    assert planned["evaluate"] == plain["evaluate"] + 1
