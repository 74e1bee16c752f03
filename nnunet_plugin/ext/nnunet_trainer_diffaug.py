"""The module nnU-Net imports by its bare name, then forgets; the trainers live on in the installed package."""

from nnunet_plugin.trainers import TRAINERS

globals().update(TRAINERS)
