"""How many processors a process may keep busy, read from fabricated file systems."""

import os

import pytest

from softhead.kernels import processors, threads


def fabricate(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


V2 = {"proc/self/cgroup": "0::/\n"}
V1 = {"proc/self/cgroup": "12:memory:/docker/1f\n4:cpu,cpuacct:/docker/1f\n1:name=systemd:/docker/1f\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (V2, None),
        (V2 | {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        (V2 | {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        (V2 | {"sys/fs/cgroup/cpu.max": "250000 100000\n"}, 3),
        (V2 | {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        (V2 | {"sys/fs/cgroup/cpu.max": "1000 100000\n"}, 1),
        (V2 | {"sys/fs/cgroup/cpu.max": "damaged\n"}, None),
        (V2 | {"sys/fs/cgroup/cpu.max": "100000 0\n"}, None),
        # A group within another, either of which may be the narrower.
        (
            {
                "proc/self/cgroup": "0::/a.slice/b.service\n",
                "sys/fs/cgroup/a.slice/cpu.max": "150000 50000\n",
                "sys/fs/cgroup/a.slice/b.service/cpu.max": "max 100000\n",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "0::/a.slice/b.service\n",
                "sys/fs/cgroup/a.slice/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/a.slice/b.service/cpu.max": "100000 100000\n",
            },
            1,
        ),
        # A sibling's does not count, nor does what is outside.
        (
            {
                "proc/self/cgroup": "0::/../other\n",
                "sys/fs/cgroup/other/cpu.max": "100000 100000\n",
                "sys/fs/other/cpu.max": "100000 100000\n",
                "sys/fs/cgroup/cpu.max": "500000 100000\n",
            },
            5,
        ),
        # Version 1: the group as the host names it, or as a container sees it at the top.
        (
            V1
            | {
                "sys/fs/cgroup/cpu,cpuacct/docker/1f/cpu.cfs_quota_us": "350000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/1f/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (V1 | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "20000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "10000\n"}, 2),
        (V1 | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "10000\n"}, None),
        (V1 | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "20000\n"}, None),
        (V1 | {"sys/fs/cgroup/memory/cpu.max": "100000 100000\n"}, None),
        # Both versions at once.
        (
            {
                "proc/self/cgroup": "4:cpu:/\n0::/x\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "60000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "10000\n",
                "sys/fs/cgroup/unified/x/cpu.max": "700000 100000\n",
            },
            6,
        ),
    ],
)
def test_quota(files, expected, tmp_path):
    fabricate(tmp_path, files)
    assert processors.quota(tmp_path) == expected


def test_the_narrower_of_affinity_and_quota_holds(monkeypatch):
    allowed = os.process_cpu_count() if hasattr(os, "process_cpu_count") else len(os.sched_getaffinity(0))
    for granted, expected in [(None, allowed), (1, 1), (allowed + 5, allowed)]:
        monkeypatch.setattr(processors, "_own_quota", lambda granted=granted: granted)
        assert processors.processors() == expected
    monkeypatch.setattr(processors, "_own_quota", lambda: 1)
    assert threads._available() == 1
    with threads.num_threads(7):
        assert threads._available() == 7
    monkeypatch.setenv("SOFTHEAD_NUM_THREADS", "5")
    assert threads._available() == 5


def test_the_own_quota_is_read_once(monkeypatch):
    read = []
    monkeypatch.setattr(processors, "quota", lambda root: read.append(root))
    processors._own_quota.cache_clear()
    try:
        for _ in range(3):
            assert processors.processors() >= 1
        assert len(read) == 1
    finally:
        processors._own_quota.cache_clear()
