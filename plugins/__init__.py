"""The ops Castline adds."""
