"""The columns of a record that people are shown, in their order: name, title, how a number is written."""

from __future__ import annotations

COLUMNS = (
    ("accuracy_mean", "mean accuracy", "{:.4f}"),
    ("accuracy_median", "median accuracy", "{:.4f}"),
    ("accuracy_p10", "10th percentile", "{:.4f}"),
    ("accuracy_worst", "worst peer", "{:.4f}"),
    ("alone_mean", "alone, mean", "{:.4f}"),
    ("gain_mean", "gain over alone, mean", "{:+.4f}"),
    ("gain_worst", "gain over alone, least", "{:+.4f}"),
    ("test_loss", "test loss", "{:.4f}"),
    ("consensus_distance", "consensus distance", "{:.4g}"),
    ("peers_present", "peers present", "{:,.0f}"),
    ("messages", "messages", "{:,.0f}"),
    ("messages_lost", "messages lost", "{:,.0f}"),
    ("bytes_sent", "bytes sent", "{:,.0f}"),
    ("messages_refused", "messages refused", "{:,.0f}"),
    ("virtual_s", "virtual seconds", "{:,.1f}"),
    ("ledger_entries", "ledger entries", "{:,.0f}"),
    ("epsilon", "epsilon", "{:.4g}"),
    ("attacker_weight", "weight of attackers", "{:.4f}"),
    ("attacker_mixing_weight", "without the rule", "{:.4f}"),
    ("detection_auroc", "detection (AUROC)", "{:.4f}"),
    ("backdoor_rate", "backdoor taken", "{:.4f}"),
)


def spread(shape: str, value: float) -> str:
    """A standard deviation as its column is written; it has no sign."""
    return shape.replace("{:+", "{:").format(value)
