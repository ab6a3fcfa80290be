"""A stand-in for ``adb`` and for a phone behind it: a folder is its disk, commands run in a shell here.

The "perf test" that is pushed is a script which reads a model's size as its time. ``$PHONE/trouble`` names what is wrong.
"""

import os
import stat
import sys
from pathlib import Path

PERF_TEST = r"""#!/usr/bin/python3 -IS
# VERS_1.99.0
import os, signal, sys, time
a = sys.argv[1:]
model, result = a[-2:]
how = dict(zip(a[:-2:2], a[1:-2:2]))
trouble = open(os.environ["PHONE"] + "/trouble").read() if os.path.exists(os.environ["PHONE"] + "/trouble") else ""
data = open(model, "rb").read()
assert sorted(os.listdir(os.path.dirname(model) + "/test_data_set_0"))[0] == "input_0.pb"
if data[:2] != b"\x08\x07" and data[:2] != b"\x08\x0a" and data[:2] != b"\x08\x08":
    print("Load model failed: Protobuf parsing failed.")
    sys.exit(1)
if "crash" in trouble and len(data) > 10000:
    os.kill(os.getpid(), signal.SIGSEGV)
if "hang" in trouble and len(data) > 10000:
    time.sleep(60)
if "fallback" in trouble and "disable_cpu_ep_fallback|1" in how["-C"]:
    print("This session contains graph nodes that are assigned to the default CPU EP, but fallback is disabled.")
    sys.exit(1)
s = (0.5 + len(data) / 10000) * 1e-3 * (40 if "clock" in trouble else 1)
n = int(how.get("-r", 100))
print("Session creation time cost: 0.0123 s")
print("First inference time cost: 3 ms")
print("Number of inferences per second: %g" % (int(how["-c"]) / s))
with open(result, "a") as f:
    for i in range(n):
        f.write("m,%.6g,%d,97,%d\n" % (s * (1 + 0.01 * (i % 3)), 9000000 + 3 * len(data), i))
if "clock" not in trouble:
    time.sleep(min(0.01, n * s))
"""

GETPROP = """#!/bin/sh
case "$1" in
  ro.product.model) echo "Phone 9" ;;
  ro.board.platform) echo tiger ;;
  ro.build.version.release) echo 15 ;;
  *) echo ;;
esac
"""

DUMPSYS = """#!/bin/sh
if [ "$1" = battery ]; then
  echo "  AC powered: false"
  echo "  USB powered: $(cat "$PHONE/powered" 2>/dev/null || echo true)"
  echo "  level: $(cat "$PHONE/level" 2>/dev/null || echo 80)"
  echo "  temperature: 301"
else
  echo "Thermal Status: $(cat "$PHONE/status" 2>/dev/null || echo 0)"
  echo "Cached temperatures:"
  echo "	Temperature{mValue=99.0, mType=0, mName=CPU0, mStatus=0}"
  echo "Current temperatures from HAL:"
  echo "	Temperature{mValue=$(cat "$PHONE/heat" 2>/dev/null || echo 41.5), mType=0, mName=CPU0, mStatus=0}"
  echo "	Temperature{mValue=35.0, mType=2, mName=BATTERY, mStatus=0}"
fi
"""

ADB = """#!/bin/sh
[ "$1" = -s ] || exit 9
echo "$2 $3" >> "$PHONE/log"
if [ "$2" != SERIAL1 ] || grep -q gone "$PHONE/trouble" 2>/dev/null; then
  echo "adb: device '$2' not found" >&2; exit 1
fi
shift 2
case "$1" in
  push)
    if grep -q full "$PHONE/trouble" 2>/dev/null; then
      echo "adb: error: failed to copy: remote No space left on device" >&2; exit 1
    fi
    if grep -q torn "$PHONE/trouble" 2>/dev/null; then head -c 100 "$2" > "$PHONE/disk$3"; exit 0; fi
    cp "$2" "$PHONE/disk$3" ;;
  shell)
    if grep -q mute "$PHONE/trouble" 2>/dev/null; then sleep 20; fi
    line=$(printf '%s' "$2" | sed "s#/data/local/tmp#$PHONE/disk/data/local/tmp#g")
    PATH="$PHONE/bin:$PATH" exec sh -c "$line" ;;
esac
"""


def make_phone(folder: Path) -> Path:
    """Set up a phone in ``folder``; returns the fake ``adb`` beside it. ``$PHONE`` must name the folder."""
    (folder / "disk/data/local/tmp").mkdir(parents=True)
    (folder / "bin").mkdir()
    for name, text in (("bin/getprop", GETPROP), ("bin/dumpsys", DUMPSYS), ("adb", ADB), ("perf_test", PERF_TEST)):
        (folder / name).write_text(text.replace("/usr/bin/python3", os.path.realpath(sys.executable)))
        (folder / name).chmod(stat.S_IRWXU)
    return folder / "adb"
