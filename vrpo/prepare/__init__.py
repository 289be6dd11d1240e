"""Stages that run once per data set: images, latents, features, critic, fitted networks."""
