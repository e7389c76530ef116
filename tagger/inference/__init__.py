"""Audio files in; tags, embeddings and exported models out."""
