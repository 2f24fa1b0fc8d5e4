// Sizes of a convolution, and the padded copies of images that it reads.

#pragma once

#include <vector>

#include "common.h"

// A convolution of `images` images (height, width, in) to (out_height, out_width, out) with a
// square kernel (size, size, in, out). The image is padded with `pad` zeros on each side and has
// `dilation - 1` zeros between adjacent pixels. Stride or dilation is 1. With vmap there are
// several `models`, each with its own images and kernel; otherwise one.
struct Convolution {
  int64_t models, images, height, width, in, out_height, out_width, out;
  int64_t size, stride, pad, dilation;

  Convolution(ffi::Span<const int64_t> x, ffi::Span<const int64_t> kernel,
              ffi::Span<const int64_t> y, int64_t stride, int64_t pad, int64_t dilation)
      : stride(stride), pad(pad), dilation(dilation) {
    const int64_t* d = x.end() - 4;
    models = x.size() == 5 ? x[0] : 1;
    images = d[0], height = d[1], width = d[2], in = d[3];
    d = y.end() - 4;
    out_height = d[1], out_width = d[2], out = d[3];
    size = (kernel.end() - 4)[0];
  }

  int64_t padded(int64_t length, int64_t out_length) const {
    return std::max(length + 2 * pad, ((out_length - 1) * stride + size) / dilation + 1 + pad);
  }
  int64_t row() const { return padded(width, out_width) * in; }  // floats of a padded row
  int64_t image() const { return height * width * in; }
  int64_t out_image() const { return out_height * out_width * out; }
  int64_t kernel() const { return size * size * in * out; }

  int64_t padded_image() const { return padded(height, out_height) * row(); }

  // Copies `count` consecutive images as floats into this thread's zero-padded buffer. With `scale`
  // and `shift` (one value per channel) it copies ReLU(x * scale + shift).
  template <class Value>
  const float* pad_images(const Value* x, int64_t count, const float* scale = nullptr,
                          const float* shift = nullptr) const {
    thread_local std::vector<float> buffer;
    buffer.assign(count * padded_image(), 0.0f);
    for (int64_t n = 0; n < count; ++n)
      for (int64_t h = 0; h < height; ++h, x += width * in) {
        float* to = &buffer[n * padded_image() + (h + pad) * row() + pad * in];
        if (scale == nullptr) {
          for (int64_t k = 0; k < width * in; ++k) to[k] = to_float(x[k]);
          continue;
        }
        for (int64_t i = 0; i < in; i += kLanes) {
          const Vector a = load(scale + i), b = load(shift + i);
          for (int64_t k = i; k < width * in; k += in) {
            const Vector v = load(x + k) * a + b;
            store(to + k, v > 0 ? v : Vector{});
          }
        }
      }
    return buffer.data();
  }
};

// Memory of whole cache lines, so that no vector lies across two of them.
struct alignas(64) Line {
  float values[16];
};
inline int64_t lines(int64_t floats) { return (floats + 15) / 16; }

// Returns memory of this thread, separate for each kUse. It still holds the values of the last
// call.
template <int kUse>
static float* scratch(int64_t floats) {
  thread_local std::vector<Line> memory;
  if (static_cast<int64_t>(memory.size()) < lines(floats)) memory.resize(lines(floats));
  return memory.data()->values;
}

// ReLU(x * scale + shift) for the values x of one vector of channels, or x.
struct Normalize {
  bool is_active;
  Vector scale, shift;

  Vector operator()(Vector x) const {
    if (!is_active) return x;
    const Vector y = x * scale + shift;
    return y > 0 ? y : Vector{};
  }
};

// Normalization of the images that a convolution reads: scale and shift of each channel, or null
// pointers for none.
struct Prologue {
  const float *scale = nullptr, *shift = nullptr;

  Prologue() = default;
  Prologue(const Array<float>& scales, const Array<float>& shifts) {
    if (scales.element_count()) scale = scales.data(), shift = shifts.data();
  }
  // Returns the normalization of one of several models.
  Prologue of_model(const Convolution& c, int64_t model) const {
    Prologue result = *this;
    if (scale) result.scale += model * c.in, result.shift += model * c.in;
    return result;
  }
  // Returns the normalization of the channels from k on.
  Normalize at(int64_t k) const {
    return scale ? Normalize{true, load(scale + k), load(shift + k)} : Normalize{false, {}, {}};
  }
  template <class Value>
  const float* pad_images(const Convolution& c, const Value* x, int64_t first,
                          int64_t count) const {
    const int64_t channel = first / c.images * c.in;
    if (scale == nullptr) return c.pad_images(x + first * c.image(), count);
    return c.pad_images(x + first * c.image(), count, scale + channel, shift + channel);
  }
};
