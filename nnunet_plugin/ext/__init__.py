"""The folder for nnU-Net's variable `nnUNet_extTrainer`: one module, which re-exports the trainers."""
