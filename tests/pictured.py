"""Where in a picture images are: found by their pixels, not by what the layout says."""

import numpy as np


def find(picture: np.ndarray, images: np.ndarray, columns: int, gap: int = 2, below: int = 0) -> tuple[int, int, int]:
    """(top, left, scale) of the one place where ``images`` (N, H, W, 3) stand in ``columns``, in order, enlarged.

    A place that no image is left for may hold anything. The grid takes a quarter of the picture's width or more.

    Args:
        picture: colours (height, width, 3).
        images: what must be there, row by row.
        columns: images in a row.
        gap: pixels between images.
        below: pixels under each image, beside the gap.
    """
    n, height, width, _ = images.shape
    most = picture.shape[1] // (columns * width)
    for scale in range(most, max(1, int(0.25 * most)) - 1, -1):
        tall, wide = height * scale + below + gap, width * scale + gap
        room = picture.shape[0] - -(-n // columns) * tall + gap + below + 1, picture.shape[1] - columns * wide + gap + 1
        if min(room) < 1:
            continue
        at = np.stack(np.meshgrid(range(room[0]), range(room[1]), indexing="ij"), axis=-1).reshape(-1, 2)
        for index, image in enumerate(images):
            corner = np.array([index // columns * tall, index % columns * wide])
            for i, j in np.ndindex(height, width):
                for k in (0, scale - 1):
                    y, x = (at + corner + (i * scale + k, j * scale + k)).T
                    at = at[(picture[y, x] == image[i, j]).all(axis=1)]
            expected = image.repeat(scale, axis=0).repeat(scale, axis=1)
            if len(at) == 1:
                (y, x), (h, w, _) = at[0] + corner, expected.shape
                if not np.array_equal(picture[y : y + h, x : x + w], expected):
                    at = at[:0]
            if not len(at):
                break
        if len(at) == 1:
            return (*map(int, at[0]), scale)
    raise AssertionError("the images are not in the picture, or in several places")
