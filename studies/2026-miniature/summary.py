"""Summary of the six finished studies: reads metrics.csv, writes README.md."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pandas as pd

FOLDER = Path(__file__).parent
STUDENT_T = 2.7764451051977987  # 97.5%, 4 degrees of freedom: every study has five seeds

PAGE = """\
# Six studies in miniature, November 2026

These studies compared forms of VRPO with REPA on handwritten digits (SiT-mini/2 and DiT-mini/2).
They came before the [second search](../2026-second-search/README.md) or beside it.
All scores are FID in the feature space of the miniature's own classifier; lower is better. They
are comparable with each other and with nothing on ImageNet.

The studies call several forms VRPO. Here each is named by what it uses: *fidelity only* and
*perceptual only* are REPA with that one pathwise reward and without the policy term. A gain is
the mean decrease of FID over five paired seeds, with a 95% interval; a loss is its opposite.
Trainings have 1,500 steps unless stated. Intervals are expanded percentile bootstrap intervals,
not corrected for their number; docs/ uses Student's t.

<table>

## Notes

- `first` ran on another kind of processor than the rest, so it has its own tokenizer, encoder,
  critic and judges. The other five share judges and reference.
- `weighted`, `long` and `more` use the seeds of the benchmark's verdict. The best limit in
  `weighted` was picked on these seeds. `spatial` uses fresh seeds.
- The `adaptive` runs of `ablations` could not reopen a noise level whose weight had fallen to 0.
  The code was fixed for `more`.
- `repa-as-vrpo` in `ablations` computes the rewards and uses none of them. It equals REPA up to
  rounding, and its FID differs by <rounding> at most in ten trainings.

## Files

- `metrics.csv`: every score of every study. `python studies/2026-miniature/summary.py` writes
  this page from it.
- `provenance.csv`: commit, config hash, seeds, machine and versions of each study.
- `configs/`: what each study changes in `config/methods.yaml`.

All other files of the studies (tables, figures, diagnostics by noise level) are in the history,
in `docs/methods_<study>/` up to commit `63bcbfd`. To repeat a study, check out its commit and run
`config/methods_<study>.yaml` over `config/mini.yaml` and `config/methods.yaml`; at the commit of
`first`, `config/methods.yaml` is that study. The config hashes belong to these commits.

## Pictures

`first`: REPA has lambda 2, VRPO is perceptual only.

![Scores against steps, first study](first_scores.png)

`ablations`: change of FID against VRPO (perceptual only).

![Change of the scores by ablation](ablations_changes.png)

`long`: VRPO is fidelity only.

![Scores against steps, long trainings](long_scores.png)

`more`: change of FID against VRPO (fidelity only).

![Change of the scores by form](more_changes.png)

`spatial`: VRPO is fidelity only with iREPA's projector, `vrpo-f0.05-w4` with REPA's.

