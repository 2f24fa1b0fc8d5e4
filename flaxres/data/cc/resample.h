// Bilinear resizing that averages over the area of a new pixel where an image shrinks: the results
// of Pillow's Image.resize(size, BILINEAR, box), to the bit. Rows are resized as they are decoded.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

// Pillow's fixed point: coefficients of 22 bits, and rounding to 8 bits after each direction.
constexpr int kPrecision = 22;

typedef int Int4 __attribute__((vector_size(16)));
typedef int Int8 __attribute__((vector_size(32)));

// Filter of one direction.
struct Filter {
  int taps = 0;                 // coefficients of each new pixel, the last ones may be 0
  std::vector<int> starts;      // first old pixel of each new one
  std::vector<int> weights;     // (new pixels, taps)
  int pairs = 0;
  std::vector<Int8> pair_weights;  // (new pixels, pairs): two weights, four times each
  int first = 0, last = 0;      // old pixels that are needed: first, ..., last - 1

  // Resizes the pixels from `low` to `high` of `length` to `scaled`, of which `count` are made.
  void set(int length, float low, float high, int scaled, int offset, int count) {
    double scale = double(high - low) / scaled, support = std::max(scale, 1.0);
    taps = int(std::ceil(support)) * 2 + 1;
    starts.resize(count);
    weights.assign(size_t(count) * taps, 0);
    values_.resize(taps);
    int most = 0;
    for (int i = 0; i < count; ++i) {
      double center = low + (i + offset + 0.5) * scale, sum = 0, factor = 1.0 / support;
      int start = std::max(0, int(center - support + 0.5));
      int end = std::min(length, int(center + support + 0.5)), n = end - start;
      for (int t = 0; t < n; ++t) {
        double distance = std::fabs((t + start - center + 0.5) * factor);
        values_[t] = distance < 1.0 ? 1.0 - distance : 0.0;
        sum += values_[t];
      }
      int* out = &weights[size_t(i) * taps];
      for (int t = 0; t < n; ++t)
        out[t] = int(0.5 + (sum != 0.0 ? values_[t] / sum : values_[t]) * (1 << kPrecision));
      while (n > 1 && !out[n - 1]) --n;
      most = std::max(most, n);
      starts[i] = start;
    }
    first = starts[0];
    last = 0;
    for (int i = 0; i < count; ++i) {  // only as many coefficients as one of the pixels has
      std::copy_n(&weights[size_t(i) * taps], most, &weights[size_t(i) * most]);
      last = std::max(last, std::min(length, starts[i] + most));
    }
    taps = most;
  }

  // Repeats the weights for `resize_color`.
  void make_pairs() {
    pairs = (taps + 1) / 2;
    pair_weights.assign(starts.size() * pairs, Int8{});
    for (size_t i = 0; i < starts.size(); ++i)
      for (int t = 0; t < taps; ++t)
        for (int c = 0; c < 4; ++c)
          pair_weights[i * pairs + t / 2][t % 2 * 4 + c] = weights[i * taps + t];
  }

 private:
  std::vector<double> values_;
};

// Rounds sums of weighted pixels to bytes.
static inline void round_sums(const int* sums, size_t count, uint8_t* __restrict out) {
  for (size_t i = 0; i < count; ++i) out[i] = uint8_t(sums[i] >> kPrecision);
}

// Resizes a row of gray pixels. Reads `taps` pixels from each start, for which the row has room.
static inline void resize_gray(const Filter& filter, const uint8_t* row, int* sums) {
  const int* weights = filter.weights.data();
  for (size_t i = 0; i < filter.starts.size(); ++i, weights += filter.taps) {
    const uint8_t* in = row + filter.starts[i];
    int sum = 1 << (kPrecision - 1);
    for (int t = 0; t < filter.taps; ++t) sum += weights[t] * in[t];
    sums[i] = sum;
  }
}

// Resizes a row of RGBX pixels to RGB, with two pixels in a vector. Reads one pixel more than
// `resize_gray`, and writes one sum more than the new row has. The samples are integers of 32 bits,
// because compilers extend a whole row of bytes in vectors, but not eight of them.
template <int kPairs>
static inline void resize_color(const Filter& filter, const int* row, int* sums) {
  const int pairs = kPairs ? kPairs : filter.pairs;
  const Int8* weights = filter.pair_weights.data();
  for (size_t i = 0; i < filter.starts.size(); ++i, weights += pairs) {
    const int* in = row + 4 * filter.starts[i];
    Int8 sum{};
    for (int p = 0; p < pairs; ++p) {
      Int8 pixels;
      memcpy(&pixels, in + 8 * p, sizeof pixels);
      sum += pixels * weights[p];
    }
    Int4 halves[2];
    memcpy(halves, &sum, sizeof sum);
    halves[0] += halves[1] + (1 << (kPrecision - 1));
    memcpy(sums + 3 * i, halves, sizeof halves[0]);
  }
}

