"""Beside the flow: the steps that make schema `billing` what tables.py says, each written by hand and never edited once
released. A test compares their result with tables.py."""
