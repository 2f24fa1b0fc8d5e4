// Convolutions and batch norm for XLA on a CPU, in NHWC, called through XLA's FFI.
//
// XLA's own CPU convolutions take 2 to 5 times as long on the small images and few channels of the
// CIFAR models, most of all for the gradient of the kernel. Here 3x3 convolutions with stride 1 are
// computed by minimal filtering (winograd.h) and all others directly (direct.h), from a zero-padded
// copy of each image that stays in the cache. Each inner loop keeps a tile of results in registers.
//
// With vmap over several models, every array has an additional leading axis, called `models` below.
//
// Images are float32 or bfloat16 in memory, parameters and statistics float32. Sums are float32.
// Products have bfloat16 factors only in direct convolutions of bfloat16 images (factors.h).
//
// Each task writes to its own memory, and sums over tasks are computed in the order of the tasks.
// Results therefore do not depend on the number of threads or their timing.

#include "norm.h"
#include "wide_direct.h"
#include "wide_winograd.h"

// Number of weights that a task transforms or sums. Fewer take less time than starting the task.
constexpr int64_t kWeightsPerTask = 1 << 13;

// Runs task(0), ..., task(n - 1), at least `size` of them at a time.
template <class Task>
static void each_range(const ThreadPool& pool, int64_t n, int64_t size, Task task) {
  size = std::max<int64_t>(1, size);
  parallel(pool, (n + size - 1) / size, [=](int64_t range) {
    for (int64_t i = range * size; i < std::min(n, (range + 1) * size); ++i) task(i);
  });
}

// Returns the number of tasks, at most `limit`, among which the images are divided. A task has at
// least a block of tiles.
template <int kOut>
static int64_t winograd_tasks(const Convolution& c, int64_t limit) {
  const int64_t tiles = c.images * Tile<kOut>(c).per_image();
  return std::min({limit, c.images, (tiles + kTilesPerBlock - 1) / kTilesPerBlock});
}

// Adds `count` values, a multiple of kLanes, to y, which is in this thread's cache.
template <class Value>
static void add_values(const Value* add, int64_t count, Value* y) {
  for (int64_t i = 0; i < count; i += kLanes) store(y + i, load(y + i) + load(add + i));
}

// Convolves all images by F(kOut x kOut, 3x3).
template <int kOut, class Value>
static void winograd_convolution(const ThreadPool& pool, const Convolution& c, const Value* x,
                                 const Prologue& prologue, const float* kernel, const Value* add,
                                 Value* y) {
  const int64_t transformed = kPositions<kOut> * c.in * c.out;
  const CallMemory memory(c.models * transformed);
  float* u = memory.data();
  each_range(pool, c.models * c.in, kWeightsPerTask / (9 * c.out), [=](int64_t i) {
    transform_kernel<kOut>(c, kernel + i / c.in * c.kernel(), i % c.in, u + i / c.in * transformed);
  });
  const int64_t tasks = winograd_tasks<kOut>(c, 2 * kParts);
  parallel(pool, c.models * tasks, [=](int64_t task) {
    const int64_t model = task / tasks, part = task % tasks;
    const int64_t first = part * c.images / tasks, end = (part + 1) * c.images / tasks;
    const int64_t image = model * c.images + first;
    winograd_images<kOut>(c, end - first, x + image * c.image(), prologue.of_model(c, model),
                          u + model * transformed, y + image * c.out_image());
    if (add)
      add_values(add + image * c.out_image(), (end - first) * c.out_image(),
                 y + image * c.out_image());
  });
}

// Convolves all images, with the Winograd algorithm if it supports the convolution, and adds `add`
// to the results unless it is null.
template <class Value>
static void convolve_images(const ThreadPool& pool, const Convolution& c, const Value* x,
                            const Prologue& prologue, const float* kernel, const Value* add,
                            Value* y) {
  if (supports_winograd(c) && is_wide(c)) {
    const auto convolution =
        prefers_large_tiles(c) ? wide_convolution<4, Value> : wide_convolution<2, Value>;
    for (int64_t model = 0; model < c.models; ++model) {
      const int64_t image = model * c.images;
      convolution(pool, c, x + image * c.image(), prologue.of_model(c, model),
                  kernel + model * c.kernel(), add ? add + image * c.out_image() : nullptr,
                  y + image * c.out_image());
    }
    return;
  }
  if (supports_winograd(c)) {
    const auto convolution =
        prefers_large_tiles(c) ? winograd_convolution<4, Value> : winograd_convolution<2, Value>;
    convolution(pool, c, x, prologue, kernel, add, y);
    return;
  }
  Convolution factors = c;
  factors.in = (c.in + Factors<Value>::kChannels - 1) / Factors<Value>::kChannels;
  parallel(pool, c.models * c.images, [=, weights = Factors<Value>::kernels(c, kernel)](int64_t i) {
    const int64_t model = i / c.images;
    const auto* padded =
        Factors<Value>::images(c, x + i * c.image(), 1, prologue.of_model(c, model));
    forward_image(factors, padded, weights + model * factors.kernel(), y + i * c.out_image());
    if (add) add_values(add + i * c.out_image(), c.out_image(), y + i * c.out_image());
  });
}

