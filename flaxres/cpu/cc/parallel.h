// Parallel loops on XLA's thread pool.

#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "xla_call.h"

// Base of the number of tasks of a loop over the batch. It is fixed, so that the order of sums does
// not depend on the number of threads.
constexpr int64_t kParts = 16;

// Time that a thread spins for the next loop, or for the end of its own, before it sleeps. Waking a
// sleeping thread takes as long as a loop over small images.
constexpr std::chrono::microseconds kSpinTime(50);

// Spins until `condition` is true, for about kSpinTime. Returns false if it is still false.
template <class Condition>
static bool spin_until(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + kSpinTime;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return condition();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  return true;
}

// A parallel loop. Thread t starts with range t of the tasks, then helps with the others, so it
// mostly reads images that it wrote itself in the previous loop and still has in its cache.
class Loop {
 public:
  int64_t number = 0;  // position among the loops of this process, from 1

  Loop(std::function<void(int64_t)> task, int64_t tasks, int64_t threads)
      : task_(std::move(task)), tasks_(tasks), threads_(threads), ranges_(new TaskRange[threads]) {
    for (int64_t t = 0; t < threads; ++t)
      ranges_[t].next = t * tasks / threads, ranges_[t].end = (t + 1) * tasks / threads;
  }
  bool is_done() const { return done_.load() == tasks_; }
  // Runs tasks as the next thread. The thread that starts the loop is thread 0.
  void run_as_next_thread() { run(num_started_.fetch_add(1)); }
  // Runs tasks as thread `thread` until none is left.
  void run(int64_t thread) {
    int64_t finished = 0;
    for (int64_t t = thread; t < thread + threads_; ++t) {
      TaskRange& range = ranges_[t % threads_];
      for (int64_t i; (i = range.next.fetch_add(1)) < range.end; ++finished) task_(i);
    }
    if (finished && done_.fetch_add(finished) + finished == tasks_) {
      std::lock_guard<std::mutex> lock(mutex_);
      all_done_.notify_all();
    }
  }
  // Blocks until all tasks are done.
  void wait() {
    if (spin_until([this] { return is_done(); })) return;
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, [this] { return is_done(); });
  }

 private:
  struct alignas(64) TaskRange {
    std::atomic<int64_t> next;
    int64_t end;
  };
  std::function<void(int64_t)> task_;
  int64_t tasks_, threads_;
  std::unique_ptr<TaskRange[]> ranges_;
  std::atomic<int64_t> num_started_{1}, done_{0};
  std::mutex mutex_;
  std::condition_variable all_done_;
};

// Threads that have finished a loop and spin for the next one.
class SpinningThreads {
 public:
  // Announces `loop`. Returns the number of spinning threads, which will run it.
  int64_t announce(const std::shared_ptr<Loop>& loop) {
    std::lock_guard<std::mutex> lock(mutex_);
    current_ = loop;
    loop->number = number_.load() + 1;
    number_.store(loop->number);
    return ready_;
  }
  // Returns the loop that starts after `loop`, or null if none starts within kSpinTime.
  std::shared_ptr<Loop> wait_for_next(const Loop& loop) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ++ready_;
    }
    const bool has_next = spin_until([&] { return number_.load() != loop.number; });
    std::lock_guard<std::mutex> lock(mutex_);
    --ready_;
    return has_next || number_.load() != loop.number ? current_ : nullptr;
  }

 private:
  std::mutex mutex_;
  std::shared_ptr<Loop> current_;
  std::atomic<int64_t> number_{0};  // of the current loop
  int64_t ready_ = 0;
};

// Runs task(0), ..., task(n - 1) on the threads of the pool and on this thread.
static void parallel(const ThreadPool& pool, int64_t n, std::function<void(int64_t)> task) {
  // Never destroyed, because threads may outlive static variables.
  static SpinningThreads& spinning = *new SpinningThreads;
  if (n <= 1 || pool.num_threads() <= 1) {
    for (int64_t i = 0; i < n; ++i) task(i);
    return;
  }
  const int64_t threads = std::min<int64_t>(pool.num_threads(), n);
  const auto loop = std::make_shared<Loop>(std::move(task), n, threads);
  // A thread that starts late finds no task left, so the caller never waits for it.
  for (int64_t t = 1 + spinning.announce(loop); t < threads; ++t)
    pool.schedule([first = loop] {
      for (auto loop = first; loop; loop = spinning.wait_for_next(*loop))
        loop->run_as_next_thread();
    });
  loop->run(0);
  loop->wait();
}
