"""Image generation: the request, the jobs that it makes, conditioning, file names and provenance of the images."""
