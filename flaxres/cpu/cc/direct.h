// Direct convolutions and kernel gradients, for any kernel size, stride and dilation.

#pragma once

#include "factors.h"

// Number of output pixels, and of floats of padded images, that a thread processes at a time in a
// kernel gradient.
constexpr int64_t kPixelsAtATime = 128, kCachedFloats = 1 << 13;

// Contiguous values of the padded image, at offset x, and the contiguous weights that multiply
// them.
struct Run {
  int64_t x, weights, length;
};

// Returns the values under the kernel at the output pixel (h, w), where h and w are below
// `dilation`. The zeros between pixels are skipped. For an output pixel `dilation` further, all
// values are `stride` pixels further.
static std::vector<Run> runs_at(const Convolution& c, int64_t h, int64_t w) {
  std::vector<Run> runs;
  for (int64_t i = 0; i < c.size; ++i)
    for (int64_t j = 0; j < c.size; ++j) {
      const int64_t row = h + i - c.pad, column = w + j - c.pad;  // negative in the padding
      if (row % c.dilation || column % c.dilation) continue;
      const int64_t x = (row / c.dilation + c.pad) * c.row() + (column / c.dilation + c.pad) * c.in;
      const int64_t weights = (i * c.size + j) * c.in * c.out;
      if (c.dilation == 1 && j)
        runs.back().length += c.in;
      else
        runs.push_back({x, weights, c.in});
    }
  return runs;
}

// Computes kRows by kColumns output pixels in kVectors * kLanes channels. kStep is the distance of
// the inputs of adjacent pixels if it is known at compile time, which saves address arithmetic, or
// 0.
template <int kRows, int kColumns, int kVectors, int kStep, class Factor, class Value>
static inline void forward_tile(const Convolution& c, const std::vector<Run>& runs,
                                const Factor* x, const Factor* weights, Value* y) {
  const int64_t step = kStep ? kStep : c.stride * c.in, row = c.stride * c.row(), out = c.out;
  Vector sum[kRows][kColumns][kVectors] = {};
  for (const Run& run : runs) {
    const Factor *from = x + run.x, *kernel = weights + run.weights;
    for (int64_t j = 0; j < run.length; ++j, ++from, kernel += out) {
      decltype(load(kernel)) w[kVectors];
      for (int v = 0; v < kVectors; ++v) w[v] = load(kernel + v * kLanes);
      for (int h = 0; h < kRows; ++h)
        for (int p = 0; p < kColumns; ++p)
          for (int v = 0; v < kVectors; ++v)
            sum[h][p][v] = multiply_add(sum[h][p][v], from[h * row + p * step], w[v]);
    }
  }
  for (int h = 0; h < kRows; ++h)
    for (int p = 0; p < kColumns; ++p)
      for (int v = 0; v < kVectors; ++v)
        store(y + (h * c.out_width + p) * c.dilation * out + v * kLanes, sum[h][p][v]);
}

// Computes kRows output rows of `pixels` pixels each, which are `dilation` pixels apart.
template <int kRows, int kColumns, int kVectors, int kStep, class Factor, class Value>
static void forward_rows(const Convolution& c, const std::vector<Run>& runs, int64_t pixels,
                         const Factor* x, const Factor* weights, Value* y) {
  const int64_t step = c.stride * c.in, out_step = c.dilation * c.out;
  int64_t w = 0;
  for (; w + kColumns <= pixels; w += kColumns)
    forward_tile<kRows, kColumns, kVectors, kStep>(c, runs, x + w * step, weights,
                                                   y + w * out_step);
  for (; w < pixels; ++w)
    forward_tile<kRows, 1, kVectors, 0>(c, runs, x + w * step, weights, y + w * out_step);
}

