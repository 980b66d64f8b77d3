"""The drawing of images and videos: each batch is measured and written before the next one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from scedit_cli.generation.filenames import VIDEO_FORMATS, Names, frames_in_the_way
from scedit_cli.generation.grid import sheet
from scedit_cli.generation.image_jobs import ImageJob
from scedit_cli.generation.provenance import encoded, image_files
from scedit_cli.generation.results import GeneratedImage, GeneratedVideo
from scedit_cli.generation.runner import ImageRunner
from scedit_cli.generation.video import VideoFrames, VideoRunner, animated, flicker, write_frames
from scedit_cli.utils.io import expanded
from scedit_cli.utils.reporter import Reporter


def draw_videos(
    runner: VideoRunner, split: VideoFrames, jobs: Sequence[ImageJob], reporter: Reporter
) -> list[GeneratedVideo]:
    """Draw, measure and write all videos."""
    config, out, conditioning = runner.asked, runner.asked.out, runner.conditioning
    names = None if out.path is None else Names(expanded(out.path), out.name, out.overwrite, VIDEO_FORMATS)
    inputs, facts = image_files(config), [runner.facts(frames[0]) for frames in split.jobs]
    places = names.places(names.first_number(), facts) if names else [None] * len(jobs)
    videos: list[GeneratedVideo] = []
    taken: set[Path] = set()
    with runner:
        for n, (job, frame_jobs) in enumerate(zip(jobs, split.jobs, strict=True)):
            frames = runner.draw_video(frame_jobs, reporter.stage("generate").part(n, len(jobs)))
            figures = conditioning.measured(frame_jobs, frames) if out.score else [{} for _ in frames]
            means = {
                kind: {name: sum(each[kind][name] for each in figures) / len(figures) for name in first}
                for kind, first in figures[0].items()
            }
            by_frame = {kind: [each[kind]["consistency"] for each in figures] for kind in means}
            scores = {kind: each.pop("consistency") for kind, each in means.items()}
            file, files = None, []
            if names:
                settings = runner.video_settings(job, frame_jobs[0])
                data = animated(frames, places[n].suffix, settings, runner.fps)
                file = names.write(
                    places[n], data, taken, lambda video: not frames_in_the_way(video, out.overwrite, inputs)
                )
                taken.add(file)
                files = write_frames(file, frames, settings, out.overwrite)
            videos.append(
                GeneratedVideo(
                    job.seed, job.prompt, file, scores, means, dict(job.scales), None, tuple(files), by_frame,
                    {kind: flicker(each) for kind, each in by_frame.items()}, () if file else tuple(frames),
                )
            )  # fmt: skip
    return videos


def draw_images(
    runner: ImageRunner, jobs: Sequence[ImageJob], reporter: Reporter
) -> tuple[list[GeneratedImage], Path | None]:
    """Draw all images, measure and write each batch, and draw the grid; return the images and the grid's file."""
    config, conditioning = runner.config, runner.conditioning
    out, (index, size) = config.out, config.sampler.place or (0, 1)
    names = None if out.path is None else Names(expanded(out.path), out.name, out.overwrite)
    first = names.first_number() if names else 1
    places = names.places(first, [runner.facts(job) for job in jobs]) if names else [None] * len(jobs)
    made: dict[int, GeneratedImage] = {}
    drawn: dict[int, Image.Image] = {}
    taken: set[Path] = set()
    batches = runner.batches(jobs)
    with runner:
        for number, batch in enumerate(batches):
            # An image that is made again takes its old place in a batch, since sums in other batches round differently.
            fill = [jobs[i] for i in batch] if size == 1 else [jobs[batch[0]]] * size
            images = runner.draw(fill, reporter.stage("generate").part(number, len(batches)))
            images = images if size == 1 else images[index : index + 1]
            figures = conditioning.measured(fill, images) if out.score else [{} for _ in images]
            for at, (i, image) in enumerate(zip(batch, images, strict=True)):
                file = None
                if names:
                    settings = runner.settings(jobs[i], [at, len(batch)] if size == 1 else [index, size])
                    file = names.write(places[i], encoded(image, places[i].suffix, settings), taken)
                    taken.add(file)
                scores = {kind: each.pop("consistency") for kind, each in figures[at].items()}
                kept = None if file else image
                job = jobs[i]
                made[i] = GeneratedImage(job.seed, job.prompt, file, scores, figures[at], dict(job.scales), kept)
                if out.grid:
                    drawn[i] = image
    grid = None
    if out.grid:
        place = names.grid(first)
        image = sheet(jobs, [drawn[i] for i in range(len(jobs))], [conditioning.shown(job) for job in jobs])
        grid = names.write(place, encoded(image, place.suffix, runner.settings(jobs[0])), set())
    return [made[i] for i in range(len(jobs))], grid
