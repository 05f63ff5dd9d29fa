"""Daebus measured beside upstream, its peers and the limit: `bench/run` prints one table."""
