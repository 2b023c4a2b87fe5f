"""Photo folders, captions, prior images, latent and text caches."""
