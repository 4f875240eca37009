"""Random views on the device: pure functions of (key, uint8 images), inside the jitted step."""

from ssljax.data.views.blur import gaussian_blur as gaussian_blur
from ssljax.data.views.color import adjust_brightness as adjust_brightness
from ssljax.data.views.color import adjust_contrast as adjust_contrast
from ssljax.data.views.color import adjust_hue as adjust_hue
from ssljax.data.views.color import adjust_saturation as adjust_saturation
from ssljax.data.views.color import color_jitter as color_jitter
from ssljax.data.views.color import solarize as solarize
from ssljax.data.views.color import to_grey as to_grey
from ssljax.data.views.crop import resized_crop as resized_crop
from ssljax.data.views.crop import sample_crop as sample_crop
from ssljax.data.views.presets import CIFAR_MEAN as CIFAR_MEAN
from ssljax.data.views.presets import CIFAR_STD as CIFAR_STD
from ssljax.data.views.presets import IMAGENET_MEAN as IMAGENET_MEAN
from ssljax.data.views.presets import IMAGENET_STD as IMAGENET_STD
from ssljax.data.views.presets import byol as byol
from ssljax.data.views.presets import cifar as cifar
from ssljax.data.views.presets import moco_v1 as moco_v1
from ssljax.data.views.presets import moco_v2 as moco_v2
from ssljax.data.views.presets import moco_v3 as moco_v3
from ssljax.data.views.presets import simclr as simclr
from ssljax.data.views.recipe import View as View
from ssljax.data.views.view import TwoViews as TwoViews
from ssljax.data.views.view import augment as augment
from ssljax.data.views.view import normalize as normalize
