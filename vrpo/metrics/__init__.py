"""Scores of generated images, as ADM's evaluator defines them, in PyTorch.

FID, sFID, Inception score, precision, recall and KID.
"""
