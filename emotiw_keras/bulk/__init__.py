"""Millions of photos: cut into shards, read by many processes here or on a Ray cluster, resumed after any stop."""
