// Batch norm and its gradient, together with the addition and the ReLU that follow it.

#pragma once

#include <cmath>
#include <vector>

#include "common.h"

// Sizes of a batch norm over `pixels` (images * height * width) of each channel of each model. The
// pixels are split into `parts`.
struct BatchNorm {
  int64_t models, pixels, channels, parts;

  explicit BatchNorm(Dimensions x) : models(x.product_before_last(4)), pixels(1) {
    for (const int64_t* d = x.end() - 4; d < x.end() - 1; ++d) pixels *= *d;
    channels = x.back();
    parts = std::min(4 * kParts, pixels);
  }
  int64_t all() const { return models * channels; }

  // Runs loop(task, c, i, end) for each part of the pixels and each vector of channels. The vector
  // starts at element c of an array (models, channels). Its values in the images start at element
  // i, i + channels, ... and lie before end.
  template <class Loop>
  void each(const ThreadPool& pool, Loop loop) const {
    parallel(pool, models * parts, [=, *this](int64_t task) {
      const int64_t model = task / parts, part = task % parts, first = model * pixels;
      const int64_t begin = (first + part * pixels / parts) * channels;
      const int64_t end = (first + (part + 1) * pixels / parts) * channels;
      for (int64_t c = 0; c < channels; c += kLanes)
        loop(task, model * channels + c, begin + c, end);
    });
  }

  // Calls use(c, first, second) for each channel with its two sums over all tasks, which wrote
  // their partial sums to `sums` (task, 2, channels).
  template <class Use>
  void total(const std::vector<float>& sums, Use use) const {
    for (int64_t c = 0; c < all(); ++c) {
      double first = 0, second = 0;
      const float* partial = &sums[c / channels * parts * 2 * channels + c % channels];
      for (int64_t part = 0; part < parts; ++part, partial += 2 * channels)
        first += partial[0], second += partial[channels];
      use(c, first, second);
    }
  }
};

// Batch norm as y = x * scale + shift per channel, equal to (x - mean) * inverse_std * gamma +
// beta.
struct Affine {
  std::vector<float> inverse_std, scale, shift;

  // Reads gamma, beta, mean and variance from four arrays of the call, starting with number
  // `first`.
  Affine(int64_t n, const Call& call, size_t first) : inverse_std(n), scale(n), shift(n) {
    const Array<float> gamma = call.array(first), beta = call.array(first + 1);
    const Array<float> mean = call.array(first + 2), variance = call.array(first + 3);
    const float epsilon = call.number("epsilon");
    for (int64_t c = 0; c < n; ++c) {
      inverse_std[c] = 1 / std::sqrt(variance.data()[c] + epsilon);
      scale[c] = gamma.data()[c] * inverse_std[c];
      shift[c] = beta.data()[c] - mean.data()[c] * scale[c];
    }
  }
};

// Computes the sum of x and of its squares for each channel.
template <class Value>
static void norm_sums(const ThreadPool& pool, const Call& call) {
  const Array<Value> x = call.array<Value>(0);
  const Array<float> sum = call.result(0), squares = call.result(1);
  const BatchNorm norm(x.dimensions());
  std::vector<float> sums(norm.models * norm.parts * 2 * norm.channels);
  const Value* from = x.data();
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
    sum.data()[c] = s, squares.data()[c] = t;
  });
}
FLAXRES_FUNCTION(norm_sums);

// Normalizes x; with kAdd it adds `add`, and with kRelu it applies ReLU last.
template <bool kRelu, bool kAdd, class Value>
static void normalize_pixels(const ThreadPool& pool, const BatchNorm& norm, const Affine& affine,
                             const Value* x, const Value* add, Value* y) {
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

// Computes y = norm(x), plus a last array if the call has one, and its ReLU if `relu` is set.
template <class Value>
static void normalize(const ThreadPool& pool, const Call& call) {
  const Array<Value> x = call.array<Value>(0);
  const Value* add = call.optional_data<Value>(5);
  const bool relu = call.flag("relu");
  const BatchNorm norm(x.dimensions());
  const Affine affine(norm.all(), call, 1);
  const auto run = add    ? normalize_pixels<true, true, Value>
                   : relu ? normalize_pixels<true, false, Value>
                          : normalize_pixels<false, false, Value>;
  run(pool, norm, affine, x.data(), add, call.result<Value>(0).data());
}
FLAXRES_FUNCTION(normalize);

// Computes the sums of d and d * x for each channel. d is dy, or with kRelu 0 where y was not
// positive. Without kAdd, y is recomputed; with kAdd it is read from memory and d is written.
template <bool kRelu, bool kAdd, class Value>
static void sum_gradients(const ThreadPool& pool, const BatchNorm& norm, const Affine& affine,
                          const Value* dy, const Value* x, const Value* y, Value* d, float* sums) {
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

// Computes the gradients of gamma and beta. If the call has y, the result of a norm with an added
// array, it also computes d, the gradient of that array.
template <class Value>
static void norm_gradient_sums(const ThreadPool& pool, const Call& call) {
  const Array<Value> dy = call.array<Value>(0), x = call.array<Value>(1);
  const Value* y = call.optional_data<Value>(6);
  Value* d = y ? call.result<Value>(2).data() : nullptr;
  const Array<float> mean = call.array(4), dgamma = call.result(0), dbeta = call.result(1);
  const bool relu = call.flag("relu");
  const BatchNorm norm(x.dimensions());
  const Affine affine(norm.all(), call, 2);
  std::vector<float> sums(norm.models * norm.parts * 2 * norm.channels);
  const auto run = y      ? sum_gradients<true, true, Value>
                   : relu ? sum_gradients<true, false, Value>
                          : sum_gradients<false, false, Value>;
  run(pool, norm, affine, dy.data(), x.data(), y, d, sums.data());
  norm.total(sums, [&](int64_t c, double s, double t) {
    dgamma.data()[c] = (t - mean.data()[c] * s) * affine.inverse_std[c];
    dbeta.data()[c] = s;
  });
}
FLAXRES_FUNCTION(norm_gradient_sums);

// Writes dx = d * scale + x * slope + constant; with kRelu d is set to 0 where the ReLU was
// inactive.
template <bool kRelu, class Value>
static void differentiate_pixels(const ThreadPool& pool, const BatchNorm& norm,
                                 const Affine& affine, const std::vector<float>& slopes,
                                 const std::vector<float>& constants, const Value* d,
                                 const Value* x, Value* dx) {
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

// Computes dx = scale * (d - (dbeta + normalized x * dgamma) / count). `count` is the number of
// pixels in the statistics, including those of other devices.
template <class Value>
static void norm_gradient(const ThreadPool& pool, const Call& call) {
  const Array<Value> d = call.array<Value>(0), x = call.array<Value>(1);
  const Array<float> mean = call.array(4), dgamma = call.array(6), dbeta = call.array(7);
  const float count = call.integer("count");
  const BatchNorm norm(x.dimensions());
  const Affine affine(norm.all(), call, 2);
  std::vector<float> slopes(norm.all()), constants(norm.all());
  for (int64_t c = 0; c < norm.all(); ++c) {
    slopes[c] = -affine.scale[c] * affine.inverse_std[c] * dgamma.data()[c] / count;
    constants[c] =
        -affine.scale[c] * dbeta.data()[c] / count - mean.data()[c] * slopes[c];
  }
  const auto run =
      call.flag("relu") ? differentiate_pixels<true, Value> : differentiate_pixels<false, Value>;
  run(pool, norm, affine, slopes, constants, d.data(), x.data(), call.result<Value>(0).data());
}
FLAXRES_FUNCTION(norm_gradient);
