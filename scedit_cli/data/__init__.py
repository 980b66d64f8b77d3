"""Dataset folders, their caches, and the batches that training reads."""
