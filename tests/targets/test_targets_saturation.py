"""Where integer kernels saturate is measured here, and read off the instruction set elsewhere."""

import dataclasses

import pytest

from modeltailor.targets import FakeDevice, LocalDevice, load_profile
from modeltailor.targets.machine import instructions
from modeltailor.targets.saturation import saturates_here


def facts(*named):
    return dataclasses.replace(FakeDevice(latency=lambda _: 1.0).describe(), instructions=named)


@pytest.mark.parametrize(
    ("named", "saturates"),
    [
        (("avx2",), True),
        (("avx2", "avx512f"), True),
        (("avx2", "avx_vnni"), False),
        (("avx2", "avx512f", "avx512_vnni"), False),
        (("asimd", "asimddp"), False),
        ((), False),
    ],
)
def test_instructions_tell_whether_pairs_are_added_in_16_bits(named, saturates):
    assert facts(*named).may_saturate == saturates


@pytest.mark.skipif(not {"avx2", "avx512f"} & set(instructions()), reason="the rule on instructions is one of x86")
def test_this_machine_computes_what_its_instructions_say():
    device = LocalDevice(load_profile("desktop-cpu"))
    try:
        assert saturates_here() == device.describe().may_saturate
    finally:
        device.close()
