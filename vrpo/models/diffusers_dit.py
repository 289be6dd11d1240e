"""DiT in diffusers' layout, out and in: the folder of a `DiTPipeline`.

The tensors are DiT's under other names. Queries, keys and values are apart, and every block has a
copy of the time and class embedding. One thing cannot be stored: diffusers' time embedding has the
frequencies 10000^(-k/127), DiT's and ours 10000^(-k/128) (`downscale_freq_shift` 1 and 0).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vrpo.errors import UserError
from vrpo.files import clear_os_errors, partial_path
from vrpo.models.checkpoints import read_milestone
from vrpo.models.embeddings import position_embedding
from vrpo.models.normalisation import check_normalisation
from vrpo.models.tokenizer import Tokenizer
from vrpo.models.weights import read_weights

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")  # today's, and that of DiT's own files
EMBEDDING = {
    "t_embedder.mlp.0": "norm1.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "norm1.emb.timestep_embedder.linear_2",
    "y_embedder.embedding_table": "norm1.emb.class_embedder.embedding_table",
}
BLOCK = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
OUTER = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
QKV = ("attn1.to_q", "attn1.to_k", "attn1.to_v")
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def export_pipeline(milestone: Path | str, tokenizer: Tokenizer, output: Path | str) -> None:
    """Write a milestone of DiT as a folder that `DiTPipeline.from_pretrained` loads.

    Args:
        milestone: safetensors file of a run, or of `import_checkpoint`.
        tokenizer: the VAE that decodes its latents.
        output: folder to write; must not exist.

    Raises:
        UserError: the milestone is damaged or no DiT with DDPM's linear betas, the VAE is not that
            of its latents, normalises more than by a factor, or the folder exists.
    """
    from diffusers import DDIMScheduler, DiTPipeline

    output = Path(output)
    if output.exists():
        raise UserError(f"{output}: exists; remove it, or give another folder")
    state, _, description = read_milestone(milestone)
    model, process = description["model"], description["process"]
    if process["kind"] != "ddpm" or process.get("betas") != "linear" or "backbone" in model:
        raise UserError(
            f"{milestone}: is no DiT with DDPM and linear betas, and diffusers' DiTPipeline "
            "samples no other; give a milestone of DiT"
        )
    if "class_token" in description:
        raise UserError(
            f"{milestone}: denoises a class token (REG), which diffusers' DiTPipeline does not "
            "know; give a milestone of another alignment"
        )
    channels, side, _ = description["latent_shape"]
    own = tokenizer.vae.config.latent_channels
    if own != channels:
        raise UserError(
            f"{milestone}: was trained on latents of {channels} channels, the VAE has {own}; "
            "give the VAE that made its latents"
        )
    check_normalisation(description, tokenizer.normalisation, milestone, "the VAE")
    if tokenizer.normalisation.per_channel or tokenizer.shift:
        raise UserError(
            f"{milestone}: its latents are normalised by more than a factor "
            f"({tokenizer.normalisation}), which diffusers' DiTPipeline cannot take back; "
            "export it with `export-checkpoint`"
        )
    transformer = _transformer(state, model, channels, side, description["out_channels"])
    tokenizer.vae.register_to_config(scaling_factor=tokenizer.scale)
    scheduler = DDIMScheduler(
        num_train_timesteps=process["steps"],
        beta_start=0.1 / process["steps"],
        beta_end=20 / process["steps"],
        beta_schedule="linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="epsilon",
    )
    partial = partial_path(output)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with clear_os_errors(output):
            DiTPipeline(transformer, tokenizer.vae, scheduler).save_pretrained(partial)
            partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def read_transformer(folder: Path) -> tuple[dict[str, Tensor], int, Path]:
    """DiT's tensors by the names of its own code, its heads, and the file of the weights.

    Args:
        folder: of a `DiTPipeline`, or its `transformer`.

    Raises:
        UserError: it holds no transformer of DiT, or one whose blocks have embeddings of their own.
    """
    place = folder / "transformer" if (folder / "transformer").is_dir() else folder
    remedy = "give the folder of a DiTPipeline of diffusers, or a file of an official code"
    try:
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
        kind, heads = config["_class_name"], config["num_attention_heads"]
        grid = config["sample_size"] // config["patch_size"]
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise UserError(
            f"{folder}: is a folder, not a file, and has no config.json of a diffusers "
            f"transformer; {remedy}"
        ) from error
    if kind not in CLASSES or config.get("norm_type") != "ada_norm_zero":
        raise UserError(f"{folder}: holds a {kind}, which is no DiT; {remedy}")
    file = next((place / name for name in WEIGHTS if (place / name).is_file()), place / WEIGHTS[0])
    state = dict(read_weights(file, remedy).content)
    return _official_names(state, grid, file), heads, file


def _transformer(
    state: Mapping[str, Tensor], model: Mapping[str, Any], channels: int, side: int, out: int
) -> DiTTransformer2DModel:
    """Diffusers' network with the tensors of `state`, which has DiT's names."""
    from diffusers import DiTTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        transformer = DiTTransformer2DModel(
            num_attention_heads=model["heads"],
            attention_head_dim=model["width"] // model["heads"],
            in_channels=channels,
            out_channels=out,
            num_layers=model["depth"],
            sample_size=side,
            patch_size=model["patch_size"],
            num_embeds_ada_norm=model["num_classes"],
            norm_eps=1e-6,
        )
    transformer.load_state_dict(_diffusers_names(state, model["depth"]))
    return transformer.eval()


def _diffusers_names(state: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    found = {}
    for ending in ("weight", "bias"):
        for own, other in OUTER.items():
            found[f"{other}.{ending}"] = state[f"{own}.{ending}"]
        for index in range(depth):
            ours, theirs = f"blocks.{index}", f"transformer_blocks.{index}"
            for own, other in BLOCK.items():
                found[f"{theirs}.{other}.{ending}"] = state[f"{ours}.{own}.{ending}"]
            parts = state[f"{ours}.attn.qkv.{ending}"].chunk(3)
            found |= {f"{theirs}.{k}.{ending}": v for k, v in zip(QKV, parts, strict=True)}
            for own, other in EMBEDDING.items():
                if f"{own}.{ending}" in state:  # the table of classes has no bias
                    found[f"{theirs}.{other}.{ending}"] = state[f"{own}.{ending}"]
    return found


def _official_names(state: Mapping[str, Tensor], grid: int, path: Path) -> dict[str, Tensor]:
    left, found = dict(state), {}
    left.pop("pos_embed.pos_embed", None)  # the fixed one, in files of some versions
    depth = len({name.split(".")[1] for name in left if name.startswith("transformer_blocks.")})
    try:
        for ending in ("weight", "bias"):
            for own, other in OUTER.items():
                found[f"{own}.{ending}"] = left.pop(f"{other}.{ending}")
            for index in range(depth):
                ours, theirs = f"blocks.{index}", f"transformer_blocks.{index}"
                for own, other in BLOCK.items():
                    found[f"{ours}.{own}.{ending}"] = left.pop(f"{theirs}.{other}.{ending}")
                parts = [left.pop(f"{theirs}.{name}.{ending}") for name in QKV]
                found[f"{ours}.attn.qkv.{ending}"] = torch.cat(parts)
                for own, other in EMBEDDING.items():
                    if own.startswith("y_embedder") and ending == "bias":
                        continue
                    copy = left.pop(f"{theirs}.{other}.{ending}")
                    if not torch.equal(found.setdefault(f"{own}.{ending}", copy), copy):
                        raise UserError(
                            f"{path}: its blocks have different embeddings of time or class, and "
                            "a DiT has one; only weights that were converted from DiT fit"
                        )
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{path}: is no whole DiT of diffusers ({' '.join(str(error).split())} is missing or "
            "unfit); fetch it again"
        ) from error
    width = found["x_embedder.proj.weight"].shape[0]
    return {**found, **left, "pos_embed": position_embedding(width, grid)}
