"""Measures what Keepgate itself costs: `make bench` prints the table and writes build/bench.json."""
