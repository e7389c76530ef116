"""A thread that decodes ahead of the model."""

import pytest

from tagger.inference import streaming


def test_a_prefetching_thread_ends_with_its_consumer():
    made = []

    def items():
        for number in range(10**9):
            made.append(number)
            yield number

    ahead = streaming._prefetched(items())
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    ahead.close()
    assert len(made) <= 3 + 4 * streaming.BATCH_SIZE + 2  # queued or in use

    def failing():
        yield 1
        raise MemoryError("no more")

    with pytest.raises(MemoryError, match="no more"):
        list(streaming._prefetched(failing()))
