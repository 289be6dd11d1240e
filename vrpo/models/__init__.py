"""Networks: the transformer, its projector, and the frozen ones beside it."""
