"""The training loop of one run: AdamW on the global batch, averaged weights, exact resume."""

from __future__ import annotations

import contextlib
import copy
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vrpo.alignment.base import GlobalTargets
from vrpo.data.batches import TrainingData
from vrpo.errors import UserError
from vrpo.runtime.distributed import Ranks
from vrpo.training.backend import loss_function
from vrpo.training.feed import Feed, MicroBatch, plan_parts
from vrpo.training.global_targets import gather_targets
from vrpo.training.history import TABLES, History, Rows
from vrpo.training.interrupt import Interrupt
from vrpo.training.objective import Objective
from vrpo.training.plan import StepDraws, StepPlan, plan_step, step_draws
from vrpo.training.previews import Previews
from vrpo.training.state import StateStore
from vrpo.training.totals import Totals

if TYPE_CHECKING:
    from vrpo.config.training import TrainingOptions

log = logging.getLogger(__name__)


class Trainer:
    """One run in training.

    `state_dict` lists all that resume needs; all else is a function of (config, seed, step).
    """

    def __init__(
        self,
        objective: Objective,
        data: TrainingData,
        options: TrainingOptions,
        *,
        seed: int,
        ranks: Ranks,
        mark: Callable[[str], None] | None = None,
    ) -> None:
        """`objective` is freshly initialised, the same on every rank.

        `mark` is called with the name of each part of a step when it has been issued.

        Raises:
            UserError: the network has no activation checkpointing, and the options ask for it.
        """
        self.options, self.seed, self.ranks, self.data = options, seed, ranks, data
        self.mark = mark or (lambda part: None)
        self.objective = objective.to(ranks.device).train()
        self.ema = copy.deepcopy(self.objective).eval().requires_grad_(False)
        pairs = zip(self.objective.parameters(), self.ema.parameters(), strict=True)
        trained = [pair for pair in pairs if pair[0].requires_grad]
        self.parameters = [parameter for parameter, _ in trained]
        self.ema_parameters = [average for _, average in trained]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=options.learning_rate,
            betas=options.adam_betas,
            weight_decay=options.weight_decay,
            fused=True,
        )
        self.step = 0
        self.tables: dict[str, Rows] = {name: [] for name in TABLES}
        self.totals = Totals(ranks)
        self.skipped_in_a_row = torch.zeros((), dtype=torch.int64, device=ranks.device)
        self.last_skipped = torch.full((), -1, dtype=torch.int64, device=ranks.device)
        network, alignment = self.objective.network, self.objective.alignment
        self.warned: set[str] = set()
        self.loss_function = loss_function(self.objective, options, ranks)
        cut = {"rank": ranks.rank, "world": ranks.world, "accumulation": options.accumulation}
        self.feed = Feed(
            data,
            lambda step: plan_parts(self.plan(step), **cut),
            device=ranks.device,
            encoders=alignment.options.encoders,
            attention=bool(alignment.attention_of),
            class_token=alignment.options.needs_class_token,
            null_label=network.null_label,
            latents=options.latents,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that resume needs, equal on all ranks.

        All ranks call it at the same step, because it gathers their metrics.
        """
        return {
            "step": self.step,
            "objective": self.objective.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "totals": self.totals.state_dict(),
            "skipped_in_a_row": self.skipped_in_a_row,
            "last_skipped": self.last_skipped,
            "tables": self.tables,
            "data": self.data.origin(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state_dict()`: bitwise on as many ranks, else up to rounding."""
        self.step = state["step"]
        self.objective.load_state_dict(state["objective"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        rows = state["tables"]["train"]
        self.totals.load_state_dict(state["totals"], rows[-1] if rows else ())
        self.skipped_in_a_row.copy_(state["skipped_in_a_row"])
        self.last_skipped.copy_(state["last_skipped"])
        self.tables = state["tables"]

    def plan(self, step: int) -> StepPlan:
        """The global batch of `step`."""
        process, alignment = self.objective.process, self.objective.alignment.options
        return plan_step(
            process, alignment, self.options, seed=self.seed, step=step, count=self.data.count
        )

    def train_step(self) -> None:
        """One optimiser step on the global batch of step `self.step`."""
        options, ranks = self.options, self.ranks
        batches = self.feed.take(self.step)
        drawn = self.draws()
        targets: list[GlobalTargets | None] = [None] * len(batches)
        if self.objective.alignment.needs_global_targets:
            targets = gather_targets(batches, ranks)
        self.mark("data")
        for micro, batch in enumerate(batches):
            synchronised = ranks.world == 1 or micro == options.accumulation - 1
            with contextlib.nullcontext() if synchronised else self.loss_function.no_sync():
                loss, metrics = self.loss(self.loss_function, batch, drawn, targets[micro])
                self.mark("forward")
                (loss / options.accumulation).backward()
                self.totals.add_metrics(metrics, options.accumulation)
                self.mark("backward")
        self._update()
        self.step += 1

    def draws(self) -> StepDraws:
        """The random tensors of step `self.step`."""
        wanted = self.objective.alignment.options, self.objective.joint, self.data.latent_shape
        size, device = self.options.batch_size, self.ranks.device
        return step_draws(*wanted, seed=self.seed, step=self.step, batch_size=size, device=device)

    def loss(
        self,
        function: nn.Module,
        batch: MicroBatch,
        drawn: StepDraws,
        targets: GlobalTargets | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a micro-batch, a mean, and metrics; `function` is the objective, or wraps it."""
        step = torch.full((), self.step, device=self.ranks.device)
        x0 = batch.mean + batch.std * drawn.latent[batch.draw]  # (B, C, H, W)
        eps = drawn.noise[batch.draw]
        old_cosine = cleaner_hidden = token_noise = None
        if self.objective.alignment.options.needs_old_policy:
            old_cosine = self.ema.cosine(x0, eps, batch.times, batch.labels, batch.tokens)
        if drawn.token is not None:
            token_noise = drawn.token[batch.draw]
        if drawn.gaps is not None:
            gap = drawn.gaps[batch.draw]
            cleaner_hidden = self.ema.cleaner_hidden(x0, eps, batch.times, batch.labels, gap)
        return function(
            x0,
            eps,
            batch.times,
            batch.labels,
            batch.tokens,
            old_cosine,
            batch.attention,
            step,
            targets,
            cleaner_hidden,
            token_noise,
        )

    def _update(self) -> None:
        """Clip, step, average.

        Fused AdamW clips (it divides gradients by `grad_scale`) and skips non-finite steps, both on
        the device.
        """
        gradients = [each.grad for each in self.parameters if each.grad is not None]
        grad_norm = nn.utils.get_total_norm(gradients)
        finite = torch.isfinite(grad_norm)
        self.optimizer.grad_scale = ((grad_norm + 1e-6) / self.options.max_grad_norm).clamp_min(1.0)
        self.optimizer.found_inf = (~finite).float()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.mark("optimiser")
        torch._foreach_lerp_(self.ema_parameters, self.parameters, 1 - self.options.ema_decay)
        self.mark("average")
        self.objective.alignment.finish_step(self.ranks.all_reduce, finite)
        self.skipped_in_a_row = torch.where(finite, 0, self.skipped_in_a_row + 1)
        self.last_skipped = torch.where(finite, self.last_skipped, self.step)
        self.totals.add("grad_norm", grad_norm)
        self.totals.add("skipped", (~finite).float())
        self.mark("statistics")

    def train(
        self,
        milestone: int,
        store: StateStore,
        history: History | None,
        interrupt: Interrupt,
        *,
        log_every: int,
        max_skipped: int,
        previews: Previews | None = None,
    ) -> None:
        """Train up to `milestone` steps, saving state as `interrupt` asks and at the end.

        The first rank has `history` and, if they are wanted, `previews`.

        Raises:
            UserError: more than `max_skipped` steps in a row were not finite, and the state is
                saved; or a state could not be written.
            InterruptionError: a signal or the wall-time budget ended it early; the state is saved.
        """
        progress = tqdm(
            initial=self.step,
            total=milestone,
            unit="step",
            disable=not self.ranks.is_main,
            mininterval=1 if sys.stderr.isatty() else 30,
            desc="train",
        )
        with progress, contextlib.closing(self.feed), contextlib.closing(store):
            while self.step < milestone:
                self.train_step()
                progress.update()
                store.raise_failure()
                if self.step % log_every == 0:
                    self._log_row(history, progress, log_every)
                    if int(self.skipped_in_a_row) > max_skipped:
                        self._save(store, wait=True)
                        raise UserError(self._not_finite(int(self.skipped_in_a_row)))
                if previews is not None:
                    history.leave_out(previews.after(self.step, self.ema.network))
                if self.step < milestone and interrupt.save_now(self.step):
                    self._save(store, wait=interrupt.stopping)
                    interrupt.stop_if_asked(self.step)
            self._save(store, wait=True)

    def _save(self, store: StateStore, *, wait: bool) -> None:
        """Save on the first rank; with `wait`, all ranks wait until the state is on the disk."""
        state = self.state_dict()
        if self.ranks.is_main:
            store.save(self.step, state)
            if wait:
                store.wait()
        if wait:
            self.ranks.barrier()

    def _log_row(self, history: History | None, progress: tqdm, log_every: int) -> None:
        row = {
            name: value if name == "skipped" else value / log_every
            for name, value in self.totals.take().items()
        }
        by_noise_level = self.objective.alignment.log.take()
        if history is not None:
            rate = history.append(self.step, row, by_noise_level)
            progress.set_postfix_str(f"loss {row['loss']:.4f}, {rate:.0f} images/s")
            for sentence in self.objective.alignment.warnings():
                if sentence not in self.warned:
                    log.warning("step %d: %s", self.step, sentence)
                    self.warned.add(sentence)
        if row["skipped"]:
            skipped, last = int(row["skipped"]), int(self.last_skipped) + 1
            log.warning(
                "step %d: %d of the last %d steps were not finite and changed no weight; "
                "samples of the last of them, step %d: %s",
                self.step, skipped, log_every, last, self._last_skipped(),
            )  # fmt: skip

    def _not_finite(self, skipped: int) -> str:
        return (
            f"training: {skipped} steps in a row up to step {self.step} gave a loss or gradient "
            f"that is not finite (samples of the last: {self._last_skipped()}); state is saved; "
            "lower training.learning_rate, or use training.precision fp32, and start again"
        )

    def _last_skipped(self) -> str:
        """Samples of the last step that was not finite."""
        return ", ".join(map(str, sorted(self.plan(int(self.last_skipped)).indices.tolist())))
