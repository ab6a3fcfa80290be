"""Phones over adb, against a fake ``adb`` and a fake phone."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from tests.targets.fake_adb import make_phone

from modeltailor.errors import CandidateError, ConfigError, DeviceError
from modeltailor.targets import RuntimeOptions, TimingPlan
from modeltailor.targets.adb.bridge import Adb
from modeltailor.targets.adb.device import AdbDevice
from modeltailor.targets.adb.perf_test import arguments, read, version_in
from modeltailor.targets.contract import DeviceCase, DeviceContract
from modeltailor.targets.health import HealthLimits

SHORT = TimingPlan(pairs=1, quads=2, block_inferences=5, block_ms=2.0, warmup_s=0.01, timeout_s=30)


@pytest.fixture
def phone(tmp_path, monkeypatch):
    folder = tmp_path / "phone"
    folder.mkdir()
    make_phone(folder)
    monkeypatch.setenv("PHONE", str(folder))
    return folder


def open_phone(phone: Path, *, serial: str = "adb://SERIAL1", **how) -> AdbDevice:
    return AdbDevice(
        Adb(serial, program=str(phone / "adb")),
        program=phone / "perf_test",
        name="phone",
        limits=HealthLimits(cool_s=0.0),
        **how,
    )


class TestAdbDevice(DeviceContract):
    @pytest.fixture
    def case(self, phone, models, one_image):
        device = open_phone(phone)
        yield DeviceCase(
            device=device,
            fast=models["small"],
            slow=models["wide"],
            broken=models["garbage"],
            inputs=one_image,
            plan=SHORT,
        )
        device.close()


def test_facts_come_from_the_phone_and_the_pushed_program(phone):
    facts = open_phone(phone).describe()
    assert facts.processor == "Phone 9 (tiger)"
    assert facts.runtime == "onnxruntime 1.99.0, perf test, Android 15"
    assert facts.evidence == "measured-on-device"


def test_state_is_read_and_kept_with_the_times(phone, models, one_image):
    conditions = dict(open_phone(phone).time((models["small"],), one_image, SHORT).conditions)
    assert conditions["hottest_c"] == 41.5  # the cached 99 degrees are not of now
    assert conditions["battery_percent"] == 80
    assert conditions["discharging"] == 0
    assert conditions["battery_c"] == 30.1


def test_files_are_pushed_once(phone, models, one_image):
    device = open_phone(phone)
    device.time((models["small"],), one_image, SHORT)
    pushes = (phone / "log").read_text().count("push")
    assert pushes == 3  # program, input, model
    open_phone(phone).time((models["small"],), one_image, SHORT)
    assert (phone / "log").read_text().count("push") == pushes


def test_external_data_travels_with_its_model(phone, tmp_path, save_heavy):
    import numpy as np

    model = onnx.load(save_heavy(400_000))
    folder = tmp_path / "outside"
    folder.mkdir()
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    open_phone(phone).time((folder / "m.onnx",), {"v": np.ones((1, 1024), np.float32)}, SHORT)
    sizes = sorted(p.stat().st_size for p in (phone / "disk").rglob("*") if p.is_file() and len(p.name) == 64)
    assert sizes == [(folder / "w.bin").stat().st_size]


@pytest.mark.parametrize(("trouble", "code"), [("crash", "CRASH:SEGV"), ("hang", "TIMEOUT")])
def test_faults_of_a_model_are_the_candidate_s(phone, models, one_image, trouble, code):
    (phone / "trouble").write_text(trouble)
    device = open_phone(phone)
    with pytest.raises(CandidateError) as caught:
        device.time((models["small"], models["wide"]), one_image, replace(SHORT, timeout_s=3))
    assert (caught.value.code, caught.value.where) == (code, "wide.onnx")
    assert device.time((models["small"],), one_image, SHORT).pairs


@pytest.mark.parametrize(
    ("trouble", "code", "text"),
    [
        ("gone", "DEV-06", "not found"),
        ("full", "DEV-08", "disk is full"),
        ("torn", "DEV-08", "did not arrive whole"),
        ("clock", "DEV-09", "clock"),
    ],
)
def test_faults_of_the_phone_are_the_device_s(phone, models, one_image, trouble, code, text):
    device = open_phone(phone)
    device.describe()
    (phone / "trouble").write_text(trouble)
    with pytest.raises(DeviceError, match=text) as caught:
        device.time((models["wide"],), one_image, SHORT)
    assert caught.value.code == code
    (phone / "trouble").unlink()
    assert device.time((models["wide"],), one_image, SHORT).pairs


def test_program_for_another_processor_is_the_device_s_fault(phone, models, one_image):
    (phone / "perf_test").write_bytes(b"\x7fELF\x02\x01\x01 for another processor")
    with pytest.raises(DeviceError, match="does not start"):
        open_phone(phone).time((models["small"],), one_image, SHORT)


@pytest.mark.parametrize(
    ("file", "value", "code"), [("heat", "91.0", "DEV-10"), ("status", "3", "DEV-10"), ("level", "4", "DEV-11")]
)
def test_hot_or_empty_phone_is_not_measured_on(phone, models, one_image, file, value, code):
    (phone / file).write_text(value)
    (phone / "powered").write_text("false")
    with pytest.raises(DeviceError) as caught:
        open_phone(phone).time((models["small"],), one_image, SHORT)
    assert caught.value.code == code


def test_fall_back_to_the_processor_is_refused(phone, models, one_image):
    (phone / "trouble").write_text("fallback")
    device = open_phone(phone, options=RuntimeOptions(provider="QNNExecutionProvider"))
    with pytest.raises(CandidateError, match="CPU EP"):
        device.time((models["small"],), one_image, SHORT)


def test_silent_phone_is_given_up(phone):
    (phone / "trouble").write_text("mute")
    with pytest.raises(DeviceError, match="did not answer within"):
        Adb("SERIAL1", program=str(phone / "adb")).shell(["true"], timeout_s=0.3)


@pytest.mark.parametrize("serial", ["-d", "a b", "x;id", "$(id)", "", "adb://", "x\n"])
def test_serial_cannot_become_an_option_or_a_command(phone, serial):
    with pytest.raises(ConfigError, match="adb://SERIAL"):
        Adb(serial, program=str(phone / "adb"))


def test_arguments_reach_the_phone_as_they_are(phone):
    nasty = "a b; echo $HOME `id` 'x' \"y\" \\ & | > *"
    assert Adb("SERIAL1", program=str(phone / "adb")).shell(["printf", "%s", nasty]).text.strip() == nasty


def test_missing_program_and_missing_adb_are_said(phone):
    with pytest.raises(ConfigError, match="no such file"):
        AdbDevice(Adb("SERIAL1", program=str(phone / "adb")), program=phone / "none", name="phone")
    with pytest.raises(ConfigError, match="no adb-that-is-not-there program"):
        Adb("SERIAL1", program="adb-that-is-not-there")


def test_arguments_of_the_perf_test():
    line = arguments(RuntimeOptions(intra_op_threads=4), "m.onnx", "r.csv", runs=50)
    given = dict(zip(line[:-2:2], line[1:-2:2], strict=True))
    assert given["-m"] == "times"
    assert given["-r"] == "50"
    assert given["-x"] == "4"
    assert given["-e"] == "cpu"
    assert "disable_cpu_ep_fallback" not in given["-C"]
    line = arguments(RuntimeOptions(provider="QNNExecutionProvider"), "m.onnx", "r.csv", seconds=1.5, callers=3)
    assert line[line.index("-t") + 1] == "2"
    assert line[line.index("-c") + 1] == "3"
    assert "session.disable_cpu_ep_fallback|1" in line[line.index("-C") + 1]
    assert line[line.index("-i") + 1] == "enable_htp_fp16_precision|0"
    half = arguments(RuntimeOptions(provider="QNNExecutionProvider", precision=("fp16",)), "m.onnx", "r.csv", runs=1)
    assert half[half.index("-i") + 1] == "enable_htp_fp16_precision|1"


def test_what_the_perf_test_writes_is_read():
    ran = read("Session creation time cost: 0.5 s\n", "m,0.002,1000,50,0\nm,0.004,3000,50,1\n\nMin Latency: 1 s\n")
    assert ran.times_ms == (2.0, 4.0)
    assert ran.peak_bytes == 3000
    assert ran.load_ms == 500.0
    assert ran.first_ms is None
    with pytest.raises(ValueError, match="a run took"):
        read("", "m,0,1,1,0\n")
    assert version_in(b"abc", b"..VERS_1.20.1\0..") == "1.20.1"
    assert version_in(b"abc") == ""
