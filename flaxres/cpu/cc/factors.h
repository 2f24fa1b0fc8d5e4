// Factors of the products in direct convolutions: float32 numbers, or pairs of bfloat16 numbers.
//
// AVX512-BF16 multiplies two pairs in each lane and adds both products to a float32 sum. This takes
// half as many instructions as products of float32 numbers. Whether it is available is decided when
// the kernels are built, on the machine that runs them.

#pragma once

#include "convolution.h"

static inline Vector multiply_add(Vector sum, float x, Vector y) { return sum + x * y; }

// Factors for images with elements of type Value.
template <class Value>
struct Factors {
  using Factor = float;
  using Gradient = Value;  // factors of output gradients
  static constexpr int kChannels = 1;  // input channels in a factor of the convolution
  static constexpr int kPixels = 1;    // output pixels in a factor of the kernel's gradient

  // Returns the kernels (models, size, size, in, out) with kChannels input channels in a factor.
  static const float* kernels(const Convolution&, const float* kernel) { return kernel; }

  // Returns zero-padded copies of images, with kChannels input channels in a factor.
  static const float* images(const Convolution& c, const Value* x, int64_t count,
                             const Prologue& prologue) {
    float* padded = scratch<6, float>(count * c.padded_image());
    prologue.pad_images(c, x, count, c.in, padded);
    return padded;
  }

  // Writes zero-padded copies of images, with kPixels pixels in a factor.
  static void pixels(const Convolution& c, const Value* x, int64_t count,
                     const Prologue& prologue, float* to) {
    prologue.pad_images(c, x, count, c.in, to);
  }

  // Returns the gradients of the outputs of images, with kPixels pixels in a factor. `to` is memory
  // for as many factors as `gradient_factors` returns.
  static int64_t gradient_factors(const Convolution&, int64_t) { return 0; }
  static const Value* gradients(const Convolution&, const Value* dy, int64_t, Factor*) {
    return dy;
  }
};

#if defined(FLAXRES_AVX512BF16)
struct Pair {
  bfloat16 values[2];
};

static inline Bits load(const Pair* p) { return *reinterpret_cast<const Bits*>(p); }
static inline Vector multiply_add(Vector sum, Pair x, Bits y) {
  int32_t pair;
  std::memcpy(&pair, &x, sizeof pair);
  return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)y);
}

static inline HalfBits load_bits(const bfloat16* p) {
  return *reinterpret_cast<const HalfBits*>(p);
}
static inline void store_pairs(Pair* p, HalfBits first, HalfBits second) {
  *reinterpret_cast<Bits*>(p) =
      __builtin_convertvector(first, Bits) | __builtin_convertvector(second, Bits) << 16;
}

template <>
struct Factors<bfloat16> {
  using Factor = Pair;
  using Gradient = Pair;
  static constexpr int kChannels = 2, kPixels = 2;

  static const Pair* kernels(const Convolution& c, const float* kernel) {
    const int64_t pairs = (c.in + 1) / 2, taps = c.models * c.size * c.size;
    Pair* packed = scratch<5, Pair>(taps * pairs * c.out);
    for (int64_t i = 0; i < taps * pairs; ++i) {
      const int64_t channel = i % pairs * 2;
      const float* from = kernel + (i / pairs * c.in + channel) * c.out;
      for (int64_t o = 0; o < c.out; o += kLanes)
        store_pairs(packed + i * c.out + o, to_bfloat16(load(from + o)),
                    channel + 1 < c.in ? to_bfloat16(load(from + c.out + o)) : HalfBits{});
    }
    return packed;
  }

  static const Pair* images(const Convolution& c, const bfloat16* x, int64_t count,
                            const Prologue& prologue) {
    const int64_t channels = (c.in + 1) / 2 * 2;
    bfloat16* padded = scratch<6, bfloat16>(count * c.padded_image() / c.in * channels);
    prologue.pad_images(c, x, count, channels, padded);
    return reinterpret_cast<const Pair*>(padded);
  }

  // Each pixel, together with that `stride` further, which is the input of the next output pixel.
  static void pixels(const Convolution& c, const bfloat16* x, int64_t count,
                     const Prologue& prologue, Pair* to) {
    const int64_t values = count * c.padded_image(), step = c.stride * c.in;
    bfloat16* padded = scratch<6, bfloat16>(values + step + kLanes);
    prologue.pad_images(c, x, count, c.in, padded);
    std::fill(padded + values, padded + values + step + kLanes, bfloat16{0});
    for (int64_t i = 0; i < values; i += kLanes)
      store_pairs(to + i, load_bits(padded + i), load_bits(padded + i + step));
  }

  // Adjacent pixels of a row; the last is paired with 0 if their number is odd.
  static int64_t gradient_factors(const Convolution& c, int64_t count) {
    return count * c.out_height * ((c.out_width + 1) / 2) * c.out;
  }
  static const Pair* gradients(const Convolution& c, const bfloat16* dy, int64_t count, Pair* to) {
    const Pair* pairs = to;
    const int64_t rows = count * c.out_height;
    for (int64_t h = 0; h < rows; ++h)
      for (int64_t w = 0; w < c.out_width; w += 2) {
        const bfloat16 *first = dy + (h * c.out_width + w) * c.out, *second = first + c.out;
        for (int64_t o = 0; o < c.out; o += kLanes, to += kLanes)
          store_pairs(to, load_bits(first + o),
                      w + 1 < c.out_width ? load_bits(second + o) : HalfBits{});
      }
    return pairs;
  }
};
#endif
