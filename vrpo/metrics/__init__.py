"""Scores of generated images: FID, sFID, Inception score, precision, recall and KID, as ADM's evaluator defines them, in PyTorch."""
