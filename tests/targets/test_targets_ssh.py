"""SSH for real: a server of its own in a network namespace, alone and as a board with half a core."""

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from modeltailor.errors import DeviceError
from modeltailor.targets import TimingPlan
from modeltailor.targets.agent import AgentDevice, connect_ssh
from modeltailor.targets.confine import confine
from modeltailor.targets.contract import DeviceCase, DeviceContract
from modeltailor.targets.health import HealthLimits
from modeltailor.targets.retrying import Retrying

sys.path.insert(0, str(Path(__file__).parent))
from board import board, why_not  # type: ignore[import-not-found]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "there is one")]
SHORT = TimingPlan(pairs=1, quads=2, block_inferences=10, block_ms=20.0, warmup_s=0.2, timeout_s=120)


def reach(address: str, **how) -> AgentDevice:
    connect = connect_ssh(address, python=sys.executable)
    return AgentDevice(connect, name="board", limits=HealthLimits(hottest_c=110.0), **how)


@pytest.fixture
def free_board(tmp_path, monkeypatch):
    folder = tmp_path / "board"
    folder.mkdir()
    with board(folder, monkeypatch) as made:
        yield made


@pytest.fixture
def half_board(tmp_path, monkeypatch):
    folder = tmp_path / "board"
    folder.mkdir()
    with board(folder, monkeypatch, cores=0.5, memory_bytes=512_000_000) as made:
        yield made


class TestAgentOverSsh(DeviceContract):
    @pytest.fixture
    def case(self, free_board, models, one_image):
        device = reach(free_board.address)
        yield DeviceCase(
            device=device, fast=models["small"], slow=models["wide"], broken=models["garbage"], inputs=one_image
        )
        device.close()


def test_half_a_core_is_half_as_fast(half_board, models, one_image):
    import numpy as np

    from modeltailor.targets import LocalDevice, load_profile

    inputs = {"x": np.repeat(one_image["x"], 64, axis=0)}  # some milliseconds, longer than a slice of time
    device = reach(half_board.address)
    there = device.time((models["wide"],), inputs, SHORT)
    device.close()
    here = LocalDevice(load_profile("desktop-cpu")).time((models["wide"],), inputs, SHORT)

    def ms(timings):  # the fastest block: what else runs on this machine only adds to it, and to half a core twice
        return min(b for quad in timings.pairs[0].blocks_ms[0] for b in quad)

    assert half_board.room.how.startswith("cgroup")
    assert 1.4 < ms(there) / ms(here) < 4.0


def test_memory_of_the_board_is_kept(half_board, save_heavy, models, one_image):
    import numpy as np

    from modeltailor.errors import CandidateError

    device = Retrying(reach(half_board.address), attempts=2, wait_s=0.5)
    with pytest.raises((CandidateError, DeviceError)):
        device.time((save_heavy(700_000_000),), {"v": np.ones((1, 1024), np.float32)}, SHORT)
    assert device.time((models["small"],), one_image, SHORT).pairs
    device.close()


def test_agent_killed_in_the_middle_is_started_again(free_board, models, one_image):
    device = Retrying(reach(free_board.address), attempts=3, wait_s=0.2)
    device.time((models["small"],), one_image, SHORT)
    killed = []

    def kill() -> None:
        time.sleep(1.5)
        killed.append(free_board.kill_agents())

    killer = threading.Thread(target=kill)
    killer.start()
    assert len(device.time((models["small"], models["wide"]), one_image, replace(SHORT, pairs=3)).pairs) == 3
    killer.join()
    assert killed[0] >= 1
    device.close()


def test_rooms_say_how_they_hold():
    with confine(cores=0.5, memory_bytes=64_000_000) as room:
        assert room.how in ("cgroup v2", "cgroup v1", "affinity and rlimit")
    with pytest.raises(ValueError, match="> 0"), confine(cores=0.0):
        pass
