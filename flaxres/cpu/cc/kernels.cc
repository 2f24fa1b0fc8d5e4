// Convolutions and batch norm for XLA on a CPU, in float32 and NHWC, called through XLA's FFI.
//
// XLA's own CPU convolutions take 2 to 5 times as long on the small images and few channels of the
// CIFAR models, most of all for the gradient of the kernel. Here each image is copied once into a
// zero-padded buffer that stays in the cache, so that inner loops need no border checks. Each inner
// loop keeps a tile of results in registers.
//
// With vmap over several models, every array has an additional leading axis, called `models` below.
//
// Each task writes to its own memory, and sums over tasks are computed in the order of the tasks.
// Results therefore do not depend on the number of threads or their timing.

#include "direct.h"
#include "norm.h"
#include "winograd.h"

// Number of floats in the padded images that a thread processes at a time.
constexpr int64_t kCachedFloats = 1 << 13;

// Convolves all images, with the Winograd algorithm if it supports the convolution.
static void convolve_images(ffi::ThreadPool& pool, const Convolution& c, const float* x,
                            const Prologue& prologue, const float* kernel, float* y) {
  if (!supports_winograd(c)) {
    parallel(pool, c.models * c.images, [=](int64_t i) {
      const float* padded = prologue.pad_images(c, x, i, 1);
      forward_image(c, padded, kernel + i / c.images * c.kernel(), y + i * c.out_image());
    });
    return;
  }
  const int64_t transformed = kPositions * c.in * c.out;
  const std::unique_ptr<float[]> memory(new float[c.models * transformed]);
  parallel(pool, c.models * c.in, [=, u = memory.get()](int64_t i) {
    transform_kernel(c, kernel + i / c.in * c.kernel(), i % c.in, u + i / c.in * transformed);
  });
  const int64_t max_images = std::max<int64_t>(1, kTilesPerBlock / Tile(c).per_image());
  const int64_t tasks = std::min(2 * kParts, c.images);
  parallel(pool, c.models * tasks, [=, u = memory.get()](int64_t task) {
    const int64_t model = task / tasks, part = task % tasks, first = model * c.images;
    const int64_t end = first + (part + 1) * c.images / tasks;
    for (int64_t i = first + part * c.images / tasks; i < end; i += max_images) {
      const int64_t images = std::min(max_images, end - i);
      const float* padded = prologue.pad_images(c, x, i, images);
      winograd_images(c, images, padded, x + (i + images) * c.image(), u + model * transformed,
                      y + i * c.out_image());
    }
  });
}

// Computes y = x * kernel, or ReLU(x * scale + shift) * kernel if scale and shift are not empty.
static void convolve(ffi::ThreadPool& pool, const Call& call) {
  const Array x = call.array(0), kernel = call.array(1), y = call.result(0);
  const Convolution c(x.dimensions(), kernel.dimensions(), y.dimensions(), call.integer("stride"),
                      call.integer("pad"), 1);
  convolve_images(pool, c, x.typed_data(), Prologue(call.array(2), call.array(3)),
                  kernel.typed_data(), y.typed_data());
}
FLAXRES_FUNCTION(convolve);

// Computes the gradient of the input: a convolution of dy with the kernel rotated by 180 degrees.
static void input_gradient(ffi::ThreadPool& pool, const Call& call) {
  const Array dy = call.array(0), kernel = call.array(1), dx = call.result(0);
  const int64_t size = (kernel.dimensions().end() - 4)[0];
  const Convolution c(dy.dimensions(), kernel.dimensions(), dx.dimensions(), 1,
                      size - 1 - call.integer("pad"), call.integer("stride"));
  const int64_t taps = size * size, tap = c.in * c.out;
  std::vector<float> memory(c.models * c.kernel());
  const float* from = kernel.typed_data();
  parallel(pool, c.models * taps, [=, to = memory.data()](int64_t i) {
    float* rotated = to + (i / taps * taps + taps - 1 - i % taps) * tap;
    for (int64_t o = 0; o < c.in; ++o)
      for (int64_t k = 0; k < c.out; ++k) *rotated++ = from[i * tap + k * c.in + o];
  });
  convolve_images(pool, c, dy.typed_data(), Prologue(), memory.data(), dx.typed_data());
}
FLAXRES_FUNCTION(input_gradient);

// Computes the gradient of the kernel. Scale and shift of x are those of `convolve`.
static void kernel_gradient(ffi::ThreadPool& pool, const Call& call) {
  const Array x = call.array(0), dy = call.array(1), dw = call.result(0);
  const Convolution c(x.dimensions(), dw.dimensions(), dy.dimensions(), call.integer("stride"),
                      call.integer("pad"), 1);
  const float *from = x.typed_data(), *gradient = dy.typed_data();
  const bool winograd = supports_winograd(c);
  const int64_t parts = std::min(kParts, c.images);
  // As many images at a time as the cache holds.
  const int64_t max_images = std::max<int64_t>(1, kCachedFloats / c.padded_image());
  const std::unique_ptr<float[]> memory(new float[c.models * parts * c.kernel()]);
  float* sums = memory.get();
  const Prologue prologue(call.array(2), call.array(3));
  parallel(pool, c.models * parts, [=](int64_t task) {
    float* partial = sums + task * c.kernel();
    float* transformed = winograd ? scratch<2>(kPositions * c.in * c.out) : nullptr;
    if (winograd)
      std::fill(transformed, transformed + kPositions * c.in * c.out, 0.0f);
    else
      std::fill(partial, partial + c.kernel(), 0.0f);
    const int64_t first = task / parts * c.images, part = task % parts;
    const int64_t end = first + (part + 1) * c.images / parts;
    for (int64_t i = first + part * c.images / parts; i < end; i += max_images) {
      const int64_t images = std::min(max_images, end - i);
      const float* padded = prologue.pad_images(c, from, i, images);
      if (winograd)
        winograd_sums(c, images, padded, from + (i + images) * c.image(),
                      gradient + i * c.out_image(), transformed);
      else
        kernel_images(c, images, padded, gradient + i * c.out_image(), partial);
    }
    if (winograd) winograd_gradient(c, transformed, partial);
  });
  const int64_t rows = c.models * c.size, row = c.kernel() / c.size;
  parallel(pool, rows, [=, to = dw.typed_data()](int64_t i) {
    const float* partial = sums + i / c.size * parts * c.kernel() + i % c.size * row;
    std::copy(partial, partial + row, to + i * row);
    for (int64_t part = 1; part < parts; ++part)
      for (int64_t k = 0; k < row; ++k) to[i * row + k] += partial[part * c.kernel() + k];
  });
}
FLAXRES_FUNCTION(kernel_gradient);

// Returns the vector length of this build. Numbers of output channels must be a multiple of it.
extern "C" int flaxres_lanes() { return kLanes; }
