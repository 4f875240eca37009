"""The views of published recipes; `dataclasses.replace` overrides a field."""

from dataclasses import replace

from ssljax.vision.views.recipe import View
from ssljax.vision.views.views import Views

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def _imagenet(size, scale, **fields):
    return View(size, scale, mean=IMAGENET_MEAN, std=IMAGENET_STD, **fields)


def moco_v1(size: int = 224, on_host: bool = False) -> Views:
    """MoCo v1's views, both alike.

    Args:
        size: pixels a side.
        on_host: whether the random crops are made on the host, for pictures that differ in size, see `Views`.

    Returns:
        The two views.

    Reference:
        arXiv 1911.05722, section 3.3; facebookresearch/moco `main_moco.py`.

    Differs from the paper:
        The official code drops the colour before the jitter; here it is after it, as everywhere else.
    """
    view = _imagenet(size, (0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.4), jitter_prob=1.0, grey=0.2)
    return Views((view, view), on_host)


def moco_v2(size: int = 224, on_host: bool = False) -> Views:
    """MoCo v2's views, both alike; also SimSiam's. Arguments as `moco_v1`.

    Reference:
        arXiv 2003.04297, section 3; facebookresearch/moco `main_moco.py`.
    """
    view = _imagenet(size, (0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), jitter_prob=0.8, grey=0.2, blur=0.5)
    return Views((view, view), on_host)


def simclr(size: int = 224, on_host: bool = False) -> Views:
    """SimCLR's views, both alike. Arguments as `moco_v1`.

    Reference:
        arXiv 2002.05709, appendix A; google-research/simclr `data_util.py`.

    Differs from the paper:
        The official code resizes the crop bicubically and without antialiasing; here it is bilinear and antialiased.
    """
    view = _imagenet(size, (0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), jitter_prob=0.8, grey=0.2, blur=0.5)
    return Views((view, view), on_host)


def byol(size: int = 224, on_host: bool = False) -> Views:
    """BYOL's two unlike views: one always blurred, the other seldom blurred and sometimes solarized.

    Arguments as `moco_v1`.

    Reference:
        arXiv 2006.07733, appendix B, table 6; deepmind-research `byol/utils/augmentations.py`.

    Differs from the paper:
        The paper resizes the crop bicubically; here it is bilinear, with `interpolation="bicubic"` as in the paper.
    """
    view = _imagenet(size, (0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), jitter_prob=0.8, grey=0.2, blur=1.0)
    return Views((view, replace(view, blur=0.1, solarize=0.2)), on_host)


def moco_v3(size: int = 224, on_host: bool = False) -> Views:
    """MoCo v3's views for a ResNet: BYOL's with crops of at least a fifth of the area. Arguments as `moco_v1`.

    Reference:
        arXiv 2104.02057, appendix A; facebookresearch/moco-v3 `main_moco.py` with `--crop-min=.2`.
    """
    view = _imagenet(size, (0.2, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), jitter_prob=0.8, grey=0.2, blur=1.0)
    return Views((view, replace(view, blur=0.1, solarize=0.2)), on_host)


def cifar(size: int = 32, on_host: bool = False) -> Views:
    """The CIFAR-10 views of FAIR's MoCo demo, both alike and without blur. Arguments as `moco_v1`.

    Reference:
        facebookresearch/moco `colab/moco_cifar10_demo.ipynb`.
    """
    view = View(
        size,
        (0.08, 1.0),
        jitter=(0.4, 0.4, 0.4, 0.1),
        jitter_prob=0.8,
        grey=0.2,
        mean=CIFAR_MEAN,
        std=CIFAR_STD,
    )
    return Views((view, view), on_host)
