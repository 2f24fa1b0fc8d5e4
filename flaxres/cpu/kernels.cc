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

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;

#if defined(__AVX512F__)
constexpr int kLanes = 16, kTile = 16;  // vectors of results kept in 32 registers
#elif defined(__AVX__)
constexpr int kLanes = 8, kTile = 8;  // in 16 registers
#else
constexpr int kLanes = 4, kTile = 8;
#endif
typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

static inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
static inline void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }

// How many sums a reduction over the batch is split into: fixed, so that results are.
constexpr int64_t kParts = 16;

// Floats of padded images that a thread works on at a time.
constexpr int64_t kCached = 1 << 13;

// Pixels of results that a thread works on at a time.
constexpr int64_t kNear = 128;

// Runs task(0), ..., task(n - 1) on the threads of the pool, this one included.
template <class Task>
static void parallel(ffi::ThreadPool& pool, int64_t n, Task task) {
  struct Progress {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto progress = std::make_shared<Progress>();
  auto work = [progress, n, task] {
    int64_t own = 0;
    for (int64_t i; (i = progress->next.fetch_add(1)) < n; ++own) task(i);
    if (own && progress->done.fetch_add(own) + own == n) {
      std::lock_guard<std::mutex> lock(progress->mutex);
      progress->all_done.notify_all();
    }
  };
  // Whoever comes late finds nothing to do: no thread ever waits for one that has not begun.
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), n) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([work] { work(); });
  work();
  for (int i = 0; i < 200 && progress->done.load() < n; ++i) std::this_thread::yield();
  std::unique_lock<std::mutex> lock(progress->mutex);
  progress->all_done.wait(lock, [&] { return progress->done.load() == n; });
}

// A convolution of `images` images (height, width, in) into (out_height, out_width, out) with a
// square kernel (size, size, in, out). `pad` zeros lie around the image and `dilation - 1` between
// any two of its pixels; stride or dilation is 1.
struct Convolution {
  int64_t nets, images, height, width, in, out_height, out_width, out, size, stride, pad, dilation;

