"""Take the channels of a value apart and put others together."""