// Computes one or two vectors of channels of an image, for every `dilation`-th pixel and row.
template <int kVectors, class Factor, class Value>
static void forward_channels(const Convolution& c, const std::vector<Run>& runs, int64_t rows,
                             int64_t pixels, const Factor* x, const Factor* weights, Value* y) {
  constexpr int kMaxColumns = kTile / kVectors;
  const int64_t step = c.stride * c.in;
  const bool is_wide = pixels >= kMaxColumns, is_medium = pixels >= 4;
  const auto one_row = !is_medium   ? forward_rows<1, 2, kVectors, 0, Factor, Value>
                       : !is_wide   ? forward_rows<1, 4, kVectors, 0, Factor, Value>
                       : step == 8  ? forward_rows<1, kMaxColumns, kVectors, 8, Factor, Value>
                       : step == 16 ? forward_rows<1, kMaxColumns, kVectors, 16, Factor, Value>
                       : step == 32 ? forward_rows<1, kMaxColumns, kVectors, 32, Factor, Value>
                       : step == 64 ? forward_rows<1, kMaxColumns, kVectors, 64, Factor, Value>
                                    : forward_rows<1, kMaxColumns, kVectors, 0, Factor, Value>;
  constexpr int kRows = kMaxColumns / 4;
  const auto several_rows = is_wide     ? one_row
                            : is_medium ? forward_rows<kRows, 4, kVectors, 0, Factor, Value>
                                        : forward_rows<2, 2, kVectors, 0, Factor, Value>;
  const int64_t count = is_wide ? 1 : is_medium ? kRows : 2;  // rows of `several_rows`
  const int64_t x_step = c.stride * c.row(), y_step = c.dilation * c.out_width * c.out;
  int64_t h = 0;
  for (; h + count <= rows; h += count)
    several_rows(c, runs, pixels, x + h * x_step, weights, y + h * y_step);
  for (; h < rows; ++h) one_row(c, runs, pixels, x + h * x_step, weights, y + h * y_step);
}

// Convolves one padded image.
template <class Factor, class Value>
static void forward_image(const Convolution& c, const Factor* padded, const Factor* weights,
                          Value* y) {
  for (int64_t phase = 0; phase < c.dilation * c.dilation; ++phase) {
    const int64_t h = phase / c.dilation, w = phase % c.dilation;
    const auto runs = runs_at(c, h, w);
    const int64_t rows = (c.out_height - h + c.dilation - 1) / c.dilation;
    const int64_t pixels = (c.out_width - w + c.dilation - 1) / c.dilation;
    Value* to = y + (h * c.out_width + w) * c.out;
    int64_t o = 0;
    for (; o + 2 * kLanes <= c.out; o += 2 * kLanes)
      forward_channels<2>(c, runs, rows, pixels, padded, weights + o, to + o);
    for (; o < c.out; o += kLanes)
      forward_channels<1>(c, runs, rows, pixels, padded, weights + o, to + o);
  }
}

// Output rows of several images, over which the gradient of the kernel is summed. x and dy point to
// the first factors, of the input and the output gradient. A row has `columns` factors for each
// channel, whose inputs are `step` apart.
template <class Factor, class Gradient>
struct Part {
  int64_t images, rows, columns, step;
  const Factor* x;
  const Gradient* dy;
};

// Adds the sums over a part to kInputs * kVectors * kLanes elements of the kernel gradient. Elements
// of two adjacent inputs are `out` floats apart.
template <int kInputs, int kVectors, class Factor, class Gradient>
static inline void kernel_tile(const Convolution& c, const Part<Factor, Gradient>& part,
                               int64_t x_offset, int64_t dy_offset, int64_t out, float* dw) {
  const int64_t row = c.stride * c.row(), out_image = c.out_height * part.columns * c.out;
  Vector sum[kInputs][kVectors];
  for (int j = 0; j < kInputs; ++j)
    for (int v = 0; v < kVectors; ++v) sum[j][v] = load(dw + j * out + v * kLanes);
  for (int64_t n = 0; n < part.images; ++n) {
    const Gradient* dy = part.dy + n * out_image + dy_offset;
    for (int64_t h = 0; h < part.rows; ++h) {
      const Factor* x = part.x + n * c.padded_image() + h * row + x_offset;
      for (int64_t w = 0; w < part.columns; ++w, x += part.step, dy += c.out) {
        decltype(load(dy)) d[kVectors];
        for (int v = 0; v < kVectors; ++v) d[v] = load(dy + v * kLanes);
        for (int j = 0; j < kInputs; ++j)
          for (int v = 0; v < kVectors; ++v) sum[j][v] = multiply_add(sum[j][v], x[j], d[v]);
      }
    }
  }
  for (int j = 0; j < kInputs; ++j)
    for (int v = 0; v < kVectors; ++v) store(dw + j * out + v * kLanes, sum[j][v]);
}

