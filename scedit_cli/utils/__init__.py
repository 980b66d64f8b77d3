"""What every room needs: errors, files, locks, the hub, devices."""
