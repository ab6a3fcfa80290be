"""Profiles: what ships is complete and sourced; what a user writes is checked with a helpful word."""

import subprocess
import sys

import pytest

from modeltailor.errors import ConfigError
from modeltailor.targets import LocalDevice, Profile, list_profiles, load_profile, open_device
from modeltailor.targets.agent import AgentDevice
from modeltailor.targets.retrying import Retrying

MINE = """
name: my-board
title: My board
kind: embedded
runtime: ONNX Runtime 1.20, CPU
threads: 4
memory_bytes: {value: 5.12e+8, origin: spec, source: its data sheet}
"""


def test_every_kind_has_a_device_and_aliases_are_unique():
    profiles = list_profiles()
    assert {p.kind for p in profiles} == {"phone", "embedded", "desktop-cpu", "gpu"}
    names = [n for p in profiles for n in (p.name, *p.aliases)]
    assert len(names) == len(set(names))
    assert [p.name for p in profiles if p.is_local] == ["desktop-cpu"]


@pytest.mark.parametrize("name", ["desktop-cpu", "phone", "embedded", "gpu", *(p.name for p in list_profiles())])
def test_profile_loads_by_name_and_survives_its_own_data(name):
    profile = load_profile(name)
    assert name in (profile.name, *profile.aliases)
    assert Profile.model_validate(profile.to_plain()) == profile


def test_user_profile_from_a_path_and_by_name_beside_the_job(tmp_path):
    (tmp_path / "mine.yaml").write_text(MINE)
    for given in (load_profile(tmp_path / "mine.yaml"), load_profile("mine", folder=tmp_path)):
        assert (given.name, given.threads, given.reach) == ("my-board", 4, "none")
        assert given.memory_bytes is not None
        assert given.memory_bytes.value == 512_000_000
    assert load_profile("mine.yaml", folder=tmp_path).name == "my-board"


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (MINE + "thread: 2\n", "CFG-04", "did you mean 'threads'"),
        (MINE.replace("origin", "orign"), "CFG-04", "did you mean 'origin'"),
        (MINE + "threads: 2\n", "CFG-03", "given twice"),
        (MINE.replace("threads: 4", "threads: 0"), "CFG-06", "threads"),
        (MINE.replace("5.12e+8", "-1"), "CFG-06", r"memory_bytes\.value"),
        (MINE.replace("5.12e+8", ".nan"), "CFG-06", r"memory_bytes\.value"),
        (MINE.replace("origin: spec", "origin: guess"), "CFG-06", "origin"),
        (MINE + "reach: ssh\n", "CFG-06", "address"),
        (MINE + "bad: [\n", "CFG-02", "line"),
        ("- a\n- b\n", "CFG-02", "must hold keys"),
        ("a: &x 1\nb: *x\n", "CFG-02", "aliases"),
    ],
)
def test_wrong_profile_is_refused_with_the_reason(tmp_path, text, code, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_profile(path)
    assert caught.value.code == code


def test_unknown_device_suggests_a_name(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'raspberry-pi-5'"):
        load_profile("rasberry-pi-5")
    with pytest.raises(ConfigError, match="cannot read"):
        load_profile(tmp_path / "none.yaml")


def test_room_imports_without_heavy_libraries():
    code = (
        "import sys, modeltailor.targets as t; t.Budget\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'optuna', 'scipy', 'yaml', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "t.load_profile; t.LocalDevice; t.Child\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'optuna'} & set(sys.modules)\n"
        "assert sorted(t.__all__) == t.__all__ and all(hasattr(t, n) for n in t.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


NAMED = (
    *("pixel-6", "pixel-7", "pixel-8", "pixel-9", "galaxy-s21", "galaxy-s22", "galaxy-s23", "galaxy-s24", "galaxy-s25"),
    *("snapdragon-765g", "raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-5", "raspberry-pi-zero-2", "jetson-nano"),
    *("jetson-orin-nano", "rk3588", "stm32h747", "esp32-s3", "ryzen-7-5700g", "core-i7-12700k", "epyc-7763"),
    *("azure-d64as-v7", "azure-d64s-v6", "apple-m1", "apple-m3", "nvidia-t4", "rtx-4090", "nvidia-a100"),
    *("nvidia-h100", "nvidia-h200"),
)


def test_devices_that_people_ask_for_are_there():
    for name in NAMED:
        profile = load_profile(name)
        assert profile.runtime
        assert profile.runtime_version or name == "esp32-s3"
    for name in ("stm32h747", "esp32-s3"):
        assert load_profile(name).memory_bytes is not None
        assert load_profile(name).flash_bytes is not None
    sets = {name: set(load_profile(name).instructions) for name in NAMED}
    assert {"avx512_vnni", "amx_int8"} <= sets["azure-d64s-v6"]
    assert "avx512_vnni" in sets["azure-d64as-v7"]
    assert not {s for s in sets["epyc-7763"] | sets["ryzen-7-5700g"] if "vnni" in s or "amx" in s}


def test_library_of_devices_is_broad_and_every_figure_has_its_source():
    profiles = [p for p in list_profiles() if not p.is_local]
    assert len(profiles) >= 20
    for kind in ("phone", "embedded", "desktop-cpu", "gpu"):
        assert sum(p.kind == kind for p in profiles) >= 4
    for p in profiles:
        figures = [*p.peak_gops.values(), *p.effective_gops.values(), p.bandwidth_gbps, p.memory_bytes]
        assert any(f is not None for f in figures), f"{p.name} states nothing"


def test_reached_rates_stay_near_or_under_the_peaks():
    """Winograd and half precision may pass the fp32 peak, but not by an order of magnitude."""
    for p in list_profiles():
        for number_format, reached in p.effective_gops.items():
            if number_format in p.peak_gops:
                assert reached.value < 2 * p.peak_gops[number_format].value, p.name


def test_profile_says_how_its_device_is_reached():
    assert isinstance(open_device(load_profile("desktop-cpu")), LocalDevice)
    assert isinstance(open_device(load_profile("phone")), LocalDevice)
    board = load_profile("raspberry-pi-5").model_copy(update={"reach": "ssh", "address": "pi@board", "threads": 3})
    retrying = open_device(board)
    assert isinstance(retrying, Retrying)
    device = retrying.device
    assert isinstance(device, AgentDevice)
    assert (device.name, device.options.intra_op_threads) == ("raspberry-pi-5", 3)
    with pytest.raises(ConfigError, match="adb"):
        open_device(board.model_copy(update={"reach": "adb"}))
    with pytest.raises(ConfigError, match="ssh://"):
        open_device(board.model_copy(update={"address": "-oProxyCommand=id"}))
