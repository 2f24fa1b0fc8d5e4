// 3x3 convolutions with stride 1 and their kernel gradients, by Winograd's minimal filtering
// F(2x2, 3x3): Lavin and Gray 2015 (arXiv 1509.09308), section 4.1.
//
// A tile of 2x2 outputs depends on a patch of 4x4 inputs of each channel. Patch and kernel are
// transformed so that a tile takes 16 products for each pair of channels, one for each position of
// the transformed patch, instead of 36. The transforms only add and halve, so little accuracy is
// lost.

#pragma once

#include "convolution.h"

// Positions of a transformed patch, and the number of tiles that are processed together (a block).
constexpr int64_t kPositions = 16, kTilesPerBlock = 32;

// Number of floats between two positions of a block. It is not a power of 2, because the positions
// would then map to the same cache sets.
static int64_t plane(int64_t channels) { return kTilesPerBlock * channels + kLanes; }

// Returns true if the convolution can be computed by the functions of this file.
static bool supports_winograd(const Convolution& c) {
  return c.size == 3 && c.stride == 1 && c.dilation == 1 && c.in % kLanes == 0 &&
         c.in % kTile == 0 && c.out % kLanes == 0 && c.out_height > 1 && c.out_width > 1;
}

// Position of a tile in a sequence of images.
struct Tile {
  int64_t rows, columns, image = 0, row = 0, column = 0;

  explicit Tile(const Convolution& c)
      : rows((c.out_height + 1) / 2), columns((c.out_width + 1) / 2) {}
  int64_t per_image() const { return rows * columns; }
  void skip(int64_t tiles) {
    column += tiles;
    row += column / columns, column %= columns;
    image += row / rows, row %= rows;
  }
};

// Splits `count` tiles, starting with `tile`, into rows. Runs use(tile, t, n) for each row of n
// tiles, which starts with `tile`, number t of all.
template <class Use>
static inline void each_row(Tile tile, int64_t count, Use use) {
  for (int64_t t = 0, n; t < count; t += n, tile.skip(n)) {
    n = std::min(count - t, tile.columns - tile.column);
    use(tile, t, n);
  }
}

// Returns memory of this thread, separate for each kUse. It still holds the values of the last
// call.
template <int kUse>
static float* scratch(int64_t floats) {
  thread_local std::vector<float> memory;
  if (static_cast<int64_t>(memory.size()) < floats) memory.resize(floats);
  return memory.data();
}

// Two transformed columns of a patch: (d0 - d2, d1 + d2, d2 - d1, d1 - d3) of four pixels each.
struct Columns {
  Vector left[4], right[4];

  Columns(const float* pixel, int64_t row, int64_t channels) {
    transform(pixel, row, left);
    transform(pixel + channels, row, right);
  }
  static void transform(const float* pixel, int64_t row, Vector* to) {
    Vector d[4];
    for (int i = 0; i < 4; ++i) d[i] = load(pixel + i * row);
    to[0] = d[0] - d[2], to[1] = d[1] + d[2], to[2] = d[2] - d[1], to[3] = d[1] - d[3];
  }
};

// Writes the transformed patches of `count` tiles, starting with `tile`, to v (position, tile,
// channel).
static void transform_patches(const Convolution& c, const float* padded, Tile tile, int64_t count,
                              float* v) {
  const int64_t step = plane(c.in);
  each_row(tile, count, [=, &c](const Tile& tile, int64_t t, int64_t tiles) {
    const float* first = padded + tile.image * c.padded_image() + 2 * tile.row * c.row() +
                         2 * tile.column * c.in;
    for (int64_t k = 0; k < c.in; k += kLanes) {
      const float* pixel = first + k;
      float* patch = v + t * c.in + k;
      Columns a(pixel, c.row(), c.in);
      for (int64_t n = 0; n < tiles; ++n, patch += c.in) {
        pixel += 2 * c.in;
        const Columns b(pixel, c.row(), c.in);  // also the first columns of the next patch
        for (int i = 0; i < 4; ++i) {
          float* to = patch + 4 * i * step;
          store(to, a.left[i] - b.left[i]);
          store(to + step, a.right[i] + b.left[i]);
          store(to + 2 * step, b.left[i] - a.right[i]);
          store(to + 3 * step, a.right[i] - b.right[i]);
        }
        a = b;
      }
    }
  });
}

