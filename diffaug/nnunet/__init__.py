"""nnU-Net, batchgenerators and dynamic-network-architectures: this room alone knows where their pieces lie."""
