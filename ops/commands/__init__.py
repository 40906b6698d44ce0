"""One module per command of `billing`. Commands parse arguments and print; engines do the work."""