![Scores against steps, fresh seeds](spatial_scores.png)
"""


class Row(NamedTuple):
    """A question that a study asked, and its answer.

    In the answer `{run}` is a mean FID and `{run > other}` the gain of `other` on `run`, after
    1,500 steps unless `@ step` follows. `study:run` is a run of another study.
    """

    study: str
    question: str
    answer: str


TABLE = (
    Row(
        "first",
        "Does VRPO (perceptual only) beat REPA, with five candidates searched for each?",
        """DiT: yes, {dit-repa-w2} to {dit-vrpo-p0.05-w2},
        gain {dit-repa-w2 > dit-vrpo-p0.05-w2}. SiT: {sit-repa-w2} to {sit-vrpo-p0.05-w2},
        gain {sit-repa-w2 > sit-vrpo-p0.05-w2}.""",
    ),
    Row(
        "ablations",
        "Does that repeat, and which part makes the gain?",
        """DiT: yes, gain {dit-repa-w2 > dit-vrpo-p0.05-w2}. SiT: undecided,
        {sit-repa-w2 > sit-vrpo-p0.05-w2}. On DiT the pathwise reward makes it: with the policy
        term in its place the gain is lost ({dit-score-alone > dit-vrpo-p0.05-w2}). Adding the
        policy term shows no effect (gain {dit-vrpo-p0.05-w2 > dit-with-score}). Groups of one
        image lose {dit-by-image > dit-vrpo-p0.05-w2}.""",
    ),
    Row(
        "weighted",
        "Does a fixed weight on DiT's denoising loss, up to a limit, do the same?",
        """In part. REPA with the best of four limits, 10, has {dit-velocity-10-repa-w4}; VRPO
        (fidelity only) without a limit gains {dit-velocity-10-repa-w4 > more:dit-vrpo-f0.05-w4}
        on it. With limit 100 REPA has {dit-velocity-repa-w4}.""",
    ),
    Row(
        "long",
        "Does the gain on DiT last in trainings three times as long?",
        """Yes: after 4,500 steps {dit-repa-w4 @ 4500} to {dit-vrpo-f0.05-w4 @ 4500}, gain
        {dit-repa-w4 > dit-vrpo-f0.05-w4 @ 4500} for VRPO (fidelity only).""",
    ),
    Row(
        "more",
        "Which further forms gain on VRPO (fidelity only)?",
        """iREPA's projector: {dit-vrpo-f0.05-w4 > dit-spatial} on DiT, SiT undecided. Both
        rewards: {sit-vrpo-f0.05-w4 > sit-both-rewards} on SiT, DiT undecided. The policy term
        with the averaged network shows no effect ({dit-vrpo-f0.05-w4 > dit-policy-ema} on DiT).
        A lambda that follows the agreement of gradients loses
        {dit-adaptive > dit-vrpo-f0.05-w4} on DiT.""",
    ),
    Row(
        "spatial",
        "Does iREPA's projector gain on DiT on fresh seeds, too?",
        """Yes: REPA {dit-repa-w4}, iREPA {dit-irepa}, VRPO (fidelity only) {dit-vrpo-f0.05-w4},
        with the projector {dit-spatial}. It gains {dit-repa-w4 > dit-spatial} on REPA and
        {dit-irepa > dit-spatial} on iREPA.""",
    ),
)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and expanded percentile bootstrap interval (Hesterberg, arXiv:1411.5279).

    The resamples are those that the studies' own reports drew, so the numbers are the same.
    """
    count = len(values)
    assert count == 5 and np.isfinite(values).all()
    key = hashlib.blake2b(f"bootstrap-seeds\x1f{count}".encode(), digest_size=8).digest()
    generator = np.random.default_rng(int.from_bytes(key, "big") >> 1)
    means = values[generator.integers(count, size=(10_000, count))].mean(axis=1)
    tail = NormalDist().cdf(-math.sqrt(count / (count - 1)) * STUDENT_T)
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(values.mean()), float(low), float(high)


def number(metrics: pd.DataFrame, study: str, expression: str) -> str:
    """The number that `expression`, in the answer of `study`, stands for."""
    runs, _, step = expression.partition(" @ ")
    values = [fid(metrics, study, run, int(step or 1500)) for run in runs.split(" > ")]
    if len(values) == 1:
        return f"{values[0].mean():.2f}"
    return "{:.2f} [{:.2f}, {:.2f}]".format(*interval((values[0] - values[1]).to_numpy()))


def fid(metrics: pd.DataFrame, study: str, run: str, step: int) -> pd.Series:
    """FID by seed."""
    study, run = run.split(":") if ":" in run else (study, run)
    chosen = (metrics["study"] == study) & (metrics["run"] == run) & (metrics["step"] == step)
    return metrics[chosen].set_index("seed")["fid"].sort_index()


def line(metrics: pd.DataFrame, row: Row) -> str:
    """A line of the table, with its numbers."""
    own = metrics[(metrics["study"] == row.study) & ~metrics["run"].str.startswith("search-")]
    text = " ".join(row.answer.split())
    answer = re.sub(r"\{(.+?)\}", lambda found: number(metrics, row.study, found[1]), text)
    return f"| `{row.study}` | {row.question} | {own.seed.min()} to {own.seed.max()} | {answer} |"


def rounding(metrics: pd.DataFrame) -> float:
    """Largest difference of FID between REPA and REPA computed as VRPO."""
    names = [(f"{process}-repa-w2", f"{process}-repa-as-vrpo") for process in ("sit", "dit")]
    pairs = [[fid(metrics, "ablations", name, 1500) for name in pair] for pair in names]
    return max((first - second).abs().max() for first, second in pairs)


def write_summary(folder: Path) -> None:
    """Write README.md in `folder` from its metrics.csv."""
    metrics = pd.read_csv(folder / "metrics.csv")
    lines = ["| study | question | seeds | answer |", "|---|---|---|---|"]
    lines += [line(metrics, row) for row in TABLE]
    text = PAGE.replace("<table>", "\n".join(lines))
    text = text.replace("<rounding>", f"{rounding(metrics):.2f}")
    (folder / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_summary(FOLDER)
