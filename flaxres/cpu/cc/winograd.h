// 3x3 convolutions of stride 1 and gradients of their kernels by minimal filtering, F(2x2, 3x3):
// Winograd; for convolutional nets Lavin and Gray 2015 (arXiv 1509.09308), section 4.1.
//
// A tile of 2x2 results comes from a patch of 4x4 numbers of a channel. Both are transformed so that
// a tile takes 16 products for each pair of channels, one for each place of the transformed patch,
// in the place of 36. The transforms add and halve, which costs little accuracy: their factors are
// 1 and 1/2.

#pragma once

#include "convolution.h"

// Places of a transformed patch, and tiles that go through all of them before the next.
constexpr int64_t kPlaces = 16, kBlock = 32;

// Numbers between two places of a block. Not a power of 2, or they would meet in the cache.
static int64_t plane(int64_t channels) { return kBlock * channels + kLanes; }

static bool has_winograd(const Convolution& c) {
  return c.size == 3 && c.stride == 1 && c.dilation == 1 && c.in % kLanes == 0 &&
         c.in % kTile == 0 && c.out % kLanes == 0 && c.out_height > 1 && c.out_width > 1;
}

// The tiles of some images, one after the other.
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

// Runs use(tile, t, n) for each row of `count` tiles from `tile` on: the n tiles from `tile` on, the
// t-th of all.
template <class Use>
static inline void each_row(Tile tile, int64_t count, Use use) {
  for (int64_t t = 0, n; t < count; t += n, tile.skip(n)) {
    n = std::min(count - t, tile.columns - tile.column);
    use(tile, t, n);
  }
}

// Memory of a thread, for each use another; what is in it is of the last call.
template <int kUse>
static float* scratch(int64_t floats) {
  thread_local std::vector<float> memory;
  if (static_cast<int64_t>(memory.size()) < floats) memory.resize(floats);
  return memory.data();
}

// Two columns of patches, each (d0 - d2, d1 + d2, d2 - d1, d1 - d3) of its four pixels.
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

