// Convolutions and gradients of kernels as their definitions say, for any size, stride and dilation.

#pragma once

#include "convolution.h"

// Pixels of results that a thread works on at a time.
constexpr int64_t kNear = 128;

// Numbers of the padded image that lie together, as do the weights that they are multiplied by.
struct Run {
  int64_t x, weights, length;
};

// What lies under the kernel at the pixel (h, w) of the result, h and w below `dilation`: zeros
// between pixels are left out. For a pixel `dilation` further it is `stride` pixels further.
static std::vector<Run> runs_at(const Convolution& c, int64_t h, int64_t w) {
  std::vector<Run> runs;
  for (int64_t i = 0; i < c.size; ++i)
    for (int64_t j = 0; j < c.size; ++j) {
      const int64_t above = h + i - c.pad, left = w + j - c.pad;  // negative in the border
      if (above % c.dilation || left % c.dilation) continue;
      const int64_t x = (above / c.dilation + c.pad) * c.row() + (left / c.dilation + c.pad) * c.in;
      const int64_t weights = (i * c.size + j) * c.in * c.out;
      if (c.dilation == 1 && j)
        runs.back().length += c.in;
      else
        runs.push_back({x, weights, c.in});
    }
  return runs;
}

// A tile of kRows by kColumns results in kVectors * kLanes channels. kStep is the distance of inputs
// in a row where it is known (not 0), which spares most of the address arithmetic.
template <int kRows, int kColumns, int kVectors, int kStep>
static inline void forward_tile(const Convolution& c, const std::vector<Run>& runs, const float* x,
                                const float* weights, float* y) {
  const int64_t step = kStep ? kStep : c.stride * c.in, row = c.stride * c.row(), out = c.out;
  Vector sum[kRows][kColumns][kVectors] = {};
  for (const Run& run : runs) {
    const float *from = x + run.x, *kernel = weights + run.weights;
    for (int64_t j = 0; j < run.length; ++j, ++from, kernel += out) {
      Vector w[kVectors];
      for (int v = 0; v < kVectors; ++v) w[v] = load(kernel + v * kLanes);
      for (int h = 0; h < kRows; ++h)
        for (int p = 0; p < kColumns; ++p)
          for (int v = 0; v < kVectors; ++v) sum[h][p][v] += from[h * row + p * step] * w[v];
    }
  }
  for (int h = 0; h < kRows; ++h)
    for (int p = 0; p < kColumns; ++p)
      for (int v = 0; v < kVectors; ++v)
        store(y + (h * c.out_width + p) * c.dilation * out + v * kLanes, sum[h][p][v]);
}

// kRows rows of results, or every `dilation`-th of their pixels, which are `pixels` in a row.
template <int kRows, int kColumns, int kVectors, int kStep>
static void forward_rows(const Convolution& c, const std::vector<Run>& runs, int64_t pixels,
                         const float* x, const float* weights, float* y) {
  const int64_t step = c.stride * c.in, out_step = c.dilation * c.out;
  int64_t w = 0;
  for (; w + kColumns <= pixels; w += kColumns)
    forward_tile<kRows, kColumns, kVectors, kStep>(c, runs, x + w * step, weights,
                                                   y + w * out_step);
  for (; w < pixels; ++w)
    forward_tile<kRows, 1, kVectors, 0>(c, runs, x + w * step, weights, y + w * out_step);
}

// One vector of channels, or two, of an image, or of every `dilation`-th pixel and row of it.
template <int kVectors>
static void forward_channels(const Convolution& c, const std::vector<Run>& runs, int64_t rows,
                             int64_t pixels, const float* x, const float* weights, float* y) {
  constexpr int kMost = kTile / kVectors;
  const int64_t step = c.stride * c.in;
  const bool wide = pixels >= kMost, middle = pixels >= 4;
  const auto one = !middle       ? forward_rows<1, 2, kVectors, 0>
                   : !wide       ? forward_rows<1, 4, kVectors, 0>
                   : step == 32  ? forward_rows<1, kMost, kVectors, 32>
                   : step == 64  ? forward_rows<1, kMost, kVectors, 64>
                                 : forward_rows<1, kMost, kVectors, 0>;
  const auto several = wide     ? one
                       : middle ? forward_rows<kMost / 4, 4, kVectors, 0>
                                : forward_rows<2, 2, kVectors, 0>;
  const int64_t most = wide ? 1 : middle ? kMost / 4 : 2;
  const int64_t x_step = c.stride * c.row(), y_step = c.dilation * c.out_width * c.out;
  int64_t h = 0;
  for (; h + most <= rows; h += most)
    several(c, runs, pixels, x + h * x_step, weights, y + h * y_step);
  for (; h < rows; ++h) one(c, runs, pixels, x + h * x_step, weights, y + h * y_step);
}

