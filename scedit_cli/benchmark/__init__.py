"""The benchmark of training methods: cost, quality, sampling and skips, measured on one base."""
