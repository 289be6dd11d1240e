"""DiT in diffusers' layout: the folder that `DiTPipeline` loads, and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiTPipeline
from safetensors.torch import load_file, save_file

from vrpo.errors import UserError
from vrpo.models.checkpoints import load_milestone, read_milestone, save_milestone
from vrpo.models.diffusers_dit import export_pipeline
from vrpo.models.official import import_checkpoint
from vrpo.models.tokenizer import Tokenizer, load_tokenizer

from tests.fixtures import golden
from tests.fixtures.vae import EACH, PLAIN, options, write_vae
from tests.fixtures.weights import official_state

VALUES = golden.load("networks")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small DiT as a milestone, its VAE, and the pipeline made of both."""
    folder = tmp_path_factory.mktemp("dit")
    torch.save(official_state(8), folder / "DiT-tiny.pt")
    import_checkpoint(folder / "DiT-tiny.pt", folder / "dit.safetensors", heads=4, step=7)
    export_pipeline(folder / "dit.safetensors", vae(folder), folder / "pipeline")
    return folder


def vae(folder: Path, **config: object) -> Tokenizer:
    return load_tokenizer(options(write_vae(folder / "vae", **(config or PLAIN))), None, "cpu")


def test_the_pipeline_predicts_as_ours(folder: Path) -> None:
    """With DiT's frequencies of time, which diffusers' own network lacks."""
    pipeline = DiTPipeline.from_pretrained(folder / "pipeline")
    network, _ = load_milestone(folder / "dit.safetensors")
    x, t = VALUES["x"], VALUES["t_dit"]
    ours, _ = network(x, t.float(), golden.LABELS)
    for block in pipeline.transformer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    with torch.no_grad():
        theirs = pipeline.transformer(x, timestep=t, class_labels=golden.LABELS).sample
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - VALUES["dit"]).abs().max() < 1e-5


def test_the_pipeline_samples_and_decodes_as_ours(folder: Path) -> None:
    pipeline = DiTPipeline.from_pretrained(folder / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline([1, 2], guidance_scale=1.0, num_inference_steps=2, output_type="np").images
    assert images.shape[0] == 2
    assert pipeline.scheduler.alphas_cumprod[-1] == pytest.approx(4.04e-5, rel=1e-2)
    latents = golden.draw(1, 2, 4, 8, 8)
    tokenizer = load_tokenizer(options(folder / "vae"), None, "cpu")
    with torch.no_grad():
        theirs = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
        assert (theirs - tokenizer.decode(latents)).abs().max() < 1e-5


@pytest.mark.parametrize("part", ["", "transformer"])
def test_back_to_the_same_milestone(folder: Path, tmp_path: Path, part: str) -> None:
    described = import_checkpoint(folder / "pipeline" / part, tmp_path / "back.safetensors")
    before, _, first = read_milestone(folder / "dit.safetensors")
    after, _, second = read_milestone(tmp_path / "back.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for key in ("model", "process", "latent_shape", "out_channels"):
        assert first[key] == second[key] == described[key]


def test_what_diffusers_cannot_hold(folder: Path, tmp_path: Path) -> None:
    milestone = folder / "dit.safetensors"
    with pytest.raises(UserError, match="pipeline: exists; remove it"):
        export_pipeline(milestone, vae(tmp_path), folder / "pipeline")
    each = vae(tmp_path / "each", **EACH)
    with pytest.raises(UserError, match="normalised by more than a factor"):
        export_pipeline(milestone, each, tmp_path / "out")
    state, _, description = read_milestone(milestone)
    sit = {"kind": "interpolant", "path": "linear", "time": "uniform"}
    save_milestone(tmp_path / "sit.safetensors", state, {}, {**description, "process": sit})
    with pytest.raises(UserError, match="is no DiT with DDPM and linear betas"):
        export_pipeline(tmp_path / "sit.safetensors", vae(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_foreign_folders_end_in_a_line(folder: Path, tmp_path: Path) -> None:
    def refused(place: Path, words: str) -> None:
        with pytest.raises(UserError, match=words) as error:
            import_checkpoint(place, tmp_path / "out.safetensors")
        assert "\n" not in str(error.value)

    refused(tmp_path, "has no config.json of a diffusers transformer")
    refused(folder / "vae", "has no config.json of a diffusers transformer")
    copy = shutil.copytree(folder / "pipeline/transformer", tmp_path / "copy")
    weights = copy / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"
    save_file({**state, name: state[name] + 1}, weights)
    refused(copy, "different embeddings of time or class")
    del state["transformer_blocks.1.attn1.to_k.weight"]
    save_file(state, weights)
    refused(copy, r"no whole DiT of diffusers .*to_k.weight' is missing")
    save_file(
        {**load_file(folder / "pipeline/transformer" / weights.name), "x.y": state[name]}, weights
    )
    refused(copy, "x.y .* is not in the network")
    config = json.loads((copy / "config.json").read_text()) | {"_class_name": "PixArt"}
    (copy / "config.json").write_text(json.dumps(config))
    refused(copy, "holds a PixArt, which is no DiT")
