"""diffaug: unlabelled scans in, a better nnU-Net out."""

from importlib.metadata import PackageNotFoundError, version

from diffaug import surroundings

surroundings.complete()

try:
    __version__ = version("diffaug")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0.0.0"
