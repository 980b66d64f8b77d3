"""What training methods cost, side by side on one base: each measured in a process of its own."""
