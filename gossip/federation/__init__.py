"""Federation: who the members are, what they agreed on, who talks to whom."""