static void forward_image(const Convolution& c, const float* padded, const float* weights,
                          float* y) {
  for (int64_t first = 0; first < c.dilation * c.dilation; ++first) {
    const int64_t h = first / c.dilation, w = first % c.dilation;
    const auto runs = runs_at(c, h, w);
    const int64_t rows = (c.out_height - h + c.dilation - 1) / c.dilation;
    const int64_t pixels = (c.out_width - w + c.dilation - 1) / c.dilation;
    float* to = y + (h * c.out_width + w) * c.out;
    int64_t o = 0;
    for (; o + 2 * kLanes <= c.out; o += 2 * kLanes)
      forward_channels<2>(c, runs, rows, pixels, padded, weights + o, to + o);
    for (; o < c.out; o += kLanes)
      forward_channels<1>(c, runs, rows, pixels, padded, weights + o, to + o);
  }
}

// Some rows of the results of some images, over which the kernel's gradient is a sum; x and dy are
// those of the first pixel.
struct Part {
  int64_t images, rows;
  const float *x, *dy;
};

// Adds a part's sums to kInputs * kVectors * kLanes numbers of the kernel's gradient.
template <int kInputs, int kVectors>
static inline void kernel_tile(const Convolution& c, const Part& part, int64_t x_offset,
                               int64_t dy_offset, float* dw) {
  const int64_t step = c.stride * c.in, row = c.stride * c.row();
  Vector sum[kInputs][kVectors];
  for (int j = 0; j < kInputs; ++j)
    for (int v = 0; v < kVectors; ++v) sum[j][v] = load(dw + j * c.out + v * kLanes);
  for (int64_t n = 0; n < part.images; ++n) {
    const float* dy = part.dy + n * c.out_image() + dy_offset;
    for (int64_t h = 0; h < part.rows; ++h) {
      const float* x = part.x + n * c.padded_image() + h * row + x_offset;
      for (int64_t w = 0; w < c.out_width; ++w, x += step, dy += c.out) {
        Vector d[kVectors];
        for (int v = 0; v < kVectors; ++v) d[v] = load(dy + v * kLanes);
        for (int j = 0; j < kInputs; ++j)
          for (int v = 0; v < kVectors; ++v) sum[j][v] += x[j] * d[v];
      }
    }
  }
  for (int j = 0; j < kInputs; ++j)
    for (int v = 0; v < kVectors; ++v) store(dw + j * c.out + v * kLanes, sum[j][v]);
}

// One row of the kernel, for one vector of channels or two.
template <int kVectors>
static void kernel_row(const Convolution& c, const Part& part, int64_t i, int64_t o, float* dw) {
  constexpr int kMost = kTile / kVectors;
  const int64_t length = c.size * c.in, x = i * c.row();
  dw += i * length * c.out + o;
  int64_t j = 0;
  for (; j + kMost <= length; j += kMost)
    kernel_tile<kMost, kVectors>(c, part, x + j, o, dw + j * c.out);
  for (; j + 4 <= length; j += 4) kernel_tile<4, kVectors>(c, part, x + j, o, dw + j * c.out);
  for (; j < length; ++j) kernel_tile<1, kVectors>(c, part, x + j, o, dw + j * c.out);
}

// Adds the part of some padded images to the gradient of the kernel.
static void kernel_images(const Convolution& c, int64_t images, const float* padded,
                          const float* dy, float* dw) {
  // So few rows at a time that they stay in the nearest cache while all of the kernel is gone over.
  const int64_t most = std::max<int64_t>(1, kNear / c.out_width);
  for (int64_t h = 0; h < c.out_height; h += most) {
    const Part part{images, std::min(most, c.out_height - h), padded + h * c.stride * c.row(),
                    dy + h * c.out_width * c.out};
    for (int64_t i = 0; i < c.size; ++i) {
      int64_t o = 0;
      for (; o + 2 * kLanes <= c.out; o += 2 * kLanes) kernel_row<2>(c, part, i, o, dw);
      for (; o < c.out; o += kLanes) kernel_row<1>(c, part, i, o, dw);
    }
  }
}