  Convolution(ffi::Span<const int64_t> x, ffi::Span<const int64_t> kernel,
              ffi::Span<const int64_t> y, int64_t stride, int64_t pad, int64_t dilation)
      : stride(stride), pad(pad), dilation(dilation) {
    const int64_t* d = x.end() - 4;
    nets = x.size() == 5 ? x[0] : 1;
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

  // Copies images that follow each other into this thread's zero-padded buffer. With `scale` and
  // `shift`, of each channel, what is copied is normalised by them and goes through a ReLU.
  const float* pad_images(const float* x, int64_t count, const float* scale = nullptr,
                          const float* shift = nullptr) const {
    thread_local std::vector<float> buffer;
    buffer.assign(count * padded_image(), 0.0f);
    for (int64_t n = 0; n < count; ++n)
      for (int64_t h = 0; h < height; ++h, x += width * in) {
        float* to = &buffer[n * padded_image() + (h + pad) * row() + pad * in];
        if (scale == nullptr) {
          std::memcpy(to, x, width * in * sizeof(float));
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
                   : step == 16  ? forward_rows<1, kMost, kVectors, 16>
                   : step == 32  ? forward_rows<1, kMost, kVectors, 32>
                   : step == 64  ? forward_rows<1, kMost, kVectors, 64>
                   : step == 128 ? forward_rows<1, kMost, kVectors, 128>
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

// What the images that go into a convolution are normalised by: null pointers if by nothing.
struct Prologue {
  const float *scale = nullptr, *shift = nullptr;

  Prologue() = default;
  Prologue(const Array& scales, const Array& shifts) {
    if (scales.element_count()) scale = scales.typed_data(), shift = shifts.typed_data();
  }
  const float* pad_images(const Convolution& c, const float* x, int64_t first,
                          int64_t count) const {
    const int64_t channel = first / c.images * c.in;
    if (scale == nullptr) return c.pad_images(x + first * c.image(), count);
    return c.pad_images(x + first * c.image(), count, scale + channel, shift + channel);
  }
};

static void convolve_images(ffi::ThreadPool& pool, const Convolution& c, const float* x,
                            const Prologue& prologue, const float* kernel, float* y) {
  parallel(pool, c.nets * c.images, [=](int64_t i) {
    const float* padded = prologue.pad_images(c, x, i, 1);
    forward_image(c, padded, kernel + i / c.images * c.kernel(), y + i * c.out_image());
  });
}

static ffi::Error convolve(ffi::ThreadPool pool, Array x, Array kernel, Array scale, Array shift,
                           Result y, int64_t stride, int64_t pad) {
  const Convolution c(x.dimensions(), kernel.dimensions(), y->dimensions(), stride, pad, 1);
  convolve_images(pool, c, x.typed_data(), Prologue(scale, shift), kernel.typed_data(),
                  y->typed_data());
  return ffi::Error::Success();
}

// The gradient of the input: a convolution of dy with the kernel turned by half a circle.
static ffi::Error input_gradient(ffi::ThreadPool pool, Array dy, Array kernel, Result dx,
                                 int64_t stride, int64_t pad) {
  const int64_t size = (kernel.dimensions().end() - 4)[0];
  const Convolution c(dy.dimensions(), kernel.dimensions(), dx->dimensions(), 1, size - 1 - pad,
                      stride);
  const int64_t taps = size * size, tap = c.in * c.out;
  std::vector<float> memory(c.nets * c.kernel());
  const float* from = kernel.typed_data();
  parallel(pool, c.nets * taps, [=, to = memory.data()](int64_t i) {
    float* turned = to + (i / taps * taps + taps - 1 - i % taps) * tap;
    for (int64_t o = 0; o < c.in; ++o)
      for (int64_t k = 0; k < c.out; ++k) *turned++ = from[i * tap + k * c.in + o];
  });
  convolve_images(pool, c, dy.typed_data(), Prologue(), memory.data(), dx->typed_data());
  return ffi::Error::Success();
}

static ffi::Error kernel_gradient(ffi::ThreadPool pool, Array x, Array dy, Array scale,
                                  Array shift, Result dw, int64_t stride, int64_t pad) {
  const Convolution c(x.dimensions(), dw->dimensions(), dy.dimensions(), stride, pad, 1);
  const float *from = x.typed_data(), *gradient = dy.typed_data();
  const int64_t parts = std::min(kParts, c.images);
  // Small images go together, as far as the cache holds them.
  const int64_t together = std::max<int64_t>(1, kCached / c.padded_image());
  const std::unique_ptr<float[]> memory(new float[c.nets * parts * c.kernel()]);
  float* sums = memory.get();
  const Prologue prologue(scale, shift);
  parallel(pool, c.nets * parts, [=](int64_t task) {
    float* own = sums + task * c.kernel();
    std::fill(own, own + c.kernel(), 0.0f);
    const int64_t first = task / parts * c.images, part = task % parts;
    const int64_t end = first + (part + 1) * c.images / parts;
    for (int64_t i = first + part * c.images / parts; i < end; i += together) {
      const int64_t images = std::min(together, end - i);
      const float* padded = prologue.pad_images(c, from, i, images);
      kernel_images(c, images, padded, gradient + i * c.out_image(), own);
    }
  });
  const int64_t rows = c.nets * c.size, row = c.kernel() / c.size;
  parallel(pool, rows, [=, to = dw->typed_data()](int64_t i) {
    const float* own = sums + i / c.size * parts * c.kernel() + i % c.size * row;
    std::copy(own, own + row, to + i * row);
    for (int64_t part = 1; part < parts; ++part)
      for (int64_t k = 0; k < row; ++k) to[i * row + k] += own[part * c.kernel() + k];
  });
  return ffi::Error::Success();
}

// Batch norm over `pixels` (images times height times width) of each channel of each net.
struct BatchNorm {
  int64_t nets, pixels, channels, parts;

  explicit BatchNorm(ffi::Span<const int64_t> x) : nets(x.size() == 5 ? x[0] : 1), pixels(1) {
    for (const int64_t* d = x.end() - 4; d < x.end() - 1; ++d) pixels *= *d;
    channels = x.back();
    parts = std::min(4 * kParts, pixels);
  }
  int64_t all() const { return nets * channels; }

  // Runs loop(task, c, i, end) for each part of the pixels and each vector of channels, which are
  // those from c on in an array of (nets, channels); their numbers lie at i, i + channels, ...
  // before end.
  template <class Loop>
  void each(ffi::ThreadPool& pool, Loop loop) const {
    parallel(pool, nets * parts, [=, *this](int64_t task) {
      const int64_t net = task / parts, part = task % parts, first = net * pixels;
      const int64_t begin = (first + part * pixels / parts) * channels;
      const int64_t end = (first + (part + 1) * pixels / parts) * channels;
      for (int64_t c = 0; c < channels; c += kLanes)
        loop(task, net * channels + c, begin + c, end);
    });
  }

  // Adds what `each` task left in sums (task, 2, channels).
  template <class Use>
  void total(const std::vector<float>& sums, Use use) const {
    for (int64_t c = 0; c < all(); ++c) {
      double first = 0, second = 0;
      const float* own = &sums[c / channels * parts * 2 * channels + c % channels];
      for (int64_t part = 0; part < parts; ++part, own += 2 * channels)
        first += own[0], second += own[channels];
      use(c, first, second);
    }
  }
};

// Per channel: y = x * scale + shift, which is (x - mean) * deviation * gamma + beta.
struct Affine {
  std::vector<float> deviation, scale, shift;

  Affine(int64_t n, const Array& gamma, const Array& beta, const Array& mean, const Array& variance,
         float epsilon)
      : deviation(n), scale(n), shift(n) {
    for (int64_t c = 0; c < n; ++c) {
      deviation[c] = 1 / std::sqrt(variance.typed_data()[c] + epsilon);
      scale[c] = gamma.typed_data()[c] * deviation[c];
      shift[c] = beta.typed_data()[c] - mean.typed_data()[c] * scale[c];
    }
  }
};

static ffi::Error norm_sums(ffi::ThreadPool pool, Array x, Result sum, Result squares) {
  const BatchNorm norm(x.dimensions());
  std::vector<float> sums(norm.nets * norm.parts * 2 * norm.channels);
  const float* from = x.typed_data();
  norm.each(pool, [=, to = sums.data()](int64_t task, int64_t c, int64_t i, int64_t end) {
    const int64_t channels = norm.channels;
    Vector s[4] = {}, t[4] = {};
    const auto next = [&](int k) {
      const Vector v = load(from + i);
      s[k] += v, t[k] += v * v, i += channels;
    };
    while (i + 3 * channels < end)
      for (int k = 0; k < 4; ++k) next(k);
    while (i < end) next(0);
    store(to + task * 2 * channels + c % channels, (s[0] + s[1]) + (s[2] + s[3]));
    store(to + (task * 2 + 1) * channels + c % channels, (t[0] + t[1]) + (t[2] + t[3]));
  });
  norm.total(sums, [&](int64_t c, double s, double t) {
    sum->typed_data()[c] = s, squares->typed_data()[c] = t;
  });
  return ffi::Error::Success();
}

template <bool kRelu, bool kAdd>
static void normalise_pixels(ffi::ThreadPool& pool, const BatchNorm& norm, const Affine& affine,
                             const float* x, const float* add, float* y) {
  norm.each(pool, [=, scale = affine.scale.data(), shift = affine.shift.data()](
                      int64_t, int64_t c, int64_t i, int64_t end) {
    const Vector a = load(scale + c), b = load(shift + c);
    for (; i < end; i += norm.channels) {
      Vector v = load(x + i) * a + b;
      if (kAdd) v += load(add + i);
      if (kRelu) v = v > 0 ? v : Vector{};
      store(y + i, v);
    }
  });
}

// y = norm(x), with `add` to it if `adds`, and 0 for negative numbers if `relu`.
static ffi::Error normalise(ffi::ThreadPool pool, Array x, Array gamma, Array beta, Array mean,
                            Array variance, Array add, Result y, float epsilon, bool relu,
                            bool adds) {
  const BatchNorm norm(x.dimensions());
  const Affine affine(norm.all(), gamma, beta, mean, variance, epsilon);
  const auto run = adds   ? normalise_pixels<true, true>
                   : relu ? normalise_pixels<true, false>
                          : normalise_pixels<false, false>;
  run(pool, norm, affine, x.typed_data(), add.typed_data(), y->typed_data());
  return ffi::Error::Success();
}

// Sums of d and d * x, where d is dy, but 0 where y was negative if kRelu: that is worked out again,
// or where kAdd looked up in y, and then d is written too.
template <bool kRelu, bool kAdd>
static void sum_gradients(ffi::ThreadPool& pool, const BatchNorm& norm, const Affine& affine,
                          const float* dy, const float* x, const float* y, float* d, float* sums) {
  norm.each(pool, [=, scale = affine.scale.data(), shift = affine.shift.data()](
                      int64_t task, int64_t c, int64_t i, int64_t end) {
    const int64_t channels = norm.channels;
    const Vector a = load(scale + c), b = load(shift + c);
    Vector s[4] = {}, t[4] = {};
    const auto next = [&](int k) {
      Vector g = load(dy + i);
      const Vector v = load(x + i);
      if (kRelu) g = (kAdd ? load(y + i) : v * a + b) > 0 ? g : Vector{};
      if (kAdd) store(d + i, g);
      s[k] += g, t[k] += g * v, i += channels;
    };
    while (i + 3 * channels < end)
      for (int k = 0; k < 4; ++k) next(k);
    while (i < end) next(0);
    store(sums + task * 2 * channels + c % channels, (s[0] + s[1]) + (s[2] + s[3]));
    store(sums + (task * 2 + 1) * channels + c % channels, (t[0] + t[1]) + (t[2] + t[3]));
  });
}

// The gradients of gamma and beta; if `adds` also d, that of what was added.
static ffi::Error norm_gradient_sums(ffi::ThreadPool pool, Array dy, Array x, Array gamma,
                                     Array beta, Array mean, Array variance, Array y,
                                     Result dgamma, Result dbeta, Result d, float epsilon,
                                     bool relu, bool adds) {
  const BatchNorm norm(x.dimensions());
  const Affine affine(norm.all(), gamma, beta, mean, variance, epsilon);
  std::vector<float> sums(norm.nets * norm.parts * 2 * norm.channels);
  const auto run = adds   ? sum_gradients<true, true>
                   : relu ? sum_gradients<true, false>
                          : sum_gradients<false, false>;
  run(pool, norm, affine, dy.typed_data(), x.typed_data(), y.typed_data(), d->typed_data(),
      sums.data());
  norm.total(sums, [&](int64_t c, double s, double t) {
    dgamma->typed_data()[c] = (t - mean.typed_data()[c] * s) * affine.deviation[c];
    dbeta->typed_data()[c] = s;
  });
  return ffi::Error::Success();
}

template <bool kRelu>
static void differentiate_pixels(ffi::ThreadPool& pool, const BatchNorm& norm,
                                 const Affine& affine, const std::vector<float>& slopes,
                                 const std::vector<float>& constants, const float* d,
                                 const float* x, float* dx) {
  norm.each(pool, [=, scale = affine.scale.data(), shift = affine.shift.data(),
                   slope = slopes.data(), constant = constants.data()](
                      int64_t, int64_t c, int64_t i, int64_t end) {
    const Vector a = load(scale + c), b = load(shift + c);
    const Vector k = load(slope + c), l = load(constant + c);
    for (; i < end; i += norm.channels) {
      const Vector v = load(x + i);
      Vector g = load(d + i);
      if (kRelu) g = v * a + b > 0 ? g : Vector{};
      store(dx + i, g * a + (v * k + l));
    }
  });
}

// dx = scale * (d - (dbeta + normalised x * dgamma) / count); count are the pixels that the mean and
// the variance come from, those on other devices included.
static ffi::Error norm_gradient(ffi::ThreadPool pool, Array d, Array x, Array gamma, Array beta,
                                Array mean, Array variance, Array dgamma, Array dbeta, Result dx,
                                int64_t count, float epsilon, bool relu) {
  const BatchNorm norm(x.dimensions());
  const Affine affine(norm.all(), gamma, beta, mean, variance, epsilon);
  std::vector<float> slopes(norm.all()), constants(norm.all());
  for (int64_t c = 0; c < norm.all(); ++c) {
    slopes[c] = -affine.scale[c] * affine.deviation[c] * dgamma.typed_data()[c] / count;
    constants[c] = -affine.scale[c] * dbeta.typed_data()[c] / count - mean.typed_data()[c] * slopes[c];
  }
  const auto run = relu ? differentiate_pixels<true> : differentiate_pixels<false>;
  run(pool, norm, affine, slopes, constants, d.typed_data(), x.typed_data(), dx->typed_data());
  return ffi::Error::Success();
}

// The vector length of this build: numbers of channels must be a multiple.
extern "C" int flaxres_lanes() { return kLanes; }

// What XLA calls: their arrays in order, then their attributes.
static auto bind() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>(); }

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    flaxres_convolve, convolve,
    bind().Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>().Ret<Array>().Attr<int64_t>("stride").Attr<
        int64_t>("pad"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    flaxres_input_gradient, input_gradient,
    bind().Arg<Array>().Arg<Array>().Ret<Array>().Attr<int64_t>("stride").Attr<int64_t>("pad"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    flaxres_kernel_gradient, kernel_gradient,
    bind().Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>().Ret<Array>().Attr<int64_t>("stride").Attr<
        int64_t>("pad"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxres_norm_sums, norm_sums,
                              bind().Arg<Array>().Ret<Array>().Ret<Array>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxres_normalise, normalise,
                              bind()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Attr<float>("epsilon")
                                  .Attr<bool>("relu")
                                  .Attr<bool>("adds"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxres_norm_gradient_sums, norm_gradient_sums,
                              bind()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Attr<float>("epsilon")
                                  .Attr<bool>("relu")
                                  .Attr<bool>("adds"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxres_norm_gradient, norm_gradient,
                              bind()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Attr<int64_t>("count")
                                  .Attr<float>("epsilon")
                                  .Attr<bool>("relu"));