// Writes to v (place, tile, channel) the transformed patches of `count` tiles from `tile` on.
static void transform_patches(const Convolution& c, const float* padded, Tile tile, int64_t count,
                              float* v) {
  const int64_t step = plane(c.in);
  each_row(tile, count, [=, &c](const Tile& tile, int64_t t, int64_t tiles) {
    const float* first = padded + tile.image * c.padded_image() + 2 * tile.row * c.row() +
                         2 * tile.column * c.in;
    for (int64_t k = 0; k < c.in; k += kLanes) {
      const float* pixel = first + k;
      float* place = v + t * c.in + k;
      Columns a(pixel, c.row(), c.in);
      for (int64_t n = 0; n < tiles; ++n, place += c.in) {
        pixel += 2 * c.in;
        const Columns b(pixel, c.row(), c.in);  // also those where the next patch begins
        for (int i = 0; i < 4; ++i) {
          float* to = place + 4 * i * step;
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

// (g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2): a row or column of a kernel.
static inline void transform_weights(const Vector* g, int64_t step, Vector* to, int64_t to_step) {
  const Vector even = 0.5f * (g[0] + g[2 * step]), odd = 0.5f * g[step];
  to[0] = g[0], to[to_step] = even + odd, to[2 * to_step] = even - odd, to[3 * to_step] = g[2 * step];
}

// Writes to u (place, in, out) the transformed weights of one channel of the input.
static void transform_kernel(const Convolution& c, const float* kernel, int64_t channel, float* u) {
  for (int64_t o = 0; o < c.out; o += kLanes) {
    Vector g[9], rows[12], done[16];
    const int64_t at = channel * c.out + o, all = c.in * c.out;
    for (int i = 0; i < 9; ++i) g[i] = load(kernel + i * all + at);
    for (int j = 0; j < 3; ++j) transform_weights(g + j, 3, rows + j, 3);
    for (int i = 0; i < 4; ++i) transform_weights(rows + 3 * i, 1, done + 4 * i, 1);
    for (int p = 0; p < kPlaces; ++p) store(u + p * all + at, done[p]);
  }
}

// Results of kTiles tiles at one place. kIn is the number of channels of the input where it is
// known (not 0), which spares most of the address arithmetic.
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

// All results at one place in one vector of channels, or two.
template <int kVectors>
static void multiply_place(const Convolution& c, int64_t count, const float* v, const float* u,
                           float* m) {
  constexpr int kMost = kTile / kVectors;
  const auto most = c.in == 16   ? multiply_tiles<kMost, kVectors, 16>
                    : c.in == 32 ? multiply_tiles<kMost, kVectors, 32>
                    : c.in == 64 ? multiply_tiles<kMost, kVectors, 64>
                                 : multiply_tiles<kMost, kVectors, 0>;
  int64_t t = 0;
  for (; t + kMost <= count; t += kMost) most(c.in, c.out, v + t * c.in, u, m + t * c.out);
  for (; t + 4 <= count; t += 4)
    multiply_tiles<4, kVectors, 0>(c.in, c.out, v + t * c.in, u, m + t * c.out);
  for (; t < count; ++t)
    multiply_tiles<1, kVectors, 0>(c.in, c.out, v + t * c.in, u, m + t * c.out);
}

// (m0 + m1 + m2, m1 - m2 - m3): a row or column of the results.
static inline void transform_results(const Vector* m, int64_t step, Vector* to, int64_t to_step) {
  to[0] = m[0] + m[step] + m[2 * step], to[to_step] = m[step] - m[2 * step] - m[3 * step];
}

// Writes the pixels of `count` tiles from `tile` on, of which m has the products.
static void write_tiles(const Convolution& c, const float* m, Tile tile, int64_t count, float* y) {
  const int64_t step = plane(c.out), line = c.out_width * c.out;
  each_row(tile, count, [=, &c](const Tile& tile, int64_t t, int64_t tiles) {
    const bool below = 2 * tile.row + 1 < c.out_height;
    for (int64_t o = 0; o < c.out; o += kLanes) {
      const float* from = m + t * c.out + o;
      float* to = y + tile.image * c.out_image() + 2 * (tile.row * line + tile.column * c.out) + o;
      for (int64_t n = 0; n < tiles; ++n, from += c.out, to += 2 * c.out) {
        const bool right = 2 * (tile.column + n) + 1 < c.out_width;
        Vector own[16], rows[8], done[4];
        for (int p = 0; p < kPlaces; ++p) own[p] = load(from + p * step);
        for (int j = 0; j < 4; ++j) transform_results(own + j, 4, rows + j, 4);
        for (int i = 0; i < 2; ++i) transform_results(rows + 4 * i, 1, done + 2 * i, 1);
        store(to, done[0]);
        if (right) store(to + c.out, done[1]);
        if (below) store(to + line, done[2]);
        if (below && right) store(to + line + c.out, done[3]);
      }
    }
  });
}

// Asks the cache for numbers ahead of their use, some at each place of each block, so that memory
// works while products are taken. They may lie beyond the end of an array.
struct Ahead {
  const float *reads, *also;
  int64_t read, other;

  Ahead(const Convolution& c, int64_t images, const float* reads, const float* also)
      : reads(reads), also(also) {
    const int64_t blocks = (images * Tile(c).per_image() + kBlock - 1) / kBlock;
    read = images * c.image() / (blocks * kPlaces);
    other = images * c.out_image() / (blocks * kPlaces);
  }
  template <bool kWrites>
  void fetch() {
    for (int64_t i = 0; i < read; i += 16) __builtin_prefetch(reads + i, 0, 2);
    for (int64_t i = 0; i < other; i += 16) __builtin_prefetch(also + i, kWrites, 2);
    reads += read, also += other;
  }
};

// Convolves some padded images with transformed weights. `x` are the images that come after these.
static void winograd_images(const Convolution& c, int64_t images, const float* padded,
                            const float* x, const float* u, float* y) {
  float* v = scratch<0>(kPlaces * plane(c.in));
  float* m = scratch<1>(kPlaces * plane(c.out));
  Ahead ahead(c, images, x, y);
  Tile tile(c);
  for (int64_t left = images * tile.per_image(); left > 0; left -= kBlock) {
    const int64_t count = std::min(kBlock, left);
    transform_patches(c, padded, tile, count, v);
    for (int64_t p = 0; p < kPlaces; ++p) {
      ahead.fetch<true>();
      const float *from = v + p * plane(c.in), *weights = u + p * c.in * c.out;
      float* to = m + p * plane(c.out);
      int64_t o = 0;
      for (; o + 2 * kLanes <= c.out; o += 2 * kLanes)
        multiply_place<2>(c, count, from, weights + o, to + o);
      for (; o < c.out; o += kLanes) multiply_place<1>(c, count, from, weights + o, to + o);
    }
    write_tiles(c, m, tile, count, y);
    tile.skip(count);
  }
}

// (y0, y0 + y1, y0 - y1, -y1): a row or column of a tile of gradients.
static inline void transform_gradients(const Vector* y, int64_t step, Vector* to, int64_t to_step) {
  to[0] = y[0], to[to_step] = y[0] + y[step], to[2 * to_step] = y[0] - y[step];
  to[3 * to_step] = -y[step];
}

// Writes to d (place, tile, channel) the transformed gradients of `count` tiles from `tile` on.
static void transform_tiles(const Convolution& c, const float* dy, Tile tile, int64_t count,
                            float* d) {
  const int64_t step = plane(c.out), line = c.out_width * c.out;
  each_row(tile, count, [=, &c](const Tile& tile, int64_t t, int64_t tiles) {
    const bool below = 2 * tile.row + 1 < c.out_height;
    for (int64_t o = 0; o < c.out; o += kLanes) {
      const float* from =
          dy + tile.image * c.out_image() + 2 * (tile.row * line + tile.column * c.out) + o;
      float* to = d + t * c.out + o;
      for (int64_t n = 0; n < tiles; ++n, from += 2 * c.out, to += c.out) {
        const bool right = 2 * (tile.column + n) + 1 < c.out_width;
        Vector own[4] = {load(from)}, rows[8], done[16];
        if (right) own[1] = load(from + c.out);
        if (below) own[2] = load(from + line);
        if (below && right) own[3] = load(from + line + c.out);
        for (int j = 0; j < 2; ++j) transform_gradients(own + j, 2, rows + j, 2);
        for (int i = 0; i < 4; ++i) transform_gradients(rows + 2 * i, 1, done + 4 * i, 1);
        for (int p = 0; p < kPlaces; ++p) store(to + p * step, done[p]);
      }
    }
  });
}

// Adds products of `count` tiles, at one place, to sums in one vector of channels, or two.
template <int kVectors>
static void add_place(const Convolution& c, int64_t count, const float* v, const float* d,
                      float* sums) {
  constexpr int kInputs = kTile / kVectors;
  for (int64_t i = 0; i < c.in; i += kInputs) {
    Vector sum[kInputs][kVectors];
    float* to = sums + i * c.out;
    for (int j = 0; j < kInputs; ++j)
      for (int k = 0; k < kVectors; ++k) sum[j][k] = load(to + j * c.out + k * kLanes);
    const float *x = v + i, *dy = d;
    for (int64_t t = 0; t < count; ++t, x += c.in, dy += c.out) {
      Vector own[kVectors];
      for (int k = 0; k < kVectors; ++k) own[k] = load(dy + k * kLanes);
      for (int j = 0; j < kInputs; ++j)
        for (int k = 0; k < kVectors; ++k) sum[j][k] += x[j] * own[k];
    }
    for (int j = 0; j < kInputs; ++j)
      for (int k = 0; k < kVectors; ++k) store(to + j * c.out + k * kLanes, sum[j][k]);
  }
}

// Adds the part of some padded images to the transformed gradient of the kernel, (place, in, out).
// `x` are the images that come after these.
static void winograd_sums(const Convolution& c, int64_t images, const float* padded,
                          const float* x, const float* dy, float* sums) {
  float* v = scratch<0>(kPlaces * plane(c.in));
  float* d = scratch<1>(kPlaces * plane(c.out));
  Ahead ahead(c, images, x, dy + images * c.out_image());
  Tile tile(c);
  for (int64_t left = images * tile.per_image(); left > 0; left -= kBlock) {
    const int64_t count = std::min(kBlock, left);
    transform_patches(c, padded, tile, count, v);
    transform_tiles(c, dy, tile, count, d);
    for (int64_t p = 0; p < kPlaces; ++p) {
      ahead.fetch<false>();
      const float *from = v + p * plane(c.in), *gradients = d + p * plane(c.out);
      float* to = sums + p * c.in * c.out;
      int64_t o = 0;
      for (; o + 2 * kLanes <= c.out; o += 2 * kLanes)
        add_place<2>(c, count, from, gradients + o, to + o);
      for (; o < c.out; o += kLanes) add_place<1>(c, count, from, gradients + o, to + o);
    }
    tile.skip(count);
  }
}

// (s0 + (s1 + s2) / 2, (s1 - s2) / 2, (s1 + s2) / 2 + s3): a row or column of the sums.
static inline void transform_sums(const Vector* s, int64_t step, Vector* to, int64_t to_step) {
  const Vector even = 0.5f * (s[step] + s[2 * step]), odd = 0.5f * (s[step] - s[2 * step]);
  to[0] = s[0] + even, to[to_step] = odd, to[2 * to_step] = even + s[3 * step];
}

// Writes the gradient of the kernel of which `sums` is the transformed one.
static void winograd_gradient(const Convolution& c, const float* sums, float* dw) {
  const int64_t all = c.in * c.out;
  for (int64_t i = 0; i < all; i += kLanes) {
    Vector own[16], rows[12], done[9];
    for (int p = 0; p < kPlaces; ++p) own[p] = load(sums + p * all + i);
    for (int j = 0; j < 4; ++j) transform_sums(own + j, 4, rows + j, 4);
    for (int k = 0; k < 3; ++k) transform_sums(rows + 4 * k, 1, done + 3 * k, 1);
    for (int k = 0; k < 9; ++k) store(dw + k * all + i, done[k]);
  }
}
