"""Frozen networks that turn images into features, behind one protocol."""
