"""Random views on the device: pure functions of (key, uint8 images), inside the jitted step."""

from ssljax.vision.views.blur import gaussian_blur as gaussian_blur
from ssljax.vision.views.color import adjust_brightness as adjust_brightness
from ssljax.vision.views.color import adjust_contrast as adjust_contrast
from ssljax.vision.views.color import adjust_hue as adjust_hue
from ssljax.vision.views.color import adjust_saturation as adjust_saturation
from ssljax.vision.views.color import color_jitter as color_jitter
from ssljax.vision.views.color import solarize as solarize
from ssljax.vision.views.color import to_grey as to_grey
from ssljax.vision.views.crop import resized_crop as resized_crop
from ssljax.vision.views.crop import sample_crop as sample_crop
from ssljax.vision.views.presets import CIFAR_MEAN as CIFAR_MEAN
from ssljax.vision.views.presets import CIFAR_STD as CIFAR_STD
from ssljax.vision.views.presets import IMAGENET_MEAN as IMAGENET_MEAN
from ssljax.vision.views.presets import IMAGENET_STD as IMAGENET_STD
from ssljax.vision.views.presets import byol as byol
from ssljax.vision.views.presets import cifar as cifar
from ssljax.vision.views.presets import moco_v1 as moco_v1
from ssljax.vision.views.presets import moco_v2 as moco_v2
from ssljax.vision.views.presets import moco_v3 as moco_v3
from ssljax.vision.views.presets import simclr as simclr
from ssljax.vision.views.recipe import View as View
from ssljax.vision.views.view import augment as augment
from ssljax.vision.views.view import normalize as normalize
from ssljax.vision.views.views import Views as Views
