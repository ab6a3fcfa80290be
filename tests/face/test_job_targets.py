"""Several devices in a job file."""

import pytest

from modeltailor.errors import ConfigError
from modeltailor.job import parse_job
from modeltailor.targets import Budget

JOB = {"model": "model.py:build", "data": "data.py:load"}


def test_one_device_is_written_as_before():
    assert "targets" not in parse_job(JOB).model_dump(mode="json")
    assert parse_job(JOB).devices() == (("desktop-cpu", Budget(max_drop=1.0)),)


def test_limits_of_a_device_stand_in_place_of_the_study_s():
    job = parse_job(
        {
            **JOB,
            "budget": {"latency": "2 ms", "size": "200 KB", "max_drop": 0.5},
            "targets": ["desktop-cpu", {"name": "pixel-8", "budget": {"latency": "8 ms", "memory": "64 MB"}}],
        }
    )
    assert job.target == "desktop-cpu"
    here, there = job.devices()
    assert here == ("desktop-cpu", Budget(latency_ms=2.0, size_bytes=200_000, max_drop=0.5))
    assert there == ("pixel-8", Budget(latency_ms=8.0, size_bytes=200_000, memory_bytes=64_000_000, max_drop=0.5))
    assert parse_job(job.model_dump(mode="json")) == job  # as it is kept in the run folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "pixel-9", "targets": ["desktop-cpu", "pixel-8"]}, "both given"),
        ({"targets": ["pixel-8", "pixel-8"]}, "'pixel-8' twice"),
        ({"targets": [{"name": "pixel-8", "budget": {"size": "1 MB"}}]}, "size"),
        ({"targets": [{"budget": {}}]}, "name"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        parse_job({**JOB, **change})
