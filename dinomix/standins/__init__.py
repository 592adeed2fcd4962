"""Backbones that stand in for DINOv2 and ResNet-50 where neither can be downloaded.

`weights` holds their parameters, which `dinomix.weights` loads; `pretrain` made them from views of
the toy city.
"""