// Transforms a row or column of a kernel to (g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2).
static inline void transform_weights(const Vector* g, int64_t step, Vector* to, int64_t to_step) {
  const Vector even = 0.5f * (g[0] + g[2 * step]), odd = 0.5f * g[step];
  to[0] = g[0], to[to_step] = even + odd, to[2 * to_step] = even - odd;
  to[3 * to_step] = g[2 * step];
}

// Writes the transformed weights of one input channel to u (position, in, out).
static void transform_kernel(const Convolution& c, const float* kernel, int64_t channel, float* u) {
  for (int64_t o = 0; o < c.out; o += kLanes) {
    Vector g[9], rows[12], transformed[16];
    const int64_t offset = channel * c.out + o, plane_size = c.in * c.out;
    for (int i = 0; i < 9; ++i) g[i] = load(kernel + i * plane_size + offset);
    for (int j = 0; j < 3; ++j) transform_weights(g + j, 3, rows + j, 3);
    for (int i = 0; i < 4; ++i) transform_weights(rows + 3 * i, 1, transformed + 4 * i, 1);
    for (int p = 0; p < kPositions; ++p) store(u + p * plane_size + offset, transformed[p]);
  }
}

// Multiplies kTiles tiles by the weights at one position. kIn is the number of input channels if it
// is known at compile time, which saves address arithmetic, or 0.
template <int kTiles, int kVectors, int kIn>
static inline void multiply_tiles(int64_t inputs, int64_t out, const float* v, const float* u,
                                  float* m) {
  const int64_t in = kIn ? kIn : inputs;
  Vector sum[kTiles][kVectors] = {};
  for (int64_t i = 0; i < in; ++i, ++v, u += out) {
    Vector w[kVectors];
    for (int k = 0; k < kVectors; ++k) w[k] = load(u + k * kLanes);
    for (int t = 0; t < kTiles; ++t)
      for (int k = 0; k < kVectors; ++k) sum[t][k] += v[t * in] * w[k];
  }
  for (int t = 0; t < kTiles; ++t)
    for (int k = 0; k < kVectors; ++k) store(m + t * out + k * kLanes, sum[t][k]);
}

// Multiplies `count` tiles by the weights at one position, for one or two vectors of output
// channels.
template <int kVectors>
static void multiply_position(const Convolution& c, int64_t count, const float* v, const float* u,
                           float* m) {
  constexpr int kMaxTiles = kTile / kVectors;
  const auto multiply = c.in == 16   ? multiply_tiles<kMaxTiles, kVectors, 16>
                        : c.in == 32 ? multiply_tiles<kMaxTiles, kVectors, 32>
                        : c.in == 64 ? multiply_tiles<kMaxTiles, kVectors, 64>
                                     : multiply_tiles<kMaxTiles, kVectors, 0>;
  int64_t t = 0;
  for (; t + kMaxTiles <= count; t += kMaxTiles)
    multiply(c.in, c.out, v + t * c.in, u, m + t * c.out);
  for (; t + 4 <= count; t += 4)
    multiply_tiles<4, kVectors, 0>(c.in, c.out, v + t * c.in, u, m + t * c.out);
  for (; t < count; ++t)
    multiply_tiles<1, kVectors, 0>(c.in, c.out, v + t * c.in, u, m + t * c.out);
}

// Transforms a row or column of products to results: (m0 + m1 + m2, m1 - m2 - m3).
static inline void transform_results(const Vector* m, int64_t step, Vector* to, int64_t to_step) {
  to[0] = m[0] + m[step] + m[2 * step], to[to_step] = m[step] - m[2 * step] - m[3 * step];
}

