"""Dataset folders, what is cached of them, and the batches that training sees."""
