"""The parts of a training run: folder, datasets, steps, checkpoints, sample grids and scores."""
