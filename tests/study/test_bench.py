from sim.study.bench import ladder, steps, yardsticks


def test_every_timing_counts_what_it_ran_and_compares_it_with_the_bare_loop() -> None:
    heap, bare_simpy = yardsticks(1000, 1)
    assert (heap.operations, bare_simpy.operations, heap.ratio) == (1000, 1000, 1.0)
    fused, folded, full = steps(heap, 1, 1)
    assert fused.operations == folded.operations
    # 128 ranks of one micro-batch against 2 ranks of 128.
    assert 0.5 < full.operations / folded.operations < 0.65
    assert full.ratio == full.operations_per_s / heap.operations_per_s


def test_the_ladder_plays_as_many_operations_at_any_number_of_replicas() -> None:
    small, large = ladder((256, 1024))
    assert large.operations < 1.5 * small.operations
    assert small.peak_bytes is not None
    assert small.peak_bytes > 0
