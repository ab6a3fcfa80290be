"""Profiles of users' own devices: written, read back, reached."""

from pathlib import Path

import pytest

from modeltailor.errors import ConfigError
from modeltailor.places import profile_of
from modeltailor.targets import FakeDevice, LocalDevice, load_profile, open_device
from modeltailor.targets.agent import AgentDevice
from modeltailor.targets.check import check_device
from modeltailor.targets.profile_template import render_profile
from modeltailor.targets.providers import PROVIDERS, perf_test_name, provider_named
from modeltailor.targets.retrying import Retrying


@pytest.mark.parametrize(
    ("reach", "address"),
    [("ssh", "pi@board:22"), ("tcp", "10.0.0.2:7070"), ("adb", "1A2B"), ("local", ""), ("none", "")],
)
def test_what_is_written_is_a_valid_profile_beside_the_job(tmp_path, reach, address):
    text = render_profile("mine", like=load_profile("raspberry-pi-4"), reach=reach, address=address)
    (tmp_path / "mine.yaml").write_text(text)
    profile = load_profile("mine", folder=tmp_path)
    assert (profile.reach, profile.address, profile.kind) == (reach, address, "embedded")
    if reach == "adb":
        assert profile.perf_test == str(tmp_path / "onnxruntime_perf_test")
    uncommented = "\n".join(line[2:] if line.startswith("# memory_bytes") else line for line in text.splitlines())
    (tmp_path / "more.yaml").write_text(uncommented)
    memory = load_profile(tmp_path / "more.yaml").memory_bytes
    assert memory is not None
    assert memory.value == 4e9


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [("My Board", {}, "lower-case"), ("b", {"reach": "usb"}, "one of"), ("b", {"reach": "ssh"}, "is needed for ssh")],
)
def test_nonsense_is_refused(name, how, message):
    with pytest.raises(ConfigError, match=message):
        render_profile(name, **how)


def test_devices_are_opened_as_the_profile_says(tmp_path):
    (tmp_path / "mine.token").write_text('{"host": "h", "port": 1, "token": "secret"}')
    (tmp_path / "mine.yaml").write_text(render_profile("mine", reach="tcp", address="127.0.0.1:1"))
    device = open_device(load_profile("mine", folder=tmp_path))
    assert isinstance(device, Retrying)
    assert isinstance(device.device, AgentDevice)
    (tmp_path / "mine.token").unlink()
    with pytest.raises(ConfigError, match="token"):
        open_device(load_profile("mine", folder=tmp_path))
    assert isinstance(open_device(load_profile("pixel-8")), LocalDevice)


def test_addresses_are_profiles_of_their_own(tmp_path):
    profile = load_profile("ssh://pi@Board.local:2222")
    assert (profile.name, profile.reach, profile.address) == ("board.local-2222", "ssh", "pi@Board.local:2222")
    (tmp_path / "libonnxruntime.so").touch()
    phone = load_profile("adb://1A2B", folder=tmp_path)
    assert (phone.kind, phone.address, phone.libraries) == ("phone", "1A2B", (str(tmp_path / "libonnxruntime.so"),))
    with pytest.raises(ConfigError, match="no address"):
        load_profile("ssh://")


def test_providers_go_by_both_names():
    assert provider_named("CUDA") == provider_named("cudaexecutionprovider") == "CUDAExecutionProvider"
    assert all(perf_test_name(full) for full in PROVIDERS.values())
    with pytest.raises(ConfigError, match="did you mean 'tensorrt'"):
        provider_named("tensort")


def test_provider_of_a_profile_is_checked(tmp_path):
    (tmp_path / "mine.yaml").write_text(render_profile("mine").replace("provider: cpu", "provider: qnn"))
    assert load_profile("mine", folder=tmp_path).provider == "QNNExecutionProvider"
    (tmp_path / "mine.yaml").write_text(render_profile("mine").replace("provider: cpu", "provider: qnnn"))
    with pytest.raises(ConfigError, match="unknown execution provider 'qnnn'"):
        load_profile("mine", folder=tmp_path)


def test_lower_precisions_are_switches_of_the_provider(tmp_path):
    written = render_profile("mine", like=load_profile("nvidia-a100"))
    (tmp_path / "mine.yaml").write_text(written)
    profile = load_profile("mine", folder=tmp_path)
    assert (profile.precision, profile.runtime_version) == (("tf32",), ">=1.18")
    (tmp_path / "mine.yaml").write_text(written.replace('["tf32"]', "[int8]"))
    with pytest.raises(ConfigError, match="CUDAExecutionProvider has no switch for int8; it has tf32"):
        load_profile("mine", folder=tmp_path)
    board = profile.model_copy(update={"reach": "ssh", "address": "me@box"})
    device = open_device(board)
    assert isinstance(device, Retrying)
    assert isinstance(device.device, AgentDevice)
    assert device.device.options.precision == ("tf32",)
    assert device.device.runtime_version == ">=1.18"
    assert LocalDevice(profile).options.precision == ()  # a stand-in computes in what it has


def test_check_tells_facts_latency_and_noise():
    found = check_device(FakeDevice(lambda _: 2.0, noise=0.02, name="board"))
    assert found.facts.name == "board"
    assert found.latency_ms == pytest.approx(2.0, rel=0.05)
    assert 0.0 <= found.spread < 0.1
    assert isinstance(found.conditions, dict)


def test_token_files_stay_where_the_profile_is(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.yaml").write_text(render_profile("mine", reach="tcp", address="h:1"))
    assert load_profile(Path("sub/mine.yaml"), folder=tmp_path).token_file == str(tmp_path / "sub" / "mine.token")


def test_a_profile_of_ones_own_goes_before_a_shipped_one_of_that_name(tmp_path):
    like = load_profile("raspberry-pi-5")
    (tmp_path / "raspberry-pi-5.yaml").write_text(
        render_profile("raspberry-pi-5", like=like, reach="ssh", address="pi@pi5.local")
    )
    assert load_profile("raspberry-pi-5", folder=tmp_path).address == "pi@pi5.local"
    assert load_profile("raspberry-pi-5").reach == "none"
    (tmp_path / "pixel-8.yaml").write_text("model: model.py:build\ndata: data.py:load\ntarget: pixel-8\n")  # a job
    assert load_profile("pixel-8", folder=tmp_path).kind == "phone"


def test_an_agent_s_address_is_a_device_wherever_one_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MODELTAILOR_AGENT_TOKEN", raising=False)
    profile = profile_of("tcp://Board.local:7070", tmp_path)
    assert (profile.name, profile.reach) == ("board.local", "tcp")
    with pytest.raises(ConfigError, match="MODELTAILOR_AGENT_TOKEN"):
        open_device(profile)
    for token in ("secret", '{"host": "h", "port": 1, "token": "secret"}'):
        monkeypatch.setenv("MODELTAILOR_AGENT_TOKEN", token)
        device = open_device(profile)
        assert isinstance(device, Retrying)
        assert isinstance(device.device, AgentDevice)
    assert load_profile("tcp://[::]:7070").name == "agent"
    with pytest.raises(ConfigError, match="host:port"):
        load_profile("tcp://board:70700")
