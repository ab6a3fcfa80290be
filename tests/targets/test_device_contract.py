"""Every device, wrapper and fake holds the contract that ships with the package."""

import pytest

from modeltailor.errors import CandidateError
from modeltailor.targets import FakeDevice, LocalDevice, load_profile
from modeltailor.targets.contract import DeviceCase, DeviceContract
from modeltailor.targets.retrying import Retrying


def fake():
    return FakeDevice(
        {"small.onnx": 0.5, "wide.onnx": 2.0},
        noise=0.02,
        spikes=0.01,
        drift=0.001,
        bursts=0.05,
        process_effect=0.01,
        failures={"garbage.onnx": CandidateError("UNSUPPORTED", "garbage.onnx", "not a model")},
    )


@pytest.fixture
def make_case(models, one_image):
    made = []

    def make(device):
        made.append(device)
        return DeviceCase(
            device=device, fast=models["small"], slow=models["wide"], broken=models["garbage"], inputs=one_image
        )

    yield make
    for device in made:
        device.close()


class TestFakeDevice(DeviceContract):
    @pytest.fixture
    def case(self, make_case):
        return make_case(fake())


class TestRetrying(DeviceContract):
    @pytest.fixture
    def case(self, make_case):
        return make_case(Retrying(fake(), wait_s=0.0))


class TestLocalDevice(DeviceContract):
    @pytest.fixture
    def case(self, make_case):
        return make_case(LocalDevice(load_profile("desktop-cpu")))
