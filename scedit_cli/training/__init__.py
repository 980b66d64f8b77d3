"""What a training run is made of: its folder, data, steps, checkpoints, preview pictures and scores."""
