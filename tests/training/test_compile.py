"""The training step under torch.compile: one graph, no break, and never compiled again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from vrpo.alignment.base import GlobalTargets
from vrpo.config import RunConfig
from vrpo.config.messages import validate
from vrpo.config.training import TrainingOptions
from vrpo.data.arrays import ArrayWriter
from vrpo.data.batches import TrainingData
from vrpo.training.building import build_objective
from vrpo.training.objective import Objective
from vrpo.training.plan import plan_step, step_gaps, step_noise

from tests.fixtures.training import ALIGNMENTS, COUNT, LATENT, TOKENS, Toy

BATCH, STEPS = 8, 3
TRAINING = TrainingOptions(batch_size=BATCH)
OTHERS = {
    "irepa": {"kind": "irepa", "encoders": ["toy"], "depth": 1},
    "haste": {
        "kind": "haste",
        "encoders": ["toy"],
        "depth": 1,
        "projector_width": 16,
        "attention_blocks": [2],
        "stop_step": 1,
    },
    "spatial": {
        **ALIGNMENTS["vrpo"],
        "spatial": {"kernel_size": 3},
        "rewards": {"fidelity": {"score": 1.0, "pathwise": 0.05}},
    },
    "agreement": {
        **ALIGNMENTS["vrpo"],
        "measure_agreement": True,
        "rewards": {"fidelity": {"score": 1.0}},
    },
    "schedule": {**ALIGNMENTS["repa"], "weight_schedule": {"kind": "cosine", "end": 5}},
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    toy = Toy(tmp_path_factory.mktemp("toy"))
    generator = np.random.default_rng(1)
    shapes = {
        "tokens": ((COUNT, 4, 8), "float16"),
        "attention": ((COUNT, 1, 2, 2, 4, 4), "float16"),
    }
    with ArrayWriter(toy.folder / "attended.h5", shapes, {"images": "toy"}) as writer:
        writer.write(
            0,
            {
                name: generator.standard_normal(shape).astype(np.float16)
                for name, (shape, _) in shapes.items()
            },
        )
        writer.finish()
    return toy


def objective_of(
    toy: Toy, alignment: str, process: str, precision: str
) -> tuple[Objective, TrainingData]:
    content = toy.config(
        "repa" if alignment in OTHERS else alignment, process, precision=precision
    ).model_dump(mode="json")
    content["alignment"] = OTHERS.get(alignment, content["alignment"])
    config = validate(RunConfig, content, "toy")
    features = {"toy": toy.folder / "attended.h5" if alignment == "haste" else toy.features}
    data = TrainingData(toy.latents, features if config.alignment.encoders else {})
    return build_objective(
        config, data, {"toy": toy.critic} if alignment == "vrpo" else {}, torch.device("cpu")
    ).train(), data


def run_steps(objective: Objective, forward, data: TrainingData) -> list[float]:
    """Losses of some steps of plain gradient descent, as the trainer calls the objective."""
    losses = []
    for step in range(STEPS):
        options = objective.alignment.options
        plan = plan_step(objective.process, options, TRAINING, seed=0, step=step, count=data.count)
        wanted = {
            "attention": bool(objective.alignment.attention_of),
            "class_token": options.needs_class_token,
        }
        batch = data.decode(data.read(plan.indices, **wanted))
        noise = step_noise("noise", 0, step, BATCH, LATENT, torch.device("cpu"))[plan.draw]
        labels = torch.where(plan.dropped, objective.network.null_label, batch.labels)
        targets = None
        if objective.alignment.needs_global_targets:
            rows = torch.from_numpy(plan.indices)
            targets = GlobalTargets(batch.tokens, rows, torch.arange(BATCH))
        cleaner_hidden = token_noise = None
        if options.needs_class_token:
            size = BATCH, (TOKENS[1],)
            drawn = step_noise("class-token", 0, step, *size, torch.device("cpu"))
            token_noise = drawn[plan.draw]
        if options.cleaner_target is not None:
            gap = step_gaps(options.cleaner_target.noise_gap, 0, step, BATCH, torch.device("cpu"))
            cleaner_hidden = objective.cleaner_hidden(batch.mean, noise, plan.times, labels, gap)
        loss, _ = forward(
            batch.mean,
            noise,
            plan.times,
            labels,
            batch.tokens,
            None,
            batch.attention,
            torch.full((), step),
            targets,
            cleaner_hidden,
            token_noise,
        )
        loss.backward()
        objective.alignment.finish_step(lambda sums: sums, torch.tensor(True))
        with torch.no_grad():
            for parameter in objective.parameters():
                parameter -= 0.01 * parameter.grad
                parameter.grad = None
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("process", ["sit", "dit"])
@pytest.mark.parametrize(
    "alignment",
    [
        "none",
        "repa",
        "vrpo",
        "irepa",
        "haste",
        "contrastive",
        "dispersive",
        "sra",
        "reg",
        "relational",
        "spatial",
        "agreement",
        "schedule",
    ],
)
def test_the_step_is_one_graph_compiled_once(alignment: str, process: str, toy: Toy) -> None:
    precision = "bf16" if alignment == "vrpo" else "fp32"
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    objective, data = objective_of(toy, alignment, process, precision)
    losses = run_steps(
        objective, torch.compile(objective, backend=counter, fullgraph=True), data
    )  # fullgraph: a break is an error
    assert len([graph for graph in counter.graphs if list(graph.graph.nodes)]) == 1, (
        "compiled again after the first step"
    )  # a gate traces as an empty one more
    plain, data = objective_of(toy, alignment, process, precision)
    assert losses == pytest.approx(
        run_steps(plain, plain, data), rel=1e-5 if precision == "fp32" else 1e-2
    )


def test_the_networks_forward_is_one_graph_without_hidden_tokens_too(
    toy: Toy, tmp_path: Path
) -> None:
    torch._dynamo.reset()
    network = objective_of(toy, "none", "sit", "fp32")[0].network.eval()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(network, backend=counter, fullgraph=True)
    for seed in range(2):
        x = torch.randn(4, *LATENT, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(compiled(x, torch.rand(4), torch.arange(4))[0].shape, x.shape)
    assert counter.frame_count == 1
