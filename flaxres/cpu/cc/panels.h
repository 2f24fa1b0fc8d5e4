// Kernel gradients as matrix products, for kernels that do not fit in the cache.
//
// Tasks divide the kernel instead of the images. All threads first pack the factors of some images
// in panels of one or two vectors of channels, so that the inner loop reads contiguous memory.

#pragma once

#include "factors.h"

// Number of input and output channels of a panel, and so of a task.
constexpr int64_t kInputPanel = kLanes, kOutputPanel = 2 * kLanes;

// Least number of tiles or pixels that are packed at a time.
constexpr int64_t kPackedAtATime = 256;

// Returns the layout of `all` channels in panels of `channels` channels, for a number of pixels. The
// distance of two positions is not a power of 2, because they would map to the same cache sets.
static Layout panel_layout(int64_t channels, int64_t all, int64_t pixels) {
  return {all * pixels + kLanes, channels, pixels * channels};
}

// Adds the products of `count` tiles or pixels to the sums of a panel (input, output), or writes
// them.
template <class Factor, class Gradient>
static inline void add_panel(int64_t count, const Factor* x, const Gradient* dy, bool is_first,
                             float* sums) {
  constexpr int kInputs = kTile / 2;
  for (int64_t i = 0; i < kInputPanel; i += kInputs, sums += kInputs * kOutputPanel) {
    Vector sum[kInputs][2];
    for (int j = 0; j < kInputs; ++j)
      for (int k = 0; k < 2; ++k)
        sum[j][k] = is_first ? Vector{} : load(sums + j * kOutputPanel + k * kLanes);
    const Factor* from = x + i;
    const Gradient* d = dy;
    for (int64_t t = 0; t < count; ++t, from += kInputPanel, d += kOutputPanel) {
      const decltype(load(d)) gradients[2] = {load(d), load(d + kLanes)};
      for (int j = 0; j < kInputs; ++j)
        for (int k = 0; k < 2; ++k) sum[j][k] = multiply_add(sum[j][k], from[j], gradients[k]);
    }
    for (int j = 0; j < kInputs; ++j)
      for (int k = 0; k < 2; ++k) store(sums + j * kOutputPanel + k * kLanes, sum[j][k]);
  }
}

// Computes the gradient of the kernel of one model, as sums over the images of each of `parts`
// parts. A factor has at most the size of a
// float.
//   positions: number of separate matrix products: positions of transformed patches, or taps.
//   shares_dy: true if all of them have the same factors of dy, which are packed once.
//   per_image: number of tiles or pixels of an image.
//   pack(first, images, x_layout, x, dy_layout, dy): writes the factors of some images.
//   add(part, i, o, sums): adds the sums (position, input, output) of a part for a panel of input
//     channels from i and output channels from o to the gradient.
template <class Factor, class Gradient, class Pack, class Add>
static void panel_gradient(const ThreadPool& pool, const Convolution& c, int64_t parts,
                           int64_t positions, bool shares_dy, int64_t per_image, Pack pack, Add add) {
  static_assert(sizeof(Factor) == sizeof(float) && sizeof(Gradient) <= sizeof(float));
  const int64_t part_images = (c.images + parts - 1) / parts;  // of the largest part
  const int64_t images =
      std::min(part_images, std::max<int64_t>(1, kPackedAtATime / per_image));  // at a time
  const Layout x_layout = panel_layout(kInputPanel, c.in, images * per_image);
  const Layout dy_layout = panel_layout(kOutputPanel, c.out, images * per_image);
  const CallMemory x_memory(positions * x_layout.position);
  const CallMemory dy_memory((shares_dy ? 1 : positions) * dy_layout.position);
  auto* x = reinterpret_cast<Factor*>(x_memory.data());
  auto* dy = reinterpret_cast<Gradient*>(dy_memory.data());
  const int64_t size = kInputPanel * kOutputPanel, rows = c.in / kInputPanel;
  const int64_t tasks = rows * (c.out / kOutputPanel);
  const CallMemory sum_memory(images < part_images ? tasks * positions * size : 0);
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t begin = part * c.images / parts, end = (part + 1) * c.images / parts;
    for (int64_t first = begin; first < end; first += images) {
      const int64_t count = std::min(images, end - first);
      pack(first, count, x_layout, x, dy_layout, dy);
      parallel(pool, tasks, [&](int64_t task) {
        const int64_t i = task % rows, o = task / rows;
        float* sums = images < part_images ? sum_memory.data() + task * positions * size
                                           : scratch<3>(positions * size);
        for (int64_t p = 0; p < positions; ++p)
          add_panel(count * per_image, x + p * x_layout.position + i * x_layout.panel,
                    dy + (shares_dy ? 0 : p * dy_layout.position) + o * dy_layout.panel,
                    first == begin, sums + p * size);
        if (first + images >= end) add(part, i * kInputPanel, o * kOutputPanel, sums);
      });
    }
  }
}
