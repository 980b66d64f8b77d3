"""The model of PyTorch's caching allocator, on requests whose outcome its rules fix."""

from __future__ import annotations

import torch

from scedit_cli.benchmark.allocator import CachingAllocator, Reserved

MIB = 2**20


def test_small_requests_share_a_segment_of_two_mebibytes():
    allocator = CachingAllocator()
    first, second = allocator.malloc(1), allocator.malloc(MIB)
    assert (first.size, second.size, allocator.reserved) == (512, MIB, 2 * MIB)


def test_requests_below_ten_mebibytes_share_segments_of_twenty():
    allocator = CachingAllocator()
    for _ in range(2):
        allocator.malloc(9 * MIB)
    assert allocator.reserved == 20 * MIB
    allocator.malloc(9 * MIB)
    assert allocator.reserved == 40 * MIB


def test_large_requests_get_segments_of_their_own_rounded_to_two_mebibytes():
    allocator = CachingAllocator()
    assert allocator.malloc(33 * MIB).size == allocator.reserved == 34 * MIB, "too little is left to split"


def test_freed_neighbours_join_and_serve_a_larger_request():
    allocator = CachingAllocator()
    whole = allocator.malloc(100 * MIB)
    allocator.free(whole)
    parts = [allocator.malloc(50 * MIB) for _ in range(2)]
    assert allocator.reserved == 100 * MIB and allocator.allocated == 100 * MIB
    for part in parts:
        allocator.free(part)
    assert allocator.malloc(100 * MIB).size == 100 * MIB and allocator.reserved == 100 * MIB


def test_the_smallest_block_that_fits_is_taken_and_a_gap_is_not_joined_over_a_block_in_use():
    allocator = CachingAllocator()
    large, small = allocator.malloc(60 * MIB), allocator.malloc(30 * MIB)
    allocator.free(large)
    allocator.free(small)
    assert allocator.malloc(28 * MIB).address == small.address
    first, second = allocator.malloc(20 * MIB), allocator.malloc(40 * MIB)
    allocator.free(first)
    allocator.malloc(41 * MIB)
    assert allocator.reserved == 90 * MIB + 42 * MIB and second.size == 40 * MIB


def test_tensors_come_from_it_in_the_programs_order():
    with Reserved() as live:
        kept = torch.ones(3 * MIB)
        for _ in range(3):
            torch.ones(3 * MIB)
    assert kept.nbytes == 12 * MIB and live.allocator.reserved == live.peak == 24 * MIB
