"""What is kept on disk: datasets prepared from their archives, and a cache of their samples."""
