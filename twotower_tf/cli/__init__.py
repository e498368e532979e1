"""The command line: a dispatcher, one file per command, progress display."""