// Writes the pixels of `count` tiles, starting with `tile`, from their products m.
static void write_tiles(const Convolution& c, const float* m, Tile tile, int64_t count, float* y) {
  const int64_t step = plane(c.out), line = c.out_width * c.out;
  each_row(tile, count, [=, &c](const Tile& tile, int64_t t, int64_t tiles) {
    const bool has_below = 2 * tile.row + 1 < c.out_height;
    for (int64_t o = 0; o < c.out; o += kLanes) {
      const float* from = m + t * c.out + o;
      float* to = y + tile.image * c.out_image() + 2 * (tile.row * line + tile.column * c.out) + o;
      for (int64_t n = 0; n < tiles; ++n, from += c.out, to += 2 * c.out) {
        const bool has_right = 2 * (tile.column + n) + 1 < c.out_width;
        Vector products[16], rows[8], results[4];
        for (int p = 0; p < kPositions; ++p) products[p] = load(from + p * step);
        for (int j = 0; j < 4; ++j) transform_results(products + j, 4, rows + j, 4);
        for (int i = 0; i < 2; ++i) transform_results(rows + 4 * i, 1, results + 2 * i, 1);
        store(to, results[0]);
        if (has_right) store(to + c.out, results[1]);
        if (has_below) store(to + line, results[2]);
        if (has_below && has_right) store(to + line + c.out, results[3]);
      }
    }
  });
}

// Prefetches the next images into the cache, a share at each position of each block, so that memory
// transfers overlap with arithmetic. The addresses may lie beyond the end of an array.
struct Prefetcher {
  const float *inputs, *outputs;
  int64_t input_share, output_share;

  Prefetcher(const Convolution& c, int64_t images, const float* inputs, const float* outputs)
      : inputs(inputs), outputs(outputs) {
    const int64_t blocks = (images * Tile(c).per_image() + kTilesPerBlock - 1) / kTilesPerBlock;
    input_share = images * c.image() / (blocks * kPositions);
    output_share = images * c.out_image() / (blocks * kPositions);
  }
  template <bool kWrites>
  void fetch() {
    for (int64_t i = 0; i < input_share; i += 16) __builtin_prefetch(inputs + i, 0, 2);
    for (int64_t i = 0; i < output_share; i += 16) __builtin_prefetch(outputs + i, kWrites, 2);
    inputs += input_share, outputs += output_share;
  }
};

// Convolves several padded images with transformed weights u. x points to the images after these,
// which are prefetched.
static void winograd_images(const Convolution& c, int64_t images, const float* padded,
                            const float* x, const float* u, float* y) {
  float* v = scratch<0>(kPositions * plane(c.in));
  float* m = scratch<1>(kPositions * plane(c.out));
  Prefetcher prefetcher(c, images, x, y);
  Tile tile(c);
  for (int64_t left = images * tile.per_image(); left > 0; left -= kTilesPerBlock) {
    const int64_t count = std::min(kTilesPerBlock, left);
    transform_patches(c, padded, tile, count, v);
    for (int64_t p = 0; p < kPositions; ++p) {
      prefetcher.fetch<true>();
      const float *from = v + p * plane(c.in), *weights = u + p * c.in * c.out;
      float* to = m + p * plane(c.out);
      int64_t o = 0;
      for (; o + 2 * kLanes <= c.out; o += 2 * kLanes)
        multiply_position<2>(c, count, from, weights + o, to + o);
      for (; o < c.out; o += kLanes) multiply_position<1>(c, count, from, weights + o, to + o);
    }
    write_tiles(c, m, tile, count, y);
    tile.skip(count);
  }
}

// Transforms a row or column of a tile of gradients to (y0, y0 + y1, y0 - y1, -y1).
static inline void transform_gradients(const Vector* y, int64_t step, Vector* to, int64_t to_step) {
  to[0] = y[0], to[to_step] = y[0] + y[step], to[2 * to_step] = y[0] - y[step];
  to[3 * to_step] = -y[step];
}

// Writes the transformed gradients of `count` tiles, starting with `tile`, to d (position, tile,
// channel).
static void transform_tiles(const Convolution& c, const float* dy, Tile tile, int64_t count,
                            float* d) {
  const int64_t step = plane(c.out), line = c.out_width * c.out;
  each_row(tile, count, [=, &c](const Tile& tile, int64_t t, int64_t tiles) {
    const bool has_below = 2 * tile.row + 1 < c.out_height;
    for (int64_t o = 0; o < c.out; o += kLanes) {
      const float* from =
          dy + tile.image * c.out_image() + 2 * (tile.row * line + tile.column * c.out) + o;
      float* to = d + t * c.out + o;
      for (int64_t n = 0; n < tiles; ++n, from += 2 * c.out, to += c.out) {
        const bool has_right = 2 * (tile.column + n) + 1 < c.out_width;
        Vector gradients[4] = {load(from)}, rows[8], transformed[16];
        if (has_right) gradients[1] = load(from + c.out);
        if (has_below) gradients[2] = load(from + line);
        if (has_below && has_right) gradients[3] = load(from + line + c.out);
        for (int j = 0; j < 2; ++j) transform_gradients(gradients + j, 2, rows + j, 2);
        for (int i = 0; i < 4; ++i) transform_gradients(rows + 2 * i, 1, transformed + 4 * i, 1);
        for (int p = 0; p < kPositions; ++p) store(to + p * step, transformed[p]);
      }
    }
  });
}

