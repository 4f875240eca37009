"""The random views of a batch: any number of any size, cropped on the device or on the host."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import jax
import numpy as np

from ssljax.data.records import Transform
from ssljax.types import Array, BadInputError
from ssljax.vision import pictures
from ssljax.vision.views.recipe import View
from ssljax.vision.views.view import augment


@dataclass(frozen=True)
class Views:
    """The random views of every image; hashable, so that jit can take it as a static argument.

    Attributes:
        recipes: one for each view, in the order of `names`.
        on_host: whether the random crops (`scale`, `ratio` and `interpolation` of each recipe) are made on the host,
            for pictures that differ in size: `host_crops` is then the loader's transform.

    Raises:
        BadInputError: there are no recipes, or nothing to crop on the host.

    >>> views = Views((View(size=8), View(size=4), View(size=4)))
    >>> batch = views(jax.random.key(0), image=np.zeros((2, 16, 16, 3), np.uint8))
    >>> {name: view.shape for name, view in batch.items()}
    {'view_1': (2, 8, 8, 3), 'view_2': (2, 4, 4, 3), 'view_3': (2, 4, 4, 3)}
    """

    recipes: tuple[View, ...]
    on_host: bool = False

    def __post_init__(self):
        if isinstance(self.recipes, View):
            raise BadInputError("recipes is a single View: give a tuple, such as (View(),).")
        object.__setattr__(self, "recipes", tuple(self.recipes))  # a list would not hash
        if not self.recipes:
            raise BadInputError("recipes=(): give at least one View.")
        for name, view in zip(self.names, self.recipes, strict=True):
            if self.on_host and view.scale is None:
                raise BadInputError(f"on_host=True: {name} has scale=None; set its scale.")

    def __call__(self, key: Array, **record: Array | np.ndarray) -> dict[str, Array]:
        """Draw and apply the views.

        Args:
            key: PRNG key.
            record: the batch. `image`, uint8[B, H, W, C]; or with `on_host` what `host_crops` makes, uint8[B, n, size,
                size, C] as `crops_SIZE` for each size, which get everything but the crop. Other fields are unchanged.

        Returns:
            `{"view_1": float32[B, size, size, C], ...}`, normalised, independent of the number of devices.

        Raises:
            BadInputError: an array is missing or does not fit the recipes.
        """
        recipes, keys = self.recipes, jax.random.split(key, len(self))
        if self.on_host:
            images = self._crops(record)
            recipes = [replace(view, scale=None) for view in recipes]
        elif "image" in record:
            images = [record["image"]] * len(self)
        else:
            raise BadInputError(f"the batch has {_names(record)} and no image; give uint8[B, H, W, C] as image.")
        views = zip(self.names, keys, images, recipes, strict=True)
        return {name: augment(one, image, view) for name, one, image, view in views}

    def __iter__(self) -> Iterator[View]:
        """The recipes in order."""
        return iter(self.recipes)

    def __len__(self) -> int:
        """Number of views."""
        return len(self.recipes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the views: view_1, view_2, ..."""
        return tuple(f"view_{number}" for number in range(1, len(self) + 1))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Pixels a side of each view."""
        return tuple(view.size for view in self.recipes)

    def host_crops(self) -> Transform | None:
        """The loader's transform, `(record, rng) -> record`; None where the crops are made on the device.

        It replaces `image`, uint8[H, W, C], by uint8[n, size, size, C] as `crops_SIZE` for each size. Boxes are drawn
        from `rng` view by view. It can be pickled, for the loader's workers.
        """
        if not self.on_host:
            return None
        crops = (pictures.Crop(v.size, v.scale, v.ratio, v.interpolation) for v in self.recipes if v.scale is not None)
        return pictures.crops_by_size(tuple(crops))

    def batch_shapes(self, batch_size: int, channels: int = 3) -> dict[str, jax.ShapeDtypeStruct]:
        """What a batch of the loader looks like with `host_crops`, without the data.

        Args:
            batch_size: global batch size.
            channels: number of channels of the pictures.

        Returns:
            Names -> shapes and dtypes, for a trace; the names are the loader's `fields`.

        Raises:
            BadInputError: the crops are made on the device, where the pictures' size is the data's.
        """
        if not self.on_host:
            raise BadInputError("on_host=False: the pictures have the shapes of the data; read them from a record.")
        return {
            pictures.crops_name(size): jax.ShapeDtypeStruct(
                (batch_size, self.sizes.count(size), size, size, channels), np.uint8
            )
            for size in dict.fromkeys(self.sizes)
        }

    def _crops(self, record: Mapping[str, Array | np.ndarray]) -> list[Array | np.ndarray]:
        """The crops of each view, uint8[B, size, size, C]."""
        left, images = {}, []
        for size in self.sizes:
            name, count = pictures.crops_name(size), self.sizes.count(size)
            if name not in record:
                raise BadInputError(f"the batch has {_names(record)} and no {name}; load it with views.host_crops().")
            crops = record[name]
            shape = list(crops.shape)
            if crops.dtype != np.uint8 or len(shape) != 5 or shape[1:4] != [count, size, size]:
                raise BadInputError(
                    f"{name} is {crops.dtype}{shape}: give uint8[B, {count}, {size}, {size}, C], as views.host_crops()."
                )
            left.setdefault(size, iter(range(count)))
            images.append(crops[:, next(left[size])])
        return images


def _names(record: Mapping[str, object]) -> str:
    return ", ".join(record) or "no fields"
