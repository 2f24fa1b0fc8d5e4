// Loops over XLA's threads.

#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "xla_call.h"

// Number of partial sums in a reduction over the batch. It is fixed, so that results do not depend
// on the number of threads.
constexpr int64_t kParts = 16;

// Time that a thread stays ready for the next loop, and that it waits for the end of its own loop,
// before it sleeps. Waking a thread takes as long as the loops over small images.
constexpr std::chrono::microseconds kReady(50);

// Waits until `condition` is true, for about kReady. Returns false if it is still false.
template <class Condition>
static bool wait_briefly(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + kReady;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return condition();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  return true;
}

// A loop, shared by the threads that run it. Thread t begins with part t of the tasks and then
// helps with the other parts. A thread therefore reads the images that it has written in the loop
// before, which its cache still holds.
class Loop {
 public:
  int64_t number = 0;  // counts the loops of this process

  Loop(std::function<void(int64_t)> task, int64_t tasks, int64_t threads)
      : task_(std::move(task)), tasks_(tasks), threads_(threads), parts_(new Part[threads]) {
    for (int64_t t = 0; t < threads; ++t)
      parts_[t].next = t * tasks / threads, parts_[t].end = (t + 1) * tasks / threads;
  }
  bool is_done() const { return done_.load() == tasks_; }
  // Runs tasks until none is left. The thread that starts the loop is thread 0.
  void join() { run(joined_.fetch_add(1)); }
  void run(int64_t thread) {
    int64_t finished = 0;
    for (int64_t t = thread; t < thread + threads_; ++t) {
      Part& part = parts_[t % threads_];
      for (int64_t i; (i = part.next.fetch_add(1)) < part.end; ++finished) task_(i);
    }
    if (finished && done_.fetch_add(finished) + finished == tasks_) {
      std::lock_guard<std::mutex> lock(mutex_);
      all_done_.notify_all();
    }
  }
  void wait() {
    if (wait_briefly([this] { return is_done(); })) return;
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, [this] { return is_done(); });
  }

 private:
  struct alignas(64) Part {
    std::atomic<int64_t> next;
    int64_t end;
  };
  std::function<void(int64_t)> task_;
  int64_t tasks_, threads_;
  std::unique_ptr<Part[]> parts_;
  std::atomic<int64_t> joined_{1}, done_{0};
  std::mutex mutex_;
  std::condition_variable all_done_;
};

// The threads that have run a loop and are ready for the next one.
class Crew {
 public:
  // Makes `loop` the current one. Returns the number of threads that will join it.
  int64_t start(const std::shared_ptr<Loop>& loop) {
    std::lock_guard<std::mutex> lock(mutex_);
    current_ = loop;
    loop->number = number_.load() + 1;
    number_.store(loop->number);
    return ready_;
  }
  // Returns the loop that starts after `loop`, or null if none does so soon.
  std::shared_ptr<Loop> after(const Loop& loop) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ++ready_;
    }
    const bool has_next = wait_briefly([&] { return number_.load() != loop.number; });
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
  static Crew& crew = *new Crew;  // never destroyed, because threads may outlive static variables
  if (n <= 1 || pool.num_threads() <= 1) {
    for (int64_t i = 0; i < n; ++i) task(i);
    return;
  }
  const int64_t threads = std::min<int64_t>(pool.num_threads(), n);
  const auto loop = std::make_shared<Loop>(std::move(task), n, threads);
  // A thread that starts late finds no task left, so no thread waits for one that has not started.
  for (int64_t t = 1 + crew.start(loop); t < threads; ++t)
    pool.schedule([first = loop] {
      for (auto loop = first; loop; loop = crew.after(*loop)) loop->join();
    });
  loop->run(0);
  loop->wait();
}
