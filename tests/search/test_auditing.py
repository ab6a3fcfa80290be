"""What is written down of an audit: shares by layer, whatever fusions did to the names of nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modeltailor.compress import Format
from modeltailor.compress.formats import Composer
from modeltailor.estimators.audit import AuditNode
from modeltailor.search.auditing import audit_file, site_shares
from modeltailor.search.records import FinalRecord, RunHistory, SiteRecord
from modeltailor.targets import RuntimeOptions

RNG = np.random.default_rng(5)


def _site(name: str, kind: str = "conv") -> SiteRecord:
    return SiteRecord(
        site=name, kind=kind, format="fp32", storage_bits=32, stored_bytes=1, weight_elements=1, executed_kernel="Conv"
    )


def _node(name: str, op: str, share: float) -> AuditNode:
    return AuditNode(
        name=name, op_type=op, domain="", provider="CPUExecutionProvider", role="compute", precision="float32", ms=share,
        share=share, input_types=("float",),
    )  # fmt: skip


def test_nodes_are_found_by_label_and_renamed_ones_by_order() -> None:
    sites = [_site("stem"), _site("body"), _site("head", "gemm")]
    nodes = [_node("s0_nchwc", "Conv", 0.5), _node("fused 7", "Conv", 0.3), _node("s2/MatMul", "Gemm", 0.1),
             _node("add", "Add", 0.1)]  # fmt: skip
    assert site_shares(nodes, sites) == {"stem": 0.5, "body": 0.3, "head": 0.1}


def test_renamed_nodes_that_do_not_fit_are_left_out() -> None:
    sites = [_site("stem"), _site("body")]
    nodes = [_node("x", "Conv", 0.5)]
    assert site_shares(nodes, sites) == {}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[SiteRecord, ...]]:
    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((RNG.normal(size=shape) / 9).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "b.weight"], ["y"], pads=[1] * 4),
    ]
    tensors = [weight("a.weight", 16, 16, 3, 3), weight("b.weight", 16, 16, 3, 3)]
    space = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 16, 16, 16]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", space[:1], space[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    composer = Composer(model, {"x": RNG.normal(size=(16, 16, 16, 16)).astype(np.float32)})
    made = composer.compose({"a": Format.parse("w8a8"), "b": Format.parse("w4a8")})
    path = tmp_path_factory.mktemp("audit") / "built.onnx"
    path.write_bytes(made.model_bytes)
    records = tuple(
        SiteRecord(
            site=r.site, kind="conv", format=r.format, storage_bits=r.storage_bits, stored_bytes=r.stored_bytes,
            weight_elements=2304, executed_kernel=r.kernel, sparsity=r.sparsity,
        )
        for r in made.sites
    )  # fmt: skip
    return path, records


def test_a_built_file_is_audited_layer_by_layer(built: tuple[Path, tuple[SiteRecord, ...]]) -> None:
    path, sites = built
    inputs = {"x": np.zeros((1, 16, 16, 16), np.float32)}
    record = audit_file(path, sites, inputs, RuntimeOptions(), "measured-here")
    assert record is not None
    shares = dict(record.time_shares)
    assert list(shares) == [s.site for s in sites]
    assert 0.1 < sum(shares.values()) <= 1.001
    assert dict(record.compute_share)["int8"] == pytest.approx(sum(shares.values()), abs=1e-3)
    assert record.evidence == "measured-here"
    assert record.n_fall_backs == 0
    assert " s0" not in record.sentence
    assert " s1" not in record.sentence


def test_a_file_that_cannot_be_profiled_gives_no_audit(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    assert audit_file(tmp_path / "broken.onnx", (), {}, RuntimeOptions(), "measured-here") is None


def test_records_of_older_runs_are_read() -> None:
    site = SiteRecord.model_validate(
        {"site": "a", "kind": "conv", "format": "w8a8", "storage_bits": 8, "stored_bytes": 9, "weight_elements": 9,
         "executed_kernel": "QLinearConv"}
    )  # fmt: skip
    assert site.sparsity is site.channels is site.channels_kept is None
    figure = {"value": 1.0, "low": 1.0, "high": 1.0, "evidence": "measured-here"}
    accuracy = {"value": 1.0, "low": 1.0, "high": 1.0, "n_samples": 4}
    final = FinalRecord.model_validate({"key": "k", "latency_ms": figure, "speedup": figure, "test_accuracy": accuracy})
    assert final.audit is None
    assert RunHistory.__dataclass_fields__["sensitivities"].default == ()
