"""Tags and embeddings of audio files, and export of models."""
