"""The revisions, one module each, named `rNNNN_what`."""
