"""Self-supervised pretraining of the network of an nnU-Net plan: pretexts, fitting, the encoder file."""
