// Minimal filtering for many channels, whose transformed weights do not fit in the cache.
//
// Threads divide the channels of the results instead of the images. All threads first transform the
// patches of some images. Each task then transforms the weights that it needs, in the cache, and
// multiplies them by all these patches. Patches and weights are packed in panels of one or two
// vectors of channels, so that the inner loops read contiguous memory.
//
// Every sum has the order of winograd.h, so both files compute the same bits.

#pragma once

#include "panels.h"
#include "winograd.h"

// Number of tiles that a task multiplies at a time, and of input channels whose weights it
// transforms at a time. Weights and products of a block then take a megabyte.
constexpr int64_t kTilesPerTask = 128, kInputsPerBlock = 64;

// Least number of pairs of input and output channels for which this file is faster.
constexpr int64_t kWidePairs = 128 * 256;

// Returns true if the functions of this file are to be used for a convolution that winograd.h
// supports.
static bool is_wide(const Convolution& c) {
  return c.in * c.out >= kWidePairs && c.out % kOutputPanel == 0;
}

// Adds the products of kTiles tiles and `in` input channels at one position to m, or writes them.
template <int kTiles>
static inline void multiply_panel(int64_t in, const Layout& patches, const float* v, const float* u,
                                  bool is_first, float* m) {
  Vector sum[kTiles][2];
  for (int t = 0; t < kTiles; ++t)
    for (int k = 0; k < 2; ++k)
      sum[t][k] = is_first ? Vector{} : load(m + t * kOutputPanel + k * kLanes);
  for (int64_t i = 0; i < in; i += kLanes, v += patches.panel) {
    for (int t = 0; t < kTiles; ++t) __builtin_prefetch(v + patches.position + t * kLanes, 0, 2);
    for (int64_t j = 0; j < kLanes; ++j, u += kOutputPanel) {
      const Vector w[2] = {load(u), load(u + kLanes)};
      for (int t = 0; t < kTiles; ++t)
        for (int k = 0; k < 2; ++k) sum[t][k] += v[t * kLanes + j] * w[k];
    }
  }
  for (int t = 0; t < kTiles; ++t)
    for (int k = 0; k < 2; ++k) store(m + t * kOutputPanel + k * kLanes, sum[t][k]);
}

// Computes one panel of output channels for `count` tiles, starting with `tile`. v points to their
// transformed patches, and kernel and y to the first channel of the panel.
template <int kOut, class Value>
static void convolve_panel(const Convolution& c, const float* v, const Layout& patches,
                           const float* kernel, Tile<kOut> tile, int64_t count, Value* y) {
  constexpr int kMaxTiles = kTile / 2;
  constexpr int64_t kBlock = kInputsPerBlock * kOutputPanel + kLanes;  // weights of a position
  float* u = scratch<3>(kPositions<kOut> * kBlock);
  const Layout products{kTilesPerTask * kOutputPanel + kLanes, kOutputPanel, 0};
  float* m = scratch<4>(kPositions<kOut> * products.position);
  for (int64_t i = 0; i < c.in; i += kInputsPerBlock) {
    const int64_t in = std::min(kInputsPerBlock, c.in - i);
    for (int64_t j = 0; j < in; ++j)
      for (int64_t o = 0; o < kOutputPanel; o += kLanes)
        transform_weights<kOut>(kernel + (i + j) * c.out + o, c.in * c.out, u + j * kOutputPanel + o,
                                kBlock);
    for (int64_t p = 0; p < kPositions<kOut>; ++p) {
      const float* from = v + p * patches.position + i / kLanes * patches.panel;
      float* to = m + p * products.position;
      int64_t t = 0;
      for (; t + kMaxTiles <= count; t += kMaxTiles)
        multiply_panel<kMaxTiles>(in, patches, from + t * kLanes, u + p * kBlock, i == 0,
                                  to + t * kOutputPanel);
      for (; t < count; ++t)
        multiply_panel<1>(in, patches, from + t * kLanes, u + p * kBlock, i == 0,
                          to + t * kOutputPanel);
    }
  }
  write_tiles(c, kOutputPanel, m, products, tile, count, y);
}

