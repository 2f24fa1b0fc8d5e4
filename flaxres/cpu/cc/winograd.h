// 3x3 convolutions with stride 1 and their kernel gradients, by Winograd's minimal filtering
// F(2x2, 3x3) and F(4x4, 3x3): Lavin and Gray 2015 (arXiv 1509.09308), section 4.1.
//
// A tile of 2x2 (4x4) outputs depends on a patch of 4x4 (6x6) inputs of each channel. Patch and
// kernel are transformed so that a tile takes 16 (36) products for each pair of channels, one for
// each position of the transformed patch, instead of 36 (144).

#pragma once

#include "convolution.h"
#include "transforms.h"

// Number of tiles that are processed together (a block), and positions of a transformed patch.
constexpr int64_t kTilesPerBlock = 32;
template <int kOut>
constexpr int64_t kPositions = (kOut + 2) * (kOut + 2);

// Number of floats between two positions of a block. It is not a power of 2, because the positions
// would then map to the same cache sets.
static int64_t plane(int64_t channels) { return kTilesPerBlock * channels + kLanes; }

// Returns the layout (position, tile, channel) of a block.
static Layout block_layout(int64_t channels) { return {plane(channels), channels, 0}; }

// Returns true if the convolution can be computed by the functions of this file.
static bool supports_winograd(const Convolution& c) {
  return c.size == 3 && c.stride == 1 && c.dilation == 1 && c.in % kLanes == 0 &&
         c.in % kTile == 0 && c.out % kLanes == 0 && c.out_height > 1 && c.out_width > 1;
}

// Position of a tile of kOut x kOut outputs in a sequence of images.
template <int kOut>
struct Tile {
  int64_t rows, columns, image = 0, row = 0, column = 0;

  explicit Tile(const Convolution& c)
      : rows((c.out_height + kOut - 1) / kOut), columns((c.out_width + kOut - 1) / kOut) {}
  int64_t per_image() const { return rows * columns; }
  void skip(int64_t tiles) {
    column += tiles;
    row += column / columns, column %= columns;
    image += row / rows, row %= rows;
  }
};

// Returns true if F(4x4) takes fewer products for an image than F(2x2).
static bool prefers_large_tiles(const Convolution& c) {
  return Tile<4>(c).per_image() * kPositions<4> < Tile<2>(c).per_image() * kPositions<2>;
}

// Splits `count` tiles, starting with `tile`, into rows. Runs use(tile, t, n) for each row of n
// tiles, which starts with `tile`, number t of all.
template <int kOut, class Use>
static inline void each_row(Tile<kOut> tile, int64_t count, Use use) {
  for (int64_t t = 0, n; t < count; t += n, tile.skip(n)) {
    n = std::min(count - t, tile.columns - tile.column);
    use(tile, t, n);
  }
}

// Writes the transformed patches of `count` tiles, starting with `tile`, to v.
template <int kOut, class Value>
static void transform_patches(const Convolution& c, const Value* x, const Prologue& prologue,
                              Tile<kOut> tile, int64_t count, const Layout& layout, float* v) {
  constexpr int kPatch = kOut + 2;
  each_row(tile, count, [=, &c](const Tile<kOut>& tile, int64_t t, int64_t tiles) {
    const int64_t in = c.in, step = layout.position, line = c.width * in;
    // Columns of the patches within the image. The others are 0.
    const int64_t left = kOut * tile.column - c.pad, columns = kOut * tiles + 2;
    const int64_t first = -left, end = c.width - left;
    const Value* image = x + tile.image * c.image() + left * in;
    int64_t offsets[kPatch];
    Bits masks[kPatch];  // 0 in rows outside of the image
    for (int i = 0; i < kPatch; ++i) {
      const int64_t row = kOut * tile.row - c.pad + i;
      offsets[i] = std::clamp<int64_t>(row, 0, c.height - 1) * line;
      masks[i] = Bits{} - uint32_t{row >= 0 && row < c.height};
    }
    Vector transformed[(kOut * kTilesPerBlock + 2) * kPatch];
    for (int64_t k = 0; k < in; k += kLanes) {
      const auto normalize = prologue.at(k);
      const Value* pixel = image + k;
      Vector* to = transformed;
      for (int64_t w = 0; w < columns; ++w, pixel += in, to += kPatch) {
        Vector d[kPatch] = {};
        if (w >= first && w < end)
          for (int i = 0; i < kPatch; ++i)
            d[i] = (Vector)((Bits)normalize(load(pixel + offsets[i])) & masks[i]);
        Transform<kOut>::patch(d, 1, to, 1);
      }
      float* patch = v + t * layout.channels + layout.channel(k);
      const Vector* from = transformed;
      for (int64_t n = 0; n < tiles; ++n, patch += layout.channels, from += kOut * kPatch)
        for (int i = 0; i < kPatch; ++i) {
          Vector row[kPatch];
          Transform<kOut>::patch(from + i, kPatch, row, 1);
          for (int j = 0; j < kPatch; ++j) store(patch + (i * kPatch + j) * step, row[j]);
        }
    }
  });
}

