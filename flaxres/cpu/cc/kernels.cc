// Convolutions and batch-norm sums for XLA on a CPU, float32, NHWC; called through XLA's FFI.
//
// XLA's own CPU convolutions take 2 to 5 times as long on the small images and few channels of the
// CIFAR nets, most of all for the gradient of the kernel. Here each image is copied once into a
// zero-padded buffer that stays in the cache, so that no inner loop knows of borders, and each
// inner loop keeps a tile of results in registers.
//
// With a batch of several nets (vmap) every array has one more axis in front, `nets` below.
//
// Each task writes its own memory, and sums over tasks are taken in their order, so results depend
// neither on the number of threads nor on which of them comes first.

#include "direct.h"
#include "norm.h"
#include "winograd.h"

// Floats of padded images that a thread works on at a time.
constexpr int64_t kCached = 1 << 13;

static void convolve_images(ffi::ThreadPool& pool, const Convolution& c, const float* x,
                            const Prologue& prologue, const float* kernel, float* y) {
  if (!has_winograd(c)) {
    parallel(pool, c.nets * c.images, [=](int64_t i) {
      const float* padded = prologue.pad_images(c, x, i, 1);
      forward_image(c, padded, kernel + i / c.images * c.kernel(), y + i * c.out_image());
    });
    return;
  }
  const int64_t transformed = kPlaces * c.in * c.out;
  const std::unique_ptr<float[]> memory(new float[c.nets * transformed]);
  parallel(pool, c.nets * c.in, [=, u = memory.get()](int64_t i) {
    transform_kernel(c, kernel + i / c.in * c.kernel(), i % c.in, u + i / c.in * transformed);
  });
  const int64_t together = std::max<int64_t>(1, kBlock / Tile(c).per_image());
  const int64_t tasks = std::min(2 * kParts, c.images);
  parallel(pool, c.nets * tasks, [=, u = memory.get()](int64_t task) {
    const int64_t net = task / tasks, part = task % tasks, first = net * c.images;
    const int64_t end = first + (part + 1) * c.images / tasks;
    for (int64_t i = first + part * c.images / tasks; i < end; i += together) {
      const int64_t images = std::min(together, end - i);
      const float* padded = prologue.pad_images(c, x, i, images);
      winograd_images(c, images, padded, x + (i + images) * c.image(), u + net * transformed,
                      y + i * c.out_image());
    }
  });
}

// y = x * kernel; with a scale and a shift of x's channels, of ReLU(x * scale + shift).
static void convolve(ffi::ThreadPool& pool, const Call& call) {
  const Array x = call.array(0), kernel = call.array(1), y = call.result(0);
  const Convolution c(x.dimensions(), kernel.dimensions(), y.dimensions(), call.integer("stride"),
                      call.integer("pad"), 1);
  convolve_images(pool, c, x.typed_data(), Prologue(call.array(2), call.array(3)),
                  kernel.typed_data(), y.typed_data());
}
FLAXRES_FUNCTION(convolve);

// The gradient of the input: a convolution of dy with the kernel turned by half a circle.
static void input_gradient(ffi::ThreadPool& pool, const Call& call) {
  const Array dy = call.array(0), kernel = call.array(1), dx = call.result(0);
  const int64_t size = (kernel.dimensions().end() - 4)[0];
  const Convolution c(dy.dimensions(), kernel.dimensions(), dx.dimensions(), 1,
                      size - 1 - call.integer("pad"), call.integer("stride"));
  const int64_t taps = size * size, tap = c.in * c.out;
  std::vector<float> memory(c.nets * c.kernel());
  const float* from = kernel.typed_data();
  parallel(pool, c.nets * taps, [=, to = memory.data()](int64_t i) {
    float* turned = to + (i / taps * taps + taps - 1 - i % taps) * tap;
    for (int64_t o = 0; o < c.in; ++o)
      for (int64_t k = 0; k < c.out; ++k) *turned++ = from[i * tap + k * c.in + o];
  });
  convolve_images(pool, c, dy.typed_data(), Prologue(), memory.data(), dx.typed_data());
}
FLAXRES_FUNCTION(input_gradient);

// The gradient of the kernel; scale and shift of x as in `convolve`.
static void kernel_gradient(ffi::ThreadPool& pool, const Call& call) {
  const Array x = call.array(0), dy = call.array(1), dw = call.result(0);
  const Convolution c(x.dimensions(), dw.dimensions(), dy.dimensions(), call.integer("stride"),
                      call.integer("pad"), 1);
  const float *from = x.typed_data(), *gradient = dy.typed_data();
  const bool winograd = has_winograd(c);
  const int64_t parts = std::min(kParts, c.images);
  // Small images go together, as far as the cache holds them.
  const int64_t together = std::max<int64_t>(1, kCached / c.padded_image());
  const std::unique_ptr<float[]> memory(new float[c.nets * parts * c.kernel()]);
  float* sums = memory.get();
  const Prologue prologue(call.array(2), call.array(3));
  parallel(pool, c.nets * parts, [=](int64_t task) {
    float* own = sums + task * c.kernel();
    float* transformed = winograd ? scratch<2>(kPlaces * c.in * c.out) : nullptr;
    if (winograd)
      std::fill(transformed, transformed + kPlaces * c.in * c.out, 0.0f);
    else
      std::fill(own, own + c.kernel(), 0.0f);
    const int64_t first = task / parts * c.images, part = task % parts;
    const int64_t end = first + (part + 1) * c.images / parts;
    for (int64_t i = first + part * c.images / parts; i < end; i += together) {
      const int64_t images = std::min(together, end - i);
      const float* padded = prologue.pad_images(c, from, i, images);
      if (winograd)
        winograd_sums(c, images, padded, from + (i + images) * c.image(),
                      gradient + i * c.out_image(), transformed);
      else
        kernel_images(c, images, padded, gradient + i * c.out_image(), own);
    }
    if (winograd) winograd_gradient(c, transformed, own);
  });
  const int64_t rows = c.nets * c.size, row = c.kernel() / c.size;
  parallel(pool, rows, [=, to = dw.typed_data()](int64_t i) {
    const float* own = sums + i / c.size * parts * c.kernel() + i % c.size * row;
    std::copy(own, own + row, to + i * row);
    for (int64_t part = 1; part < parts; ++part)
      for (int64_t k = 0; k < row; ++k) to[i * row + k] += own[part * c.kernel() + k];
  });
}
FLAXRES_FUNCTION(kernel_gradient);

// The vector length of this build: numbers of channels must be a multiple.
extern "C" int flaxres_lanes() { return kLanes; }
