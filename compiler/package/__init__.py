"""The output folder: written beside, described by a manifest, published by a rename."""
