"""What the runtime executes in a finalist's file, written down: the audit's sentence, and the share of time by layer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from modeltailor.compress import Format
from modeltailor.compress.formats.names import label_of, site_label
from modeltailor.errors import CandidateError, DeviceError, ModelError
from modeltailor.estimators.audit import Audit, AuditNode, audit
from modeltailor.search.records import AuditRecord, FallBackRecord, SiteRecord
from modeltailor.targets import Evidence, Inputs, RuntimeOptions

__all__ = ["audit_file", "audit_record", "site_shares"]

_RUNS = 40
_TIMEOUT_S = 60.0
_SHOWN = 8
_CONV = frozenset(("Conv", "FusedConv", "NhwcFusedConv"))
_GEMM = frozenset(("Gemm", "FusedGemm", "FusedMatMul", "MatMul", "TransposeMatMul"))
_FAMILY = {"conv": _CONV, "depthwise": _CONV, "matmul": _GEMM, "gemm": _GEMM}


def audit_file(
    model: Path, sites: Sequence[SiteRecord], inputs: Inputs, options: RuntimeOptions, evidence: Evidence
) -> AuditRecord | None:
    """Audit a built file on this machine.

    Args:
        model: the file, as :meth:`modeltailor.compress.formats.Composer.compose` built it.
        sites: its sites in the order of execution.
        inputs: one sample by input name.
        options: how the session is opened.
        evidence: what this machine's times say about the target.

    Returns:
        ``None`` if the file could not be profiled here; a run does not end on that.
    """
    requested = {site_label(k): Format.parse(s.format) for k, s in enumerate(sites) if s.format != "fp32"}
    try:
        found = audit(model, inputs, options, requested, n=_RUNS, timeout_s=_TIMEOUT_S)
    except (CandidateError, ModelError, DeviceError):
        return None
    return audit_record(found, sites, evidence)


def audit_record(found: Audit, sites: Sequence[SiteRecord], evidence: Evidence) -> AuditRecord:
    """Write an audit down.

    Args:
        found: the audit of a built file, whose nodes bear the labels of their sites.
        sites: its sites in the order of execution.
        evidence: what the machine that was profiled says about the target.
    """
    names = {site_label(k): s.site for k, s in enumerate(sites)}
    return AuditRecord(
        sentence=_in_words_of_layers(found.sentence, names),
        evidence=evidence,
        node_ms=round(found.node_ms, 6),
        compute_share=tuple((str(p), round(s, 5)) for p, s in found.compute_share),
        conversions=found.conversions,
        conversion_share=round(found.conversion_share, 5),
        layout_share=round(found.layout_share, 5),
        time_shares=tuple((s, round(v, 5)) for s, v in site_shares(found.nodes, sites).items()),
        fall_backs=tuple(
            FallBackRecord(
                node=names.get(_label(f.name), f.name), asked=f.asked, executed=f.executed, reason=f.reason,
                share=round(f.share, 5),
            )
            for f in found.fall_backs[:_SHOWN]
        ),
        n_fall_backs=len(found.fall_backs),
    )  # fmt: skip


def site_shares(nodes: Sequence[AuditNode], sites: Sequence[SiteRecord]) -> dict[str, float]:
    """Return the share of the time of all nodes that each site's own node takes.

    Nodes bear the label of their site. Where a fusion gave nodes other names, they are matched with the missing sites
    of their kind in order, if they are equally many; a site whose node is not found is missing.

    Args:
        nodes: executed nodes in order.
        sites: all sites of the model in the order of execution.
    """
    labels = {site_label(k): s.site for k, s in enumerate(sites)}
    shares: dict[str, float] = {}
    renamed: dict[frozenset[str], list[AuditNode]] = {_CONV: [], _GEMM: []}
    for node in nodes:
        site = labels.get(_label(node.name))
        if site is not None:
            shares[site] = shares.get(site, 0.0) + node.share
            continue
        for family, found in renamed.items():
            if node.op_type in family:
                found.append(node)
    for family, found in renamed.items():
        missing = [s.site for s in sites if s.site not in shares and _FAMILY.get(s.kind) == family]
        if len(missing) == len(found):
            shares.update(zip(missing, (n.share for n in found), strict=True))
    return {s.site: shares[s.site] for s in sites if s.site in shares}


def _label(name: str) -> str:
    return label_of(name)


def _in_words_of_layers(sentence: str, names: Mapping[str, str]) -> str:
    """Put layer names where the audit names nodes by their labels; it puts ``(`` or ``:`` after the name of a node."""
    return re.sub(r"\bs[0-9a-z]+(?:_\w+)?(?= \(|:)", lambda m: names.get(_label(m[0]), m[0]), sentence)
