"""The training loop of one run: AdamW on the global batch, averaged weights, exact resume."""

from __future__ import annotations

import contextlib
import copy
import logging
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from vrpo.data.batches import TrainingData
from vrpo.errors import UserError
from vrpo.training.distributed import Ranks
from vrpo.training.history import History
from vrpo.training.interrupt import Interrupt
from vrpo.training.objective import Objective
from vrpo.training.plan import StepPlan, plan_step, step_noise
from vrpo.training.state import StateStore

if TYPE_CHECKING:
    from vrpo.config.options import TrainingOptions

log = logging.getLogger(__name__)


class Trainer:
    """One run in training. `state_dict` lists all that resume needs; everything else is a function of (config, seed, step)."""

    def __init__(self, objective: Objective, data: TrainingData, options: TrainingOptions, *, seed: int, ranks: Ranks) -> None:
        """`objective` is freshly initialised; every rank holds the same one."""
        self.options, self.seed, self.ranks, self.data = options, seed, ranks, data
        self.objective = objective.to(ranks.device).train()
        self.ema = copy.deepcopy(self.objective).eval().requires_grad_(False)
        self.parameters = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        self.ema_parameters = [
            average for average, parameter in zip(self.ema.parameters(), self.objective.parameters(), strict=True) if parameter.requires_grad
        ]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=options.learning_rate, betas=options.adam_betas, weight_decay=options.weight_decay, fused=True)
        self.step = 0
        self.rows: list[dict[str, str]] = []  # of train.csv
        self.totals: dict[str, Tensor] = {}  # metrics summed since the last of them
        self.skipped_in_a_row = torch.zeros((), dtype=torch.int64, device=ranks.device)
        self.loss_function: nn.Module = torch.compile(self.objective) if options.compile else self.objective
        if ranks.world > 1:
            self.loss_function = DistributedDataParallel(self.loss_function, broadcast_buffers=False)
        self.micro_batches = ranks.world * options.accumulation

    def state_dict(self) -> dict[str, Any]:
        """Everything that resume needs."""
        return {
            "step": self.step,
            "objective": self.objective.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "totals": self.totals,
            "skipped_in_a_row": self.skipped_in_a_row,
            "rows": self.rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`'s result, bitwise."""
        self.step = state["step"]
        self.objective.load_state_dict(state["objective"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.totals = state["totals"]
        self.skipped_in_a_row.copy_(state["skipped_in_a_row"])
        self.rows = state["rows"]

    def train_step(self) -> None:
        """One optimiser step on the global batch of step `self.step`."""
        options, ranks = self.options, self.ranks
        plan = plan_step(
            self.objective.process,
            self.objective.alignment,
            seed=self.seed,
            step=self.step,
            count=self.data.count,
            batch_size=options.batch_size,
            label_dropout=options.label_dropout,
        )
        shape = self.data.latent_shape
        latent_noise = step_noise("latent", self.seed, self.step, options.batch_size, shape, ranks.device)
        noise = step_noise("noise", self.seed, self.step, options.batch_size, shape, ranks.device)
        for micro in range(options.accumulation):
            part = plan.part(ranks.rank * options.accumulation + micro, self.micro_batches)
            last = micro == options.accumulation - 1
            with contextlib.nullcontext() if last or ranks.world == 1 else self.loss_function.no_sync():
                self._backward(part, latent_noise, noise)
        self._update()
        self.step += 1

    def _backward(self, part: StepPlan, latent_noise: Tensor, noise: Tensor) -> None:
        device = self.ranks.device
        alignment = self.objective.alignment
        batch = self.data.gather(part.indices, attention=bool(alignment.attention_of))
        draw = part.draw.to(device)
        x0 = batch.mean.to(device) + batch.std.to(device) * latent_noise[draw]  # (B, C, H, W)
        labels = torch.where(part.dropped, self.objective.network.null_label, batch.labels).to(device)
        tokens, encoder_attention = ({name: values.to(device) for name, values in read.items()} for read in (batch.tokens, batch.attention))
        times, eps = part.times.to(device), noise[draw]
        old_cosine = self.ema.cosine(x0, eps, times, labels, tokens) if alignment.needs_old_policy else None
        step = torch.full((), self.step, device=device)
        loss, metrics = self.loss_function(x0, eps, times, labels, tokens, old_cosine, encoder_attention, step)
        (loss / self.options.accumulation).backward()
        for name, value in metrics.items():
            self.totals[name] = self.totals.get(name, torch.zeros_like(value)) + value / self.options.accumulation

    def _update(self) -> None:
        """Clip, step, average. A step that is not finite changes no weight: fused AdamW sees it on the device, without a synchronisation."""
        grad_norm = nn.utils.clip_grad_norm_(self.parameters, self.options.max_grad_norm)
        finite = torch.isfinite(grad_norm)
        self.optimizer.grad_scale = None
        self.optimizer.found_inf = (~finite).float()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(self.ema_parameters, self.parameters, 1 - self.options.ema_decay)
        self.objective.alignment.finish_step(self.ranks.all_reduce, finite)
        self.skipped_in_a_row = torch.where(finite, 0, self.skipped_in_a_row + 1)
        for name, value in (("grad_norm", grad_norm), ("skipped", (~finite).float())):
            self.totals[name] = self.totals.get(name, torch.zeros_like(value)) + value

    def train(self, milestone: int, store: StateStore, history: History | None, interrupt: Interrupt, *, log_every: int, max_skipped: int) -> None:
        """Train up to `milestone` steps, saving state as `interrupt` asks and at the end.

        Raises:
            UserError: more than `max_skipped` steps in a row were not finite; the state is saved.
            InterruptionError: a signal or the wall-time budget ended it early; the state is saved.
        """
        progress = tqdm(
            initial=self.step, total=milestone, unit="step", disable=not self.ranks.is_main, mininterval=1 if sys.stderr.isatty() else 30, desc="train"
        )
        with progress:
            while self.step < milestone:
                self.train_step()
                progress.update()
                if self.step % log_every == 0:
                    self._log_row(history, progress, log_every)
                    if int(self.skipped_in_a_row) > max_skipped:
                        self._save(store)
                        raise UserError(self._not_finite(int(self.skipped_in_a_row)))
                if self.step < milestone and interrupt.save_now(self.step):
                    self._save(store)
                    interrupt.stop_if_asked(self.step)
        self._save(store)

    def _save(self, store: StateStore) -> None:
        if self.ranks.is_main:
            store.save(self.step, self.state_dict())
        self.ranks.barrier()

    def _log_row(self, history: History | None, progress: tqdm, log_every: int) -> None:
        sums = self.ranks.all_reduce(torch.stack([value.double() for value in self.totals.values()])) / self.ranks.world
        row = dict(zip(self.totals, sums.tolist(), strict=True))
        row = {name: value if name == "skipped" else value / log_every for name, value in row.items()}
        self.totals = {}
        if history is not None:
            rate = history.append(self.step, row)
            progress.set_postfix_str(f"loss {row['loss']:.4f}, {rate:.0f} images/s")
        if row["skipped"]:
            log.warning("step %d: %d of the last %d steps were not finite and changed no weight", self.step, int(row["skipped"]), log_every)

    def _not_finite(self, skipped: int) -> str:
        last = plan_step(
            self.objective.process,
            self.objective.alignment,
            seed=self.seed,
            step=self.step - 1,
            count=self.data.count,
            batch_size=self.options.batch_size,
            label_dropout=self.options.label_dropout,
        )
        shown = ", ".join(str(index) for index in last.indices[:8])
        return (
            f"training: {skipped} steps in a row up to step {self.step} gave a loss or gradient that is not finite (samples of the last: {shown}, ...); "
            "state is saved; lower training.learning_rate, or use training.precision fp32, and start again"
        )
