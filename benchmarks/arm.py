r"""Do models score on Arm kernels what a run reports? The models of a front under qemu-user, beside this machine.

Usage::

    python benchmarks/arm.py RUN_FOLDER --data demo|FILE.npz --sysroot DIR [--cpu max] [--samples 200] [--json FILE]

``--sysroot`` is a folder with an arm64 Python 3.11, numpy and onnxruntime in ``site/``; on Debian::

    apt-get -o APT::Architecture=arm64 download libc6 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib \
        zlib1g libstdc++6 libgcc-s1 libffi8 libexpat1 libssl3 libbz2-1.0 liblzma5   # then dpkg-deb -x each into DIR
    pip download --no-deps --platform manylinux_2_28_aarch64 --python-version 3.11 --only-binary=:all: onnxruntime numpy
                                                                                    # then unzip both into DIR/site

Needs root: ONNX Runtime reads ``/proc/cpuinfo``, which qemu-user does not translate, so an Arm one is mounted over it in a
namespace of its own. Times under an emulator mean nothing and are not taken.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from modeltailor.api import load_run

_CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: {part}
CPU revision\t: 0

"""
_CPUS = {
    "cortex-a72": ("fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid", "0xd08"),
    "cortex-a76": ("fp asimd evtstrm crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp", "0xd0b"),
    "max": ("fp asimd evtstrm crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp i8mm bf16", "0xd40"),
}
_PROGRAM = """
import sys, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
x = np.load(sys.argv[1])
for path in sys.argv[3:]:
    s = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = s.get_inputs()[0].name
    np.save(sys.argv[2] + "/" + path.rsplit("/", 1)[-1] + ".npy", np.concatenate([s.run(None, {name: r[None]})[0] for r in x]))
"""


def here(path: Path, x: NDArray[np.generic]) -> NDArray[np.generic]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([np.asarray(session.run(None, {name: row[None]})[0]) for row in x])


def on_arm(
    paths: list[Path], x: NDArray[np.generic], sysroot: Path, cpu: str, folder: Path
) -> dict[Path, NDArray[np.generic]]:
    features, part = _CPUS[cpu]
    (folder / "cpuinfo").write_text(_CPUINFO.format(features=features, part=part))
    (folder / "program.py").write_text(_PROGRAM)
    np.save(folder / "x.npy", x)
    environment = {**os.environ, "PYTHONHOME": str(sysroot / "usr"), "PYTHONPATH": str(sysroot / "site")}
    python = [
        *("qemu-aarch64", "-cpu", cpu, "-L", str(sysroot), str(sysroot / "usr/bin/python3.11")),
        *(str(folder / "program.py"), str(folder / "x.npy"), str(folder), *map(str, paths)),
    ]
    mounted = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /proc/cpuinfo && exec "$@"', str(folder / "cpuinfo")]
    subprocess.run([*mounted, *python], env=environment, check=True)
    return {path: np.load(folder / f"{path.name}.npy") for path in paths}


def test_samples(source: str, count: int) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    if source == "demo":
        from modeltailor.demo import load

        test = load()["test"]
        return test["x"][:count], test["y"][:count]
    data = np.load(source)
    return data["x"][:count], data["y"][:count]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", default="demo", help="demo, or a .npz file with x and y")
    parser.add_argument("--sysroot", type=Path, required=True)
    parser.add_argument("--cpu", choices=sorted(_CPUS), default="max")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    run = load_run(chosen.run)
    x, y = test_samples(chosen.data, chosen.samples)
    names = {chosen.run / m.file: m.name for m in run.summary.models if m.file}
    rows = []
    with tempfile.TemporaryDirectory(prefix="modeltailor-arm-") as scratch:
        arm = on_arm([p.resolve() for p in names], x, chosen.sysroot.resolve(), chosen.cpu, Path(scratch))
    for path, name in names.items():
        mine, theirs = here(path, x), arm[path.resolve()]
        rows.append(
            {
                "model": name,
                "accuracy_here": float((mine.argmax(-1) == y).mean()),
                "accuracy_arm": float((theirs.argmax(-1) == y).mean()),
                "same_answers": float((mine.argmax(-1) == theirs.argmax(-1)).mean()),
                "largest_difference": float(np.abs(mine - theirs).max()),
                "equal_bits": bool(np.array_equal(mine, theirs)),
            }
        )
        print(
            "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True
        )
    apart = max(abs(float(r["accuracy_here"]) - float(r["accuracy_arm"])) for r in rows)  # type: ignore[arg-type]
    met = apart <= 0.005
    print(
        f"{'met   ' if met else 'missed'} accuracies agree within 0.5 points on {chosen.cpu}: {apart:.4f} apart at most"
    )
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({"cpu": chosen.cpu, "samples": len(x), "results": rows}, indent=1))
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