// Adds rows with their weights, and rounds.
template <int kTaps>
static inline void weigh_rows(const uint8_t* const* rows, const int* all_weights, size_t size,
                              uint8_t* __restrict out) {
  const uint8_t* in[kTaps];
  int weights[kTaps];
  std::copy_n(rows, kTaps, in);
  std::copy_n(all_weights, kTaps, weights);
  for (size_t i = 0; i < size; ++i) {
    int sum = 1 << (kPrecision - 1);
    for (int t = 0; t < kTaps; ++t) sum += weights[t] * in[t][i];
    out[i] = uint8_t(sum >> kPrecision);
  }
}

// Resizes images to which rows are given one after another.
class Resampler {
 public:
  Filter columns, rows;

  // Begins an image whose filters are set. `row_size` is the number of bytes of an old row, of RGBX
  // for 3 channels or gray for 1; `out` has room for all new pixels. Pillow begins with either
  // direction, and rounds after it.
  void begin(int channels, size_t row_size, bool rows_first, uint8_t* out) {
    channels_ = channels, rows_first_ = rows_first, out_ = out, next_row_ = 0;
    width_ = channels * columns.starts.size();
    size_ = rows_first ? row_size : width_;
    stride_ = (size_ + kChunk - 1) / kChunk * kChunk;
    kept_.resize(stride_ * (rows.taps + 1));
    last_.resize(stride_ + width_);
    sums_.resize(width_ + 1);
    samples_.resize(row_size);
    if (channels == 3) columns.make_pairs();
  }

  // Gives the next row of the old image; the first one is `rows.first`.
  void add(int number, const uint8_t* row) {
    uint8_t* kept = &kept_[stride_ * (number % rows.taps)];
    if (rows_first_)
      memcpy(kept, row, size_);
    else
      resize_columns(row, kept);
    const int count = int(rows.starts.size());
    for (; next_row_ < count && last_of(next_row_) <= number; ++next_row_) {
      uint8_t* out = out_ + next_row_ * width_;
      if (rows_first_) {
        resize_rows(next_row_, last_.data());
        resize_columns(last_.data(), last_.data() + stride_);
        memcpy(out, last_.data() + stride_, width_);
      } else {
        resize_rows(next_row_, last_.data());
        memcpy(out, last_.data(), width_);
      }
    }
  }

 private:
  static constexpr size_t kChunk = 64;
  static constexpr int kFewTaps = 4;

  int last_of(int i) const { return std::min(rows.starts[i] + rows.taps, rows.last) - 1; }

  void resize_columns(const uint8_t* row, uint8_t* out) {
    int *sums = sums_.data(), *samples = samples_.data();
    if (channels_ == 3)
      for (size_t i = 0; i < samples_.size(); ++i) samples[i] = row[i];
    if (channels_ == 1)
      resize_gray(columns, row, sums);
    else if (columns.pairs == 1)
      resize_color<1>(columns, samples, sums);
    else if (columns.pairs == 2)
      resize_color<2>(columns, samples, sums);
    else
      resize_color<0>(columns, samples, sums);
    round_sums(sums, width_, out);
  }

  void resize_rows(int i, uint8_t* out) const {
    const int* weights = &rows.weights[size_t(i) * rows.taps];
    const int taps = last_of(i) + 1 - rows.starts[i];
    if (taps == rows.taps && taps <= kFewTaps) {
      const uint8_t* kept[kFewTaps];
      for (int t = 0; t < taps; ++t) kept[t] = kept_row(rows.starts[i] + t);
      if (taps == 1) return weigh_rows<1>(kept, weights, stride_, out);
      if (taps == 2) return weigh_rows<2>(kept, weights, stride_, out);
      if (taps == 3) return weigh_rows<3>(kept, weights, stride_, out);
      return weigh_rows<kFewTaps>(kept, weights, stride_, out);
    }
    for (size_t start = 0; start < size_; start += kChunk) {
      int sums[kChunk];
      for (size_t j = 0; j < kChunk; ++j) sums[j] = 1 << (kPrecision - 1);
      for (int t = 0; t < taps; ++t) {
        const uint8_t* in = kept_row(rows.starts[i] + t) + start;
        for (size_t j = 0; j < kChunk; ++j) sums[j] += weights[t] * in[j];
      }
      round_sums(sums, kChunk, out + start);
    }
  }

  const uint8_t* kept_row(int number) const { return &kept_[stride_ * (number % rows.taps)]; }

  int channels_ = 3, next_row_ = 0;
  bool rows_first_ = false;
  size_t width_ = 0, size_ = 0, stride_ = 0;  // of a new row, of a kept row, and with padding
  uint8_t* out_ = nullptr;
  std::vector<uint8_t> kept_;  // the last rows, resized unless `rows_first_`
  std::vector<int> samples_, sums_;  // of an old and of a new row
  std::vector<uint8_t> last_;  // the new row, with padding
};
