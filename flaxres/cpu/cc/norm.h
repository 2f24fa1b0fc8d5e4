// Batch norm and its gradient, with what is added and the ReLU in the same pass.

#pragma once

#include <cmath>
#include <vector>

#include "common.h"

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

  // Of arrays that are gamma, beta, the mean and the variance from the `first` on.
  Affine(int64_t n, const Call& call, size_t first) : deviation(n), scale(n), shift(n) {
    const Array gamma = call.array(first), beta = call.array(first + 1);
    const Array mean = call.array(first + 2), variance = call.array(first + 3);
    const float epsilon = call.number("epsilon");
    for (int64_t c = 0; c < n; ++c) {
      deviation[c] = 1 / std::sqrt(variance.typed_data()[c] + epsilon);
      scale[c] = gamma.typed_data()[c] * deviation[c];
      shift[c] = beta.typed_data()[c] - mean.typed_data()[c] * scale[c];
    }
  }
};

// Sums of x and of its squares.
static void norm_sums(ffi::ThreadPool& pool, const Call& call) {
  const Array x = call.array(0), sum = call.result(0), squares = call.result(1);
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
    sum.typed_data()[c] = s, squares.typed_data()[c] = t;
  });
}
FLAXRES_FUNCTION(norm_sums);

template <bool kRelu, bool kAdd>
static void normalize_pixels(ffi::ThreadPool& pool, const BatchNorm& norm, const Affine& affine,
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
static void normalize(ffi::ThreadPool& pool, const Call& call) {
  const Array x = call.array(0), add = call.array(5), y = call.result(0);
  const bool relu = call.flag("relu"), adds = call.flag("adds");
  const BatchNorm norm(x.dimensions());
  const Affine affine(norm.all(), call, 1);
  const auto run = adds   ? normalize_pixels<true, true>
                   : relu ? normalize_pixels<true, false>
                          : normalize_pixels<false, false>;
  run(pool, norm, affine, x.typed_data(), add.typed_data(), y.typed_data());
}
FLAXRES_FUNCTION(normalize);

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
static void norm_gradient_sums(ffi::ThreadPool& pool, const Call& call) {
  const Array dy = call.array(0), x = call.array(1), mean = call.array(4), y = call.array(6);
  const Array dgamma = call.result(0), dbeta = call.result(1), d = call.result(2);
  const bool relu = call.flag("relu"), adds = call.flag("adds");
  const BatchNorm norm(x.dimensions());
  const Affine affine(norm.all(), call, 2);
  std::vector<float> sums(norm.nets * norm.parts * 2 * norm.channels);
  const auto run = adds   ? sum_gradients<true, true>
                   : relu ? sum_gradients<true, false>
                          : sum_gradients<false, false>;
  run(pool, norm, affine, dy.typed_data(), x.typed_data(), y.typed_data(), d.typed_data(),
      sums.data());
  norm.total(sums, [&](int64_t c, double s, double t) {
    dgamma.typed_data()[c] = (t - mean.typed_data()[c] * s) * affine.deviation[c];
    dbeta.typed_data()[c] = s;
  });
}
FLAXRES_FUNCTION(norm_gradient_sums);

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

// dx = scale * (d - (dbeta + normalized x * dgamma) / count); count are the pixels that the mean and
// the variance come from, those on other devices included.
static void norm_gradient(ffi::ThreadPool& pool, const Call& call) {
  const Array d = call.array(0), x = call.array(1), mean = call.array(4), dx = call.result(0);
  const Array dgamma = call.array(6), dbeta = call.array(7);
  const float count = call.integer("count");
  const BatchNorm norm(x.dimensions());
  const Affine affine(norm.all(), call, 2);
  std::vector<float> slopes(norm.all()), constants(norm.all());
  for (int64_t c = 0; c < norm.all(); ++c) {
    slopes[c] = -affine.scale[c] * affine.deviation[c] * dgamma.typed_data()[c] / count;
    constants[c] = -affine.scale[c] * dbeta.typed_data()[c] / count - mean.typed_data()[c] * slopes[c];
  }
  const auto run = call.flag("relu") ? differentiate_pixels<true> : differentiate_pixels<false>;
  run(pool, norm, affine, slopes, constants, d.typed_data(), x.typed_data(), dx.typed_data());
}
FLAXRES_FUNCTION(norm_gradient);