// Transforms a vector of weights, whose taps are `tap` floats apart. The positions of u are
// `position` floats apart.
template <int kOut>
static inline void transform_weights(const float* weights, int64_t tap, float* u,
                                     int64_t position) {
  constexpr int kPatch = kOut + 2;
  Vector g[9], rows[3 * kPatch], transformed[kPatch];
  for (int i = 0; i < 9; ++i) g[i] = load(weights + i * tap);
  for (int j = 0; j < 3; ++j) Transform<kOut>::kernel(g + j, 3, rows + j, 3);
  for (int i = 0; i < kPatch; ++i) {
    Transform<kOut>::kernel(rows + 3 * i, 1, transformed, 1);
    for (int j = 0; j < kPatch; ++j) store(u + (i * kPatch + j) * position, transformed[j]);
  }
}

// Writes the transformed weights of one input channel to u (position, in, out).
template <int kOut>
static void transform_kernel(const Convolution& c, const float* kernel, int64_t channel, float* u) {
  for (int64_t i = channel * c.out; i < (channel + 1) * c.out; i += kLanes)
    transform_weights<kOut>(kernel + i, c.in * c.out, u + i, c.in * c.out);
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

// Writes `channels` channels of the pixels of `count` tiles, starting with `tile`, from their
// products m. y points to the first of these channels.
template <int kOut, class Value>
static void write_tiles(const Convolution& c, int64_t channels, const float* m,
                        const Layout& layout, Tile<kOut> tile, int64_t count, Value* y) {
  constexpr int kPatch = kOut + 2;
  const int64_t step = layout.position, line = c.out_width * c.out;
  each_row(tile, count, [=, &c](const Tile<kOut>& tile, int64_t t, int64_t tiles) {
    const int64_t height = c.out_height - kOut * tile.row;
    for (int64_t o = 0; o < channels; o += kLanes) {
      const float* from = m + t * layout.channels + layout.channel(o);
      Value* to =
          y + tile.image * c.out_image() + kOut * (tile.row * line + tile.column * c.out) + o;
      for (int64_t n = 0; n < tiles; ++n, from += layout.channels, to += kOut * c.out) {
        const int64_t width = c.out_width - kOut * (tile.column + n);
        Vector rows[kOut][kPatch];
        for (int j = 0; j < kPatch; ++j) {
          Vector products[kPatch];
          for (int i = 0; i < kPatch; ++i) products[i] = load(from + (i * kPatch + j) * step);
          Transform<kOut>::results(products, 1, &rows[0][j], kPatch);
        }
        for (int i = 0; i < kOut; ++i) {
          Vector results[kOut];
          Transform<kOut>::results(rows[i], 1, results, 1);
          for (int j = 0; j < kOut; ++j)
            if (i < height && j < width) store(to + i * line + j * c.out, results[j]);
        }
      }
    }
  });
}

// Prefetches the next block of images into the cache, a share at each position of a block, so that
// memory transfers overlap with arithmetic. The addresses may lie beyond the end of an array.
template <class Value, bool kWrites>
struct Prefetcher {
  const Value* next;
  int64_t share;

  // block: elements of a block; positions: positions of a block.
  Prefetcher(const Value* array, int64_t block, int64_t positions)
      : next(array + block), share(block / positions) {}
  void fetch() {
    for (int64_t i = 0; i < share; i += 64 / int64_t(sizeof(Value)))
      __builtin_prefetch(next + i, kWrites, 2);
    next += share;
  }
};

// Convolves several images with transformed weights u.
template <int kOut, class Value>
static void winograd_images(const Convolution& c, int64_t images, const Value* x,
                            const Prologue& prologue, const float* u, Value* y) {
  float* v = scratch<0>(kPositions<kOut> * plane(c.in));
  float* m = scratch<1>(kPositions<kOut> * plane(c.out));
  Tile<kOut> tile(c);
  const int64_t tiles = tile.per_image();
  Prefetcher<Value, false> inputs(x, c.image() * kTilesPerBlock / tiles, kPositions<kOut>);
  Prefetcher<Value, true> outputs(y, c.out_image() * kTilesPerBlock / tiles, kPositions<kOut>);
  for (int64_t left = images * tiles; left > 0; left -= kTilesPerBlock) {
    const int64_t count = std::min(kTilesPerBlock, left);
    transform_patches(c, x, prologue, tile, count, block_layout(c.in), v);
    for (int64_t p = 0; p < kPositions<kOut>; ++p) {
      inputs.fetch(), outputs.fetch();
      const float *from = v + p * plane(c.in), *weights = u + p * c.in * c.out;
      float* to = m + p * plane(c.out);
      int64_t o = 0;
      for (; o + 2 * kLanes <= c.out; o += 2 * kLanes)
        multiply_position<2>(c, count, from, weights + o, to + o);
      for (; o < c.out; o += kLanes) multiply_position<1>(c, count, from, weights + o, to + o);
    }
    write_tiles(c, c.out, m, block_layout(c.out), tile, count, y);
    tile.skip(count);
  }
}

// Writes the transformed gradients of `count` tiles, starting with `tile`, to d.
template <int kOut, class Value>
static void transform_tiles(const Convolution& c, const Value* dy, Tile<kOut> tile, int64_t count,
                            const Layout& layout, float* d) {
  constexpr int kPatch = kOut + 2;
  const int64_t step = layout.position, line = c.out_width * c.out;
  each_row(tile, count, [=, &c](const Tile<kOut>& tile, int64_t t, int64_t tiles) {
    const int64_t height = c.out_height - kOut * tile.row;
    for (int64_t o = 0; o < c.out; o += kLanes) {
      const Value* from =
          dy + tile.image * c.out_image() + kOut * (tile.row * line + tile.column * c.out) + o;
      float* to = d + t * layout.channels + layout.channel(o);
      for (int64_t n = 0; n < tiles; ++n, from += kOut * c.out, to += layout.channels) {
        const int64_t width = c.out_width - kOut * (tile.column + n);
        Vector rows[kPatch][kOut];
        for (int j = 0; j < kOut; ++j) {
          Vector column[kOut];
          for (int i = 0; i < kOut; ++i)
            column[i] = i < height && j < width ? load(from + i * line + j * c.out) : Vector{};
          Transform<kOut>::gradients(column, 1, &rows[0][j], kOut);
        }
        for (int i = 0; i < kPatch; ++i) {
          Vector transformed[kPatch];
          Transform<kOut>::gradients(rows[i], 1, transformed, 1);
          for (int j = 0; j < kPatch; ++j) store(to + (i * kPatch + j) * step, transformed[j]);
        }
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

// Computes the gradient of a vector of weights (tap) from its sums, whose positions are `position`
// floats apart.
template <int kOut>
static inline void transform_sums(const float* sums, int64_t position, Vector* gradient) {
  constexpr int kPatch = kOut + 2;
  Vector rows[3][kPatch];
  for (int j = 0; j < kPatch; ++j) {
    Vector column[kPatch];
    for (int k = 0; k < kPatch; ++k) column[k] = load(sums + (k * kPatch + j) * position);
    Transform<kOut>::sums(column, 1, &rows[0][j], kPatch);
  }
  for (int k = 0; k < 3; ++k) Transform<kOut>::sums(rows[k], 1, gradient + 3 * k, 1);
}

// Writes the gradient of the kernel, summed over several images, to dw.
template <int kOut, class Value>
static void winograd_gradient(const Convolution& c, int64_t images, const Value* x,
                              const Prologue& prologue, const Value* dy, float* dw) {
  const int64_t plane_size = c.in * c.out;
  float* v = scratch<0>(kPositions<kOut> * plane(c.in));
  float* d = scratch<1>(kPositions<kOut> * plane(c.out));
  float* sums = scratch<2>(kPositions<kOut> * plane_size);
  std::fill(sums, sums + kPositions<kOut> * plane_size, 0.0f);
  Tile<kOut> tile(c);
  const int64_t tiles = tile.per_image();
  Prefetcher<Value, false> inputs(x, c.image() * kTilesPerBlock / tiles, kPositions<kOut>);
  Prefetcher<Value, false> gradients(dy, c.out_image() * kTilesPerBlock / tiles, kPositions<kOut>);
  for (int64_t left = images * tiles; left > 0; left -= kTilesPerBlock) {
    const int64_t count = std::min(kTilesPerBlock, left);
    transform_patches(c, x, prologue, tile, count, block_layout(c.in), v);
    transform_tiles(c, dy, tile, count, block_layout(c.out), d);
    for (int64_t p = 0; p < kPositions<kOut>; ++p) {
      inputs.fetch(), gradients.fetch();
      const float *from = v + p * plane(c.in), *factors = d + p * plane(c.out);
      float* to = sums + p * plane_size;
      int64_t o = 0;
      for (; o + 2 * kLanes <= c.out; o += 2 * kLanes)
        add_position<2>(c, count, from, factors + o, to + o);
      for (; o < c.out; o += kLanes) add_position<1>(c, count, from, factors + o, to + o);
    }
    tile.skip(count);
  }
  for (int64_t i = 0; i < plane_size; i += kLanes) {
    Vector gradient[9];
    transform_sums<kOut>(sums + i, plane_size, gradient);
    for (int k = 0; k < 9; ++k) store(dw + k * plane_size + i, gradient[k]);
  }
}