// Computes y = x * kernel, or ReLU(x * scale + shift) * kernel if the call has scale and shift.
template <class Value>
static void convolve(const ThreadPool& pool, const Call& call) {
  const Array<Value> x = call.array<Value>(0), y = call.result<Value>(0);
  const Array<float> kernel = call.array(1);
  const Convolution c(x.dimensions(), kernel.dimensions(), y.dimensions(), call.integer("stride"),
                      call.integer("pad"), 1);
  convolve_images(pool, c, x.data(), Prologue{call.optional_data(2), call.optional_data(3)},
                  kernel.data(), static_cast<const Value*>(nullptr), y.data());
}
FLAXRES_FUNCTION(convolve);

// Computes the gradient of the input: a convolution of dy with the kernel rotated by 180 degrees.
// If the call has a third array, it is added.
template <class Value>
static void input_gradient(const ThreadPool& pool, const Call& call) {
  const Array<Value> dy = call.array<Value>(0), dx = call.result<Value>(0);
  const Array<float> kernel = call.array(1);
  const int64_t size = (kernel.dimensions().end() - 4)[0];
  const Convolution c(dy.dimensions(), kernel.dimensions(), dx.dimensions(), 1,
                      size - 1 - call.integer("pad"), call.integer("stride"));
  const int64_t taps = size * size, tap = c.in * c.out;
  const CallMemory memory(c.models * c.kernel());
  float* to = memory.data();
  const float* from = kernel.data();
  each_range(pool, c.models * taps, kWeightsPerTask / tap, [=](int64_t i) {
    float* rotated = to + (i / taps * taps + taps - 1 - i % taps) * tap;
    // Transposed in blocks that fit in the cache.
    for (int64_t o = 0; o < c.in; o += kLanes)
      for (int64_t k = 0; k < c.out; ++k)
        for (int64_t j = o; j < std::min(o + kLanes, c.in); ++j)
          rotated[j * c.out + k] = from[i * tap + k * c.in + j];
  });
  convolve_images(pool, c, dy.data(), Prologue(), to, call.optional_data<Value>(2), dx.data());
}
FLAXRES_FUNCTION(input_gradient);

// Computes the gradient of the kernel. Scale and shift of x are those of `convolve`.
template <class Value>
static void kernel_gradient(const ThreadPool& pool, const Call& call) {
  const Array<Value> x = call.array<Value>(0), dy = call.array<Value>(1);
  const Array<float> dw = call.result(0);
  const Convolution c(x.dimensions(), dw.dimensions(), dy.dimensions(), call.integer("stride"),
                      call.integer("pad"), 1);
  if (c.images == 0) {
    std::fill(dw.data(), dw.data() + dw.element_count(), 0.0f);
    return;
  }
  const Value *from = x.data(), *gradient = dy.data();
  const auto winograd = !supports_winograd(c)    ? nullptr
                        : prefers_large_tiles(c) ? winograd_gradient<4, Value>
                                                 : winograd_gradient<2, Value>;
  const int64_t parts = !supports_winograd(c)    ? std::min(kParts, c.images)
                        : prefers_large_tiles(c) ? winograd_tasks<4>(c, kParts)
                                                 : winograd_tasks<2>(c, kParts);
  const Prologue prologue{call.optional_data(2), call.optional_data(3)};
  if (winograd ? is_wide(c) : has_wide_kernel(c)) {
    const auto compute = !winograd               ? wide_kernel_gradient<Value>
                         : prefers_large_tiles(c) ? wide_gradient<4, Value>
                                                  : wide_gradient<2, Value>;
    for (int64_t model = 0; model < c.models; ++model) {
      const int64_t image = model * c.images;
      compute(pool, c, parts, from + image * c.image(), prologue.of_model(c, model),
              gradient + image * c.out_image(), dw.data() + model * c.kernel());
    }
    return;
  }
  const CallMemory memory(c.models * parts * c.kernel());
  float* sums = memory.data();
  parallel(pool, c.models * parts, [=](int64_t task) {
    float* partial = sums + task * c.kernel();
    const int64_t model = task / parts, part = task % parts;
    const int64_t first = model * c.images + part * c.images / parts;
    const int64_t end = model * c.images + (part + 1) * c.images / parts;
    if (winograd) {
      winograd(c, end - first, from + first * c.image(), prologue.of_model(c, model),
               gradient + first * c.out_image(), partial);
      return;
    }
    std::fill(partial, partial + c.kernel(), 0.0f);
    const int64_t max_images = images_at_a_time(c);
    for (int64_t i = first; i < end; i += max_images) {
      const int64_t images = std::min(max_images, end - i);
      kernel_images(c, images, from + i * c.image(), prologue.of_model(c, model),
                    gradient + i * c.out_image(), partial);
    }
  });
  const int64_t rows = c.models * c.size, row = c.kernel() / c.size;
  each_range(pool, rows, kWeightsPerTask / (parts * row), [=, to = dw.data()](int64_t i) {
    const float* partial = sums + i / c.size * parts * c.kernel() + i % c.size * row;
    std::copy(partial, partial + row, to + i * row);
    for (int64_t part = 1; part < parts; ++part)
      for (int64_t k = 0; k < row; ++k) to[i * row + k] += partial[part * c.kernel() + k];
  });
}
FLAXRES_FUNCTION(kernel_gradient);

// Returns the vector length of this build. Numbers of output channels must be a multiple of it.
extern "C" int flaxres_lanes() { return kLanes; }
