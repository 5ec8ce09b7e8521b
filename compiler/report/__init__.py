"""What a compilation says about itself."""
