"""Scores of features: Frechet and kernel distances, Inception score, precision and recall."""
