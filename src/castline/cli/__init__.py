"""The command line: the only part of Castline that prints."""
