"""Builds, verifies and reads shards of clips: records, manifest, tf.data pipelines."""
