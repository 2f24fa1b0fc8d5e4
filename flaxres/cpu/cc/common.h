// SIMD vectors, parallel loops, and the interface to XLA's FFI.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Array = ffi::Buffer<ffi::F32>;

// Arguments of a call from XLA. All functions share this type, because each further type adds half
// a second of compilation.
struct Call {
  ffi::RemainingArgs arrays;
  ffi::RemainingRets results;
  ffi::Dictionary attributes;

  Array array(size_t i) const { return *arrays.get<Array>(i); }
  Array result(size_t i) const { return **results.get<Array>(i); }
  int64_t integer(const char* name) const { return *attributes.get<int64_t>(name); }
  bool flag(const char* name) const { return *attributes.get<bool>(name); }
  float number(const char* name) const { return *attributes.get<float>(name); }
};

// Defines flaxres_NAME, an FFI handler that XLA can call, from the function NAME(pool, call).
#define FLAXRES_FUNCTION(name)                                                                \
  static ffi::Error call_##name(ffi::ThreadPool pool, ffi::RemainingArgs arrays,              \
                                ffi::RemainingRets results, ffi::Dictionary attributes) {     \
    name(pool, Call{arrays, results, attributes});                                            \
    return ffi::Error::Success();                                                             \
  }                                                                                           \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                              \
      flaxres_##name, call_##name,                                                            \
      ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attrs())

#if defined(__AVX512F__)
constexpr int kLanes = 16, kTile = 16;  // vectors of results, kept in 32 registers
#elif defined(__AVX__)
constexpr int kLanes = 8, kTile = 8;  // kept in 16 registers
#else
constexpr int kLanes = 4, kTile = 8;
#endif
typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

static inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
static inline void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }

// Number of partial sums in a reduction over the batch. It is fixed, so that results do not depend
// on the number of threads.
constexpr int64_t kParts = 16;

// Runs task(0), ..., task(n - 1) on the threads of the pool and on this thread.
template <class Task>
static void parallel(ffi::ThreadPool& pool, int64_t n, Task task) {
  struct Progress {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto progress = std::make_shared<Progress>();
  auto work = [progress, n, task] {
    int64_t finished = 0;  // tasks that this thread has run
    for (int64_t i; (i = progress->next.fetch_add(1)) < n; ++finished) task(i);
    if (finished && progress->done.fetch_add(finished) + finished == n) {
      std::lock_guard<std::mutex> lock(progress->mutex);
      progress->all_done.notify_all();
    }
  };
  // A thread that starts late finds no task left, so no thread waits for one that has not started.
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), n) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([work] { work(); });
  work();
  for (int i = 0; i < 200 && progress->done.load() < n; ++i) std::this_thread::yield();
  std::unique_lock<std::mutex> lock(progress->mutex);
  progress->all_done.wait(lock, [&] { return progress->done.load() == n; });
}
