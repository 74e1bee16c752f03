"""The scarce-label benchmark: what pretraining is worth to nnU-Net when few cases are labelled."""
