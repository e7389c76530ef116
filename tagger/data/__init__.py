"""Clips on their way: records, shards, builds, and shards as tf.data."""
