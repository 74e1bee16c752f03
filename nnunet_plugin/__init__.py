"""The nnU-Net side of diffaug: trainer classes and the folder that nnUNet_extTrainer points to."""
