"""One module per revision, named `rNNNN_what`."""
