"""Live views of trainings in TensorBoard, W&B and Trackio; they change no result."""
