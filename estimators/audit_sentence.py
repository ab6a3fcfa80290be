"""One sentence that answers the question of everybody whose compressed model did not get faster: why?"""

from __future__ import annotations

from collections.abc import Sequence

from modeltailor.estimators.audit_data import AuditNode, Conversion, FallBack, Precision

__all__ = ["why_not_faster"]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def why_not_faster(
    nodes: Sequence[AuditNode],
    fall_backs: Sequence[FallBack],
    compute: Sequence[tuple[Precision, float]],
    converting: Sequence[Conversion],
) -> str:
    """Return the answer.

    Args:
        nodes: executed nodes.
        fall_backs: what runs otherwise than meant, by share.
        compute: share of the time in heavy nodes, by precision.
        converting: the conversions that execute.
    """
    conversion_share, n_conversions = sum(c.share for c in converting), len(converting)
    if not nodes:
        return "Nothing executes: the runtime folded the whole graph into constants."
    heavy = [n for n in nodes if n.role == "compute"]
    wide = [n for n in heavy if n.precision in ("float32", "float64")]
    top = max(nodes, key=lambda n: n.share)
    lost = sum(f.share for f in fall_backs)
    largest = f"the largest node is {top.name} ({top.op_type}, {_percent(top.share)})"
    named = "one conversion" if n_conversions == 1 else f"{n_conversions} conversions"
    takes = "takes" if n_conversions == 1 else "take"
    conversions = f"{named} between number formats {takes} {_percent(conversion_share)}"
    if fall_backs and lost >= max(0.05, conversion_share):
        worst = fall_backs[0]
        return (
            f"{len(fall_backs)} of {len(heavy)} heavy nodes with {_percent(lost)} of the time do not run as asked; "
            f"first {worst.name}: {worst.reason}."
        )
    if n_conversions and conversion_share >= 0.10:
        n_inserted = sum(c.is_inserted for c in converting)
        who = f" ({n_inserted} put in by the runtime)" if n_inserted else ""
        return (
            f"{named.capitalize()} between number formats{who} {takes} {_percent(conversion_share)} of the time; "
            "neighbours in one format would save them."
        )
    if not heavy:
        return f"It has no heavy nodes: its time is the overhead of {len(nodes)} small ones; {largest}."
    share = sum(s for _, s in compute)
    if share < 0.5:
        return (
            f"Only {_percent(share)} of the time is in heavy nodes, the rest in {len(nodes) - len(heavy)} small ones "
            f"that no number format makes faster; {largest}."
        )
    if len(wide) == len(heavy):
        return f"Nothing is quantized: all {len(heavy)} heavy nodes compute in {wide[0].precision}; {largest}."
    if wide:
        return (
            f"{len(wide)} of {len(heavy)} heavy nodes still compute in float with "
            f"{_percent(sum(n.share for n in wide))} of the time; {largest}."
        )
    kinds = " and ".join(p for p, _ in compute)
    tail = f"; {conversions}" if n_conversions else ""
    return f"All {len(heavy)} heavy nodes run as {kinds}{tail}; {largest}: less work, not fewer bits, is what is left."