// Runs use(tile, t, n) in parallel for blocks of n of `tiles` tiles. A block starts with `tile`,
// number t of all.
template <int kOut, class Use>
static void each_block(const ThreadPool& pool, const Convolution& c, int64_t tiles, Use use) {
  parallel(pool, (tiles + kTilesPerBlock - 1) / kTilesPerBlock, [=, &c](int64_t block) {
    const int64_t first = block * kTilesPerBlock;
    Tile<kOut> tile(c);
    tile.skip(first);
    use(tile, first, std::min(kTilesPerBlock, tiles - first));
  });
}

// Convolves all images of one model by F(kOut x kOut, 3x3).
template <int kOut, class Value>
static void wide_convolution(const ThreadPool& pool, const Convolution& c, const Value* x,
                             const Prologue& prologue, const float* kernel, const Value* add,
                             Value* y) {
  const int64_t per_image = Tile<kOut>(c).per_image();
  const int64_t images =
      std::min(c.images, std::max<int64_t>(1, (kPackedAtATime + per_image - 1) / per_image));
  const Layout patches = panel_layout(kInputPanel, c.in, images * per_image);
  const CallMemory memory(kPositions<kOut> * patches.position);
  float* v = memory.data();
  for (int64_t first = 0; first < c.images; first += images) {
    const int64_t count = std::min(images, c.images - first), tiles = count * per_image;
    const Value* from = x + first * c.image();
    Value* to = y + first * c.out_image();
    each_block<kOut>(pool, c, tiles, [&](Tile<kOut> tile, int64_t t, int64_t n) {
      transform_patches(c, from, prologue, tile, n, patches, v + t * kLanes);
    });
    const int64_t blocks = (tiles + kTilesPerTask - 1) / kTilesPerTask;
    parallel(pool, blocks * (c.out / kOutputPanel), [&](int64_t task) {
      const int64_t t = task % blocks * kTilesPerTask, o = task / blocks * kOutputPanel;
      Tile<kOut> tile(c);
      tile.skip(t);
      convolve_panel<kOut>(c, v + t * kLanes, patches, kernel + o, tile,
                           std::min(kTilesPerTask, tiles - t), to + o);
    });
    if (add)
      parallel(pool, count, [&](int64_t i) {
        Value* image = to + i * c.out_image();
        const Value* other = add + (first + i) * c.out_image();
        for (int64_t k = 0; k < c.out_image(); k += kLanes)
          store(image + k, load(image + k) + load(other + k));
      });
  }
}

// Computes the gradient of the kernel of one model. The images are summed in `parts`, in order.
template <int kOut, class Value>
static void wide_gradient(const ThreadPool& pool, const Convolution& c, int64_t parts,
                          const Value* x, const Prologue& prologue, const Value* dy, float* dw) {
  const int64_t per_image = Tile<kOut>(c).per_image();
  const auto pack = [&](int64_t first, int64_t images, const Layout& x_layout, float* v,
                        const Layout& dy_layout, float* d) {
    const Value *from = x + first * c.image(), *gradient = dy + first * c.out_image();
    each_block<kOut>(pool, c, images * per_image, [&](Tile<kOut> tile, int64_t t, int64_t count) {
      transform_patches(c, from, prologue, tile, count, x_layout, v + t * kInputPanel);
      transform_tiles(c, gradient, tile, count, dy_layout, d + t * kOutputPanel);
    });
  };
  const auto add = [&](int64_t part, int64_t i, int64_t o, const float* sums) {
    constexpr int64_t kSize = kInputPanel * kOutputPanel;
    for (int64_t j = 0; j < kSize; j += kLanes) {
      Vector gradient[9];
      transform_sums<kOut>(sums + j, kSize, gradient);
      float* to = dw + (i + j / kOutputPanel) * c.out + o + j % kOutputPanel;
      for (int k = 0; k < 9; ++k, to += c.in * c.out)
        store(to, part ? load(to) + gradient[k] : gradient[k]);
    }
  };
  panel_gradient<float, float>(pool, c, parts, kPositions<kOut>, false, per_image, pack, add);
}