// Adds the products of `count` tiles at one position to sums, for one or two vectors of filters.
template <int kVectors>
static void add_position(const Convolution& c, int64_t count, const float* v, const float* d,
                      float* sums) {
  constexpr int kInputs = kTile / kVectors;
  for (int64_t i = 0; i < c.in; i += kInputs) {
    Vector sum[kInputs][kVectors];
    float* to = sums + i * c.out;
    for (int j = 0; j < kInputs; ++j)
      for (int k = 0; k < kVectors; ++k) sum[j][k] = load(to + j * c.out + k * kLanes);
    const float *x = v + i, *dy = d;
    for (int64_t t = 0; t < count; ++t, x += c.in, dy += c.out) {
      Vector gradients[kVectors];
      for (int k = 0; k < kVectors; ++k) gradients[k] = load(dy + k * kLanes);
      for (int j = 0; j < kInputs; ++j)
        for (int k = 0; k < kVectors; ++k) sum[j][k] += x[j] * gradients[k];
    }
    for (int j = 0; j < kInputs; ++j)
      for (int k = 0; k < kVectors; ++k) store(to + j * c.out + k * kLanes, sum[j][k]);
  }
}

// Adds the contribution of several padded images to the transformed gradient of the kernel, sums
// (position, in, out). x points to the images after these, which are prefetched.
static void winograd_sums(const Convolution& c, int64_t images, const float* padded,
                          const float* x, const float* dy, float* sums) {
  float* v = scratch<0>(kPositions * plane(c.in));
  float* d = scratch<1>(kPositions * plane(c.out));
  Prefetcher prefetcher(c, images, x, dy + images * c.out_image());
  Tile tile(c);
  for (int64_t left = images * tile.per_image(); left > 0; left -= kTilesPerBlock) {
    const int64_t count = std::min(kTilesPerBlock, left);
    transform_patches(c, padded, tile, count, v);
    transform_tiles(c, dy, tile, count, d);
    for (int64_t p = 0; p < kPositions; ++p) {
      prefetcher.fetch<false>();
      const float *from = v + p * plane(c.in), *gradients = d + p * plane(c.out);
      float* to = sums + p * c.in * c.out;
      int64_t o = 0;
      for (; o + 2 * kLanes <= c.out; o += 2 * kLanes)
        add_position<2>(c, count, from, gradients + o, to + o);
      for (; o < c.out; o += kLanes) add_position<1>(c, count, from, gradients + o, to + o);
    }
    tile.skip(count);
  }
}

// Transforms a row or column of sums to (s0 + (s1 + s2) / 2, (s1 - s2) / 2, (s1 + s2) / 2 + s3).
static inline void transform_sums(const Vector* s, int64_t step, Vector* to, int64_t to_step) {
  const Vector even = 0.5f * (s[step] + s[2 * step]), odd = 0.5f * (s[step] - s[2 * step]);
  to[0] = s[0] + even, to[to_step] = odd, to[2 * to_step] = even + s[3 * step];
}

// Writes the gradient of the kernel, whose transform is `sums`.
static void winograd_gradient(const Convolution& c, const float* sums, float* dw) {
  const int64_t plane_size = c.in * c.out;
  for (int64_t i = 0; i < plane_size; i += kLanes) {
    Vector s[16], rows[12], gradient[9];
    for (int p = 0; p < kPositions; ++p) s[p] = load(sums + p * plane_size + i);
    for (int j = 0; j < 4; ++j) transform_sums(s + j, 4, rows + j, 4);
    for (int k = 0; k < 3; ++k) transform_sums(rows + 4 * k, 1, gradient + 3 * k, 1);
    for (int k = 0; k < 9; ++k) store(dw + k * plane_size + i, gradient[k]);
  }
}