// Adds the sums over a part to `length` inputs of the kernel gradient, from offset x, in one or two
// vectors of filters from o. dw points to the first of these elements; those of two adjacent inputs
// are `out` floats apart.
template <int kVectors, class Factor, class Gradient>
static void kernel_inputs(const Convolution& c, const Part<Factor, Gradient>& part, int64_t x,
                          int64_t length, int64_t o, int64_t out, float* dw) {
  // A row of the first layer's kernel has 9 inputs, or 3 if the images have one channel.
  constexpr int kMaxInputs = kTile / kVectors, kFewInputs = kVectors == 1 ? 9 : 4;
  int64_t j = 0;
  for (; j + kMaxInputs <= length; j += kMaxInputs)
    kernel_tile<kMaxInputs, kVectors>(c, part, x + j, o, out, dw + j * out);
  for (; j + kFewInputs <= length; j += kFewInputs)
    kernel_tile<kFewInputs, kVectors>(c, part, x + j, o, out, dw + j * out);
  for (; j + 3 <= length; j += 3)
    kernel_tile<3, kVectors>(c, part, x + j, o, out, dw + j * out);
  for (; j < length; ++j) kernel_tile<1, kVectors>(c, part, x + j, o, out, dw + j * out);
}

// Splits the output rows of several images, given as factors, so that a part stays in the
// first-level cache while the whole kernel is updated. Runs use(part) for each part, in order.
template <int kPixels, class Factor, class Gradient, class Use>
static void each_part(const Convolution& c, int64_t images, const Factor* x, const Gradient* dy,
                      Use use) {
  const int64_t columns = (c.out_width + kPixels - 1) / kPixels;
  const int64_t max_rows = std::max<int64_t>(1, kPixelsAtATime / c.out_width);
  for (int64_t h = 0; h < c.out_height; h += max_rows)
    use(Part<Factor, Gradient>{images, std::min(max_rows, c.out_height - h), columns,
                               kPixels * c.stride * c.in, x + h * c.stride * c.row(),
                               dy + h * columns * c.out});
}

// Returns the number of images that a thread processes at a time in a kernel gradient: as many as
// the cache holds.
static int64_t images_at_a_time(const Convolution& c) {
  return std::max<int64_t>(1, kCachedFloats / c.padded_image());
}

// Adds the contribution of several images to the gradient of the kernel.
template <class Value>
static void kernel_images(const Convolution& c, int64_t images, const Value* x,
                          const Prologue& prologue, const Value* dy, float* dw) {
  using F = Factors<Value>;
  auto* padded = scratch<7, typename F::Factor>(images * c.padded_image() + kLanes);
  F::pixels(c, x, images, prologue, padded);
  auto* memory = scratch<8, typename F::Factor>(F::gradient_factors(c, images));
  each_part<F::kPixels>(c, images, padded, F::gradients(c, dy, images, memory), [&](auto part) {
    const int64_t row = c.size * c.in;
    for (int64_t i = 0; i < c.size; ++i, dw += row * c.out) {
      int64_t o = 0;
      for (; o + 2 * kLanes <= c.out; o += 2 * kLanes)
        kernel_inputs<2>(c, part, i * c.row(), row, o, c.out, dw + o);
      for (; o < c.out; o += kLanes)
        kernel_inputs<1>(c, part, i * c.row(), row, o, c.out, dw + o);
    }
    dw -= c.kernel();
  });
}
