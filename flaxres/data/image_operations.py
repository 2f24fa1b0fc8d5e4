"""Operations of augmentation policies on uint8 images: AutoAugment (arXiv 1805.09501), table 6.

Formulas, rounding and signs are those of torchvision's functions for uint8 tensors. Geometric
operations take the nearest pixel, as Pillow does.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32, UInt8

from flaxres.platforms import traced_platform

# Operations by index. RandAugment and TrivialAugment draw from all except the last one.
OPERATIONS = (
    *("identity", "shear-x", "shear-y", "translate-x", "translate-y", "rotate"),
    *("brightness", "color", "contrast", "sharpness"),
    *("posterize", "solarize", "auto-contrast", "equalize", "invert"),
)
GEOMETRIC = OPERATIONS[1:6]
GRAY_OR_RGB = (1, 3)  # numbers of channels

# Luma of RGB in ITU-R BT.601, with the digits of torchvision's rgb_to_grayscale.
LUMA = (0.2989, 0.587, 0.114)
SMOOTHING_CENTER = 5  # weight of a pixel in Pillow's 3x3 filter SMOOTH; its neighbors have 1

Image = UInt8[Array, "height width channels"]
Scalar = Float32[Array, ""]


def apply_operations(
    images: UInt8[Array, "batch height width channels"],
    operations: Int32[Array, "batch slots"],
    values: Float32[Array, "batch slots"],
    fill: int,
) -> UInt8[Array, "batch height width channels"]:
    """Applies operations to each image, one after another.

    A CPU runs one image after another, each with its own operations only. Other platforms compute
    all operations for all images at once, and select.

    Args:
      images: images with one or three channels.
      operations: indices into `OPERATIONS`.
      values: argument of each operation, in the units of its function below.
      fill: gray level, 0..255, of pixels that geometric operations take from outside the image.
    """

    def apply_to_image(inputs: tuple[Image, jax.Array, jax.Array]) -> Image:
        image, image_operations, image_values = inputs
        for slot in range(operations.shape[1]):
            image = apply_operation(image, image_operations[slot], image_values[slot], fill)
        return image

    inputs = (images, operations, values)
    if traced_platform() != "cpu":
        return jax.vmap(apply_to_image)(inputs)

    @jax.custom_batching.sequential_vmap  # replicas too: a mapped switch would run all operations
    def apply_in_a_loop(
        images: jax.Array, operations: jax.Array, values: jax.Array
    ) -> UInt8[Array, "batch height width channels"]:
        return jax.lax.map(apply_to_image, (images, operations, values))

    return apply_in_a_loop(*inputs)


def apply_operation(
    image: Image, operation: Int32[Array, ""], value: Scalar, fill: int = 0
) -> Image:
    """Applies one operation to an image.

    Args:
      image: image with one or three channels.
      operation: index into `OPERATIONS`.
      value: argument of the operation; ignored by operations without one.
      fill: gray level, 0..255, of pixels from outside the image.
    """

    def is_operation(name: str) -> jax.Array:
        return operation == OPERATIONS.index(name)

    def move(image: Image) -> Image:
        """Runs all geometric operations as one, because each gathers the pixels."""
        matrices = jnp.stack([matrix(name, value, image.shape) for name in GEOMETRIC])
        return transform(image, matrices[operation - OPERATIONS.index(GEOMETRIC[0])], fill)

    branches = (
        lambda image: image,
        move,
        lambda image: brightness(image, value),
        lambda image: color(image, value),
        lambda image: contrast(image, value),
        lambda image: sharpness(image, value),
        lambda image: posterize(image, value),
        lambda image: solarize(image, value),
        auto_contrast,
        equalize,
        lambda image: 255 - image,
    )
    # Index of the branch: 0 for the identity, 1 for a geometric operation, 2 and more for others.
    is_geometric = (operation >= 1) & (operation <= len(GEOMETRIC))
    shifted = jnp.maximum(operation - len(GEOMETRIC) + 1, 0)
    branch = jnp.where(is_geometric, 1, jnp.where(is_operation("identity"), 0, shifted))
    return jax.lax.switch(branch, branches, image)


def matrix(name: str, value: Scalar, shape: tuple[int, ...]) -> Float32[Array, "2 3"]:
    """Returns the matrix of a geometric operation, from output to input coordinates.

    Coordinates are (x, y, 1) in pixels from the center of the image, y downward.

    Args:
      name: one of `GEOMETRIC`.
      value: 'shear-x', 'shear-y': pixels per pixel, from the top left corner. 'translate-x',
        'translate-y': pixels to the right or down, rounded toward zero. 'rotate': degrees
        counterclockwise.
      shape: shape of the image.
    """
    height, width = shape[:2]
    zero, one = jnp.float32(0), jnp.float32(1)
    if name == "shear-x":
        rows = ((one, value, value * (height / 2)), (zero, one, zero))
    elif name == "shear-y":
        rows = ((one, zero, zero), (value, one, value * (width / 2)))
    elif name == "translate-x":
        rows = ((one, zero, -jnp.trunc(value)), (zero, one, zero))
    elif name == "translate-y":
        rows = ((one, zero, zero), (zero, one, -jnp.trunc(value)))
    else:
        cosine, sine = jnp.cos(jnp.deg2rad(value)), jnp.sin(jnp.deg2rad(value))
        rows = ((cosine, -sine, zero), (sine, cosine, zero))
    return jnp.asarray(rows, jnp.float32)


def transform(image: Image, matrix: Float32[Array, "2 3"], fill: int) -> Image:
    """Moves pixels by an affine map; each output pixel is the nearest one of the input.

    Args:
      image: the image.
      matrix: map from output to input coordinates, in pixels from the center.
      fill: gray level of pixels from outside the image.
    """
    height, width, channels = image.shape
    x = jnp.arange(width, dtype=jnp.float32) - (width - 1) / 2
    y = jnp.arange(height, dtype=jnp.float32)[:, None] - (height - 1) / 2
    # Sums of elementwise products: matrix products would lose precision on some accelerators.
    columns = jnp.floor(matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] + width / 2)
    rows = jnp.floor(matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] + height / 2)
    is_inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    index = jnp.where(is_inside, rows * width + columns, 0).astype(jnp.int32)
    moved = image.reshape(height * width, channels)[index.ravel()].reshape(image.shape)
    return jnp.where(is_inside[..., None], moved, jnp.uint8(fill))


def blend(
    image: Image, other: Float[Array, "#height #width #channels"], value: Scalar
) -> UInt8[Array, "height width channels"]:
    """Returns `(1 + value) * image - value * other`, clipped to 0..255 and truncated.

    Args:
      image: the image.
      other: gray levels, the result for the value -1.
      value: 0 for the image, negative toward the other one, positive away from it.
    """
    factor = 1 + value
    mixed = factor * image.astype(jnp.float32) + (1 - factor) * other
    return jnp.clip(mixed, 0, 255).astype(jnp.uint8)


def brightness(image: Image, value: Scalar) -> Image:
    """Blends with black; see `blend` for the value."""
    return blend(image, jnp.zeros((1, 1, 1)), value)


def grayscale(image: Image) -> Float32[Array, "height width 1"]:
    """Returns the luma of RGB, truncated to integers; other images are unchanged."""
    pixels = image.astype(jnp.float32)
    if image.shape[-1] != 3:
        return pixels
    red, green, blue = (weight * pixels[..., i : i + 1] for i, weight in enumerate(LUMA))
    return jnp.floor(red + green + blue)


def color(image: Image, value: Scalar) -> Image:
    """Blends with the image's luma (saturation). Gray images do not change."""
    return image if image.shape[-1] == 1 else blend(image, grayscale(image), value)


