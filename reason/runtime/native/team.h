// The threads that a kernel runs on.
//
// OpenMP's own would sleep between any two kernels as soon as anything else in the process has had a parallel region in
// another thread, torch's operations in the caller's included: libgomp then counts more threads than cores and hardly
// waits awake, and a decode step takes up to 1.6 times as long. A team belongs to the thread that runs kernels, waits
// awake for a while and sleeps then.

#pragma once

#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

namespace {

std::atomic<int> awake{0};  // members of all teams that are at work or wait awake

// A number that threads wait on.
class Signal {
 public:
  uint32_t value() const { return word_.load(std::memory_order_acquire); }

  void set(uint32_t value) {
    word_.store(value);
    if (sleepers_.load()) wake();
  }

  // Subtracts one; who comes to zero wakes the others.
  void count_down() {
    if (word_.fetch_sub(1) == 1 && sleepers_.load()) wake();
  }

  // Returns once the number is another than `old`: awake for so many cycles, then asleep.
  void await_change(uint32_t old, uint64_t cycles) {
    const uint64_t began = __rdtsc();
    while (value() == old) {
      if (__rdtsc() - began > cycles) return sleep_while(old);
      _mm_pause();
    }
  }

 private:
  void sleep_while(uint32_t old) {
    --awake;
    sleepers_.fetch_add(1);
    while (word_.load() == old) call(FUTEX_WAIT_PRIVATE, old);
    sleepers_.fetch_sub(1);
    ++awake;
  }

  void wake() { call(FUTEX_WAKE_PRIVATE, 0x7fffffff); }

  void call(int what, uint32_t number) { syscall(SYS_futex, &word_, what, number, nullptr, nullptr, 0); }

  alignas(64) std::atomic<uint32_t> word_{0};
  std::atomic<uint32_t> sleepers_{0};
};

class Team;

// One thread's place in a team.
struct Member {
  Team* team;
  int64_t number, count;

  // The part of 0 ... total that is this member's.
  struct Part {
    int64_t begin, end;
  };
  Part part(int64_t total) const {
    const int64_t each = total / count, more = total % count;
    const int64_t begin = number * each + (number < more ? number : more);
    return {begin, begin + each + (number < more)};
  }

  // Waits until all members are here.
  void meet() const;
};

class Team {
 public:
  // The calling thread's, of `count` members, the calling thread among them.
  static Team& mine(int count) {
    thread_local std::unique_ptr<Team, End> team;
    if (!team || team->wanted_ != count || team->forks_ != forks()) {
      team.reset();
      team.reset(new Team(count));
    }
    return *team;
  }

  template <typename Work>
  void run(const Work& work) {
    work_ = [](const void* work, const Member& member) { (*static_cast<const Work*>(work))(member); };
    argument_ = &work;
    ++awake;
    busy_.set(static_cast<uint32_t>(count_ - 1));
    round_.set(round_.value() + 1);
    work(Member{this, 0, count_});
    for (uint32_t left; (left = busy_.value());) busy_.await_change(left, patience());
    --awake;
  }

  void meet() {
    const uint32_t phase = phase_.value();
    if (arrived_.fetch_add(1) + 1 == count_) {
      arrived_.store(0);
      phase_.set(phase + 1);
    } else {
      phase_.await_change(phase, patience());
    }
  }

  ~Team() {
    ending_ = true;
    round_.set(round_.value() + 1);
    for (auto& thread : threads_) thread.join();
  }

 private:
  // After a fork the threads are the parent process's, and the team can only be left.
  struct End {
    void operator()(Team* team) const {
      if (team->forks_ == forks()) delete team;
    }
  };

  explicit Team(int count) : wanted_(count), forks_(forks()) {
    threads_.reserve(static_cast<size_t>(count));
    try {
      for (int number = 1; number < count; ++number) threads_.emplace_back([this, number] { serve(number); });
    } catch (const std::system_error&) {  // the system has no more: those that there are will do
    }
    count_ = static_cast<int>(threads_.size()) + 1;
  }

  void serve(int number) {
    ++awake;
    for (uint32_t round = 0;;) {
      round_.await_change(round, patience());
      ++round;
      if (ending_) break;
      work_(argument_, Member{this, number, count_});
      busy_.count_down();
    }
    --awake;
  }

  // Cycles to wait awake: longer than what lies between two kernels, but little where more are awake than have cores.
  static uint64_t patience() { return awake.load(std::memory_order_relaxed) <= cores() ? 1000000 : 4000; }

  static int cores() {
    static const int count = [] {
      cpu_set_t set;
      return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
    }();
    return count;
  }

  static uint32_t forks() {
    static std::atomic<uint32_t> count{0};
    static const int watched = pthread_atfork(nullptr, nullptr, [] {
      ++count;
      awake = 0;
    });
    (void)watched;
    return count;
  }

  const int wanted_;
  const uint32_t forks_;
  int count_ = 1;
  void (*work_)(const void*, const Member&) = nullptr;
  const void* argument_ = nullptr;
  bool ending_ = false;
  Signal round_, busy_, phase_;
  alignas(64) std::atomic<int> arrived_{0};
  std::vector<std::thread> threads_;
};

inline void Member::meet() const {
  if (count > 1) team->meet();
}

// Calls work(member) in `count` threads at once, and returns when all have come to their end.
template <typename Work>
void in_threads(int count, const Work& work) {
  if (count > 1) return Team::mine(count).run(work);
  work(Member{nullptr, 0, 1});
}

}  // namespace
