"""What each family of models needs: one file each, found by the class of its pipeline or denoiser."""
