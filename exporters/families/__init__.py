"""What differs between architectures, and why."""
