"""Random changes of training images. A new one is a function here and its probability in a file of conf/transforms/.

They draw from the Source that they are handed and from nothing else, so that an image comes out the same in every run
with the same seed (docs/hacking.md). The modules below register theirs when they are imported.
"""

from litedetr.data.augmentations.colour import photometric_distortion
from litedetr.data.augmentations.flips import vertical_flip
from litedetr.data.augmentations.iou_crop import iou_crop
from litedetr.data.augmentations.mixup import mixup
from litedetr.data.augmentations.mosaic import mosaic
from litedetr.data.augmentations.pipeline import augment
from litedetr.data.augmentations.registry import AUGMENTATIONS, Augmentation, augmentation
from litedetr.data.augmentations.source import Source
from litedetr.data.augmentations.zoom_out import zoom_out
