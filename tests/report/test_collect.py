"""Collected logs."""

import pandas as pd

from vrpo.report.collect import over_stretches


def test_long_logs_are_averaged_over_stretches_of_steps() -> None:
    rows = pd.DataFrame(
        [
            {"step": step, "noise_level": level, "value": step + level}
            for step in range(10, 130, 10)
            for level in (0.25, 0.75)
        ]
    )
    short = over_stretches(rows, stretches=4)
    assert short["step"].tolist() == [30, 30, 60, 60, 90, 90, 120, 120]
    assert short["value"].tolist() == [20.25, 20.75, 50.25, 50.75, 80.25, 80.75, 110.25, 110.75]
    pd.testing.assert_frame_equal(over_stretches(rows, stretches=50), rows)
    assert over_stretches(rows[:0]).empty