def contrast(image: Image, value: Scalar) -> Image:
    """Blends with the mean luma of the image; see `blend` for the value."""
    return blend(image, jnp.mean(grayscale(image), keepdims=True), value)


def sharpness(image: Image, value: Scalar) -> Image:
    """Blends with the image smoothed by a 3x3 filter, except for pixels at the border."""
    height, width, _ = image.shape
    if min(height, width) <= 2:
        return image
    pixels = image.astype(jnp.float32)
    neighbors = sum(
        pixels[row : height - 2 + row, column : width - 2 + column]
        for row in range(3)
        for column in range(3)
        if (row, column) != (1, 1)
    )
    center = pixels[1:-1, 1:-1]
    smoothed = jnp.round((neighbors + SMOOTHING_CENTER * center) / (8 + SMOOTHING_CENTER))
    return blend(image, pixels.at[1:-1, 1:-1].set(smoothed), value)


def posterize(image: Image, value: Scalar) -> Image:
    """Keeps the highest bits of each level.

    Args:
      image: the image.
      value: number of bits, 0..8.
    """
    mask = 256 - jnp.left_shift(1, 8 - value.astype(jnp.int32))
    return image & mask.astype(jnp.uint8)


def solarize(image: Image, value: Scalar) -> Image:
    """Inverts levels that are at least `value`."""
    return jnp.where(image.astype(jnp.float32) >= value, 255 - image, image)


def auto_contrast(image: Image) -> Image:
    """Stretches each channel to 0..255; a channel of one level does not change."""
    pixels = image.astype(jnp.float32)
    low = jnp.min(pixels, axis=(0, 1))
    high = jnp.max(pixels, axis=(0, 1))
    is_flat = low == high
    scale = 255 / jnp.where(is_flat, 1, high - low)
    stretched = (pixels - jnp.where(is_flat, 0, low)) * jnp.where(is_flat, 1, scale)
    return jnp.clip(stretched, 0, 255).astype(jnp.uint8)


def equalize(image: Image) -> Image:
    """Equalizes the histogram of each channel, as Pillow's `ImageOps.equalize`."""
    height, width, channels = image.shape
    num_pixels = height * width
    levels = image.reshape(num_pixels, channels).astype(jnp.int32)
    index = levels + 256 * jnp.arange(channels)
    ones = jnp.ones(index.size, jnp.int32)
    histogram = jnp.zeros(256 * channels, jnp.int32).at[index.ravel()].add(ones)
    histogram = histogram.reshape(channels, 256)
    # Pixels with the highest level are left out of the step between output levels.
    highest = jnp.take_along_axis(histogram, jnp.max(levels, axis=0)[:, None], axis=1)
    step = (num_pixels - highest) // 255
    below = jnp.cumsum(histogram, axis=1) - histogram
    table = (below + step // 2) // jnp.maximum(step, 1)
    table = jnp.where(step == 0, jnp.arange(256), jnp.minimum(table, 255))
    return table.astype(jnp.uint8).ravel()[index.ravel()].reshape(image.shape)
