"""Compare a language model with its original by what both answer to multiple-choice questions."""
