"""One module per `billing` command. Commands parse arguments and print; engines in other packages do the work."""
