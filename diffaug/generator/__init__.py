"""The latent diffusion generator: autoencoder, denoiser, noise process, samplers, fitting, sampling."""
