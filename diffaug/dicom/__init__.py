"""DICOM studies become an nnU-Net raw dataset: the right series, the right way round, and nobody's name."""
