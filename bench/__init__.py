"""Benchmarks: throughput and CPU cost of each component, compared with the limits of what it is built on."""
