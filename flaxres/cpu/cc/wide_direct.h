// Direct kernel gradients for kernels that do not fit in the cache, as matrix products (panels.h).
//
// Every sum has the order of direct.h, so both files compute the same bits.

#pragma once

#include "direct.h"
#include "panels.h"

// Least size of a kernel for which this file is faster.
constexpr int64_t kWideKernel = 1 << 17;

// Returns true if the functions of this file are to be used for a convolution. direct.h sums over
// the rows of one image before those of the next, if an image has one part or is read by itself.
static bool has_wide_kernel(const Convolution& c) {
  return c.kernel() >= kWideKernel && c.in % kInputPanel == 0 && c.out % kOutputPanel == 0 &&
         (c.out_height * c.out_width <= kPixelsAtATime || images_at_a_time(c) == 1);
}

// Computes the gradient of the kernel of one model. The images are summed in `parts`, in order.
template <class Value>
static void wide_kernel_gradient(const ThreadPool& pool, const Convolution& c, int64_t parts,
                                 const Value* x, const Prologue& prologue, const Value* dy,
                                 float* dw) {
  using F = Factors<Value>;
  using Factor = typename F::Factor;
  const int64_t columns = (c.out_width + F::kPixels - 1) / F::kPixels;
  const int64_t pixels = c.out_height * columns, taps = c.size * c.size;
  const auto pack = [&](int64_t first, int64_t images, const Layout& x_layout, Factor* to,
                        const Layout& dy_layout, auto* dy_to) {
    parallel(pool, images, [=, &c](int64_t image) {
      Factor* padded = scratch<7, Factor>(c.padded_image() + kLanes);
      F::pixels(c, x + (first + image) * c.image(), 1, prologue, padded);
      Factor* memory = scratch<8, Factor>(F::gradient_factors(c, 1));
      const auto* gradients = F::gradients(c, dy + (first + image) * c.out_image(), 1, memory);
      for (int64_t p = 0; p < pixels; ++p) {
        const int64_t pixel = image * pixels + p;
        const Factor* from = padded + p / columns * c.stride * c.row() +
                             p % columns * F::kPixels * c.stride * c.in;
        for (int64_t tap = 0; tap < taps; ++tap) {
          const Factor* inputs = from + tap / c.size * c.row() + tap % c.size * c.in;
          Factor* packed = to + tap * x_layout.position + pixel * kInputPanel;
          for (int64_t k = 0; k < c.in; k += kInputPanel, packed += x_layout.panel)
            std::copy(inputs + k, inputs + k + kInputPanel, packed);
        }
        auto* packed = dy_to + pixel * kOutputPanel;
        for (int64_t k = 0; k < c.out; k += kOutputPanel, packed += dy_layout.panel)
          std::copy(gradients + p * c.out + k, gradients + p * c.out + k + kOutputPanel, packed);
      }
    });
  };
  const auto add = [&](int64_t part, int64_t i, int64_t o, const float* sums) {
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t j = 0; j < kInputPanel; ++j, sums += kOutputPanel) {
        float* to = dw + (tap * c.in + i + j) * c.out + o;
        for (int64_t k = 0; k < kOutputPanel; k += kLanes)
          store(to + k, part ? load(to + k) + load(sums + k) : load(sums + k));
      }
  };
  panel_gradient<Factor, typename F::Gradient>(pool, c, parts, taps, true, pixels, pack, add);
}
