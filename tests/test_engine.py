import os

import pytest

from whisper_lab import LabError
from whisper_lab.stores import engine


class Double:
    def __call__(self, job: int) -> int:
        return 2 * job


class Threads:
    def __call__(self, job: int) -> int:
        import torch

        return torch.get_num_threads()


class DieAtThree:
    def __call__(self, job: int) -> int:
        if job == 3:
            os._exit(1)  # as a process killed for want of memory
        return job


@pytest.mark.parametrize("processes", [1, 2])
def test_every_job_is_done_once(processes):
    assert sorted(engine.Local(processes).run(Double(), range(10))) == list(range(0, 20, 2))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_process_has_one_library_thread_and_afterwards_as_many_as_before(processes):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert set(engine.Local(processes).run(Threads(), range(4))) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_dead_worker_is_said_with_the_way_out():
    with pytest.raises(LabError, match="fewer --workers"):
        list(engine.Local(2).run(DieAtThree(), range(6)))


def test_workers_default_to_the_cores_at_hand():
    assert engine.workers(3) == 3
    assert 1 <= engine.workers() <= os.cpu_count()
