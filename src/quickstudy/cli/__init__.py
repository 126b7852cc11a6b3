"""The command line: one file a verb under `commands`; `main` reads the words and runs one."""
