// Sizes of a convolution, and the padded copies of images that it reads.

#pragma once

#include <memory>
#include <vector>

#include "common.h"

// A convolution of `images` images (height, width, in) to (out_height, out_width, out) with a
// square kernel (size, size, in, out). The image is padded with `pad` zeros on each side and has
// `dilation - 1` zeros between adjacent pixels. Stride or dilation is 1. With vmap there are
// several `models`, each with its own images and kernel; otherwise one.
struct Convolution {
  int64_t models, images, height, width, in, out_height, out_width, out;
  int64_t size, stride, pad, dilation;

  Convolution(Dimensions x, Dimensions kernel,
              Dimensions y, int64_t stride, int64_t pad, int64_t dilation)
      : stride(stride), pad(pad), dilation(dilation) {
    const int64_t* d = x.end() - 4;
    models = x.product_before_last(4);
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
};

// Memory of whole cache lines, so that no vector lies across two of them.
struct alignas(64) Line {
  char bytes[64];
};

// Returns memory of this thread for `count` values, separate for each kUse. It still holds the
// values of the last call.
template <int kUse, class Value = float>
static Value* scratch(int64_t count) {
  thread_local std::vector<Line> memory;
  const size_t lines = (count * sizeof(Value) + sizeof(Line) - 1) / sizeof(Line);
  if (memory.size() < lines) memory.resize(lines);
  return reinterpret_cast<Value*>(memory.data());
}

// Memory of one call for `count` floats.
class CallMemory {
 public:
  explicit CallMemory(int64_t count) : lines_(new Line[count * sizeof(float) / sizeof(Line) + 1]) {}
  float* data() const { return reinterpret_cast<float*>(lines_.get()); }

 private:
  std::unique_ptr<Line[]> lines_;
};

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
  // Writes zero-padded copies of `count` images to `to`. Each pixel has `channels` values, of which
  // the first c.in are the normalized values of the image and the others 0.
  template <class Value, class To>
  void pad_images(const Convolution& c, const Value* x, int64_t count, int64_t channels,
                  To* to) const {
    const int64_t columns = c.padded(c.width, c.out_width), row = columns * channels;
    const int64_t rows = c.padded(c.height, c.out_height);
    for (int64_t r = 0; r < count * rows; ++r, to += row) {
      const int64_t h = r % rows - c.pad;
      if (h < 0 || h >= c.height || channels != c.in) std::fill(to, to + row, To{});
      if (h < 0 || h >= c.height) continue;
      To* pixels = to + c.pad * channels;
      std::fill(to, pixels, To{});
      std::fill(pixels + c.width * channels, to + row, To{});
      if (c.in % kLanes)
        for (int64_t w = 0; w < c.width; ++w)
          for (int64_t k = 0; k < c.in; ++k) convert(x[w * c.in + k], pixels[w * channels + k]);
      else
        for (int64_t k = 0; k < c.in; k += kLanes) {
          const auto normalize = at(k);
          for (int64_t i = k; i < c.width * c.in; i += c.in)
            store(pixels + i, normalize(load(x + i)));
        }
      x += c.width * c.in;
    }
  }
};

// Places of factors or products (position, panel, pixel, channel): panels of `channels` channels are
// `panel` floats apart, and positions `position` floats.
struct Layout {
  int64_t position, channels, panel;

  // Returns the offset of channel k at the first position and pixel.
  int64_t channel(int64_t k) const { return k / channels * panel + k % channels; }
};
