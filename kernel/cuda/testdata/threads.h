// The grid of a launch on one CPU thread. Threads of a block that wait for each other have a
// stack each and take turns at barriers. Which goes first is free on a GPU, so here it is
// what STANDIN says: in order, reverse, or shuffle, which is another order at each barrier.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <numeric>
#include <vector>

extern char __start_shared_memory[], __stop_shared_memory[];

namespace {

enum Order { FORWARD, REVERSE, SHUFFLE };

unsigned random_below(unsigned n) {
  static uint64_t state = 1;
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (state >> 33) % n;
}

// Numbers 0 to n-1 in an order.
std::vector<unsigned> ordered(unsigned n, Order o) {
  std::vector<unsigned> v(n);
  std::iota(v.begin(), v.end(), 0u);
  if (o == REVERSE)
    for (unsigned i = 0; i < n; i++) v[i] = n - 1 - i;
  for (unsigned i = n; o == SHUFFLE && i > 1; i--) std::swap(v[i - 1], v[random_below(i)]);
  return v;
}

const unsigned stack_bytes = 64 << 10;
struct Copy { void *to; const void *from; int size; };
struct Thread {
  ucontext_t context;
  jmp_buf at;
  std::vector<char> stack;
  bool begun, ended;
  std::deque<std::vector<Copy>> copies;  // groups, the last of which has no end yet
};
std::vector<Thread> threads;
jmp_buf scheduler;  // jumps need no system call, as contexts do
unsigned running;
Order order_now;
const std::function<void()> *thread_body;

void thread_main() {
  (*thread_body)();
  threads[running].ended = true;
  _longjmp(scheduler, 1);
}

// Runs a thread to its next barrier, or its end.
void resume(unsigned i) {
  running = i, threadIdx = {i, 0, 0};
  Thread &t = threads[i];
  if (_setjmp(scheduler)) return;
  if (t.begun) _longjmp(t.at, 1);
  t.begun = true;
  setcontext(&t.context);
}

// Runs a block's threads from barrier to barrier. False if some wait for others that ended.
bool run_waiting(unsigned n, Order order, const std::function<void()> &body) {
  if (threads.size() < n) threads.resize(n);
  thread_body = &body, order_now = order;
  for (unsigned i = 0; i < n; i++) {
    Thread &t = threads[i];
    t.stack.resize(stack_bytes);
    t.begun = t.ended = false;
    t.copies.assign(1, {});
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = t.stack.data(), t.context.uc_stack.ss_size = stack_bytes;
    t.context.uc_link = nullptr;
    makecontext(&t.context, thread_main, 0);
  }
  for (;;) {
    unsigned waiting = 0;
    for (unsigned i : ordered(n, order)) {
      resume(i);
      waiting += !threads[i].ended;
    }
    if (waiting != 0 && waiting != n) return false;
    if (waiting == 0) return true;
  }
}

// Runs all threads of a launch. Shared memory holds NaNs before each block.
bool run_grid(unsigned gx, unsigned gy, unsigned threads, bool waits, Order order,
              const std::function<void()> &body) {
  gridDim = {gx, gy, 1}, blockDim = {threads, 1, 1};
  for (unsigned block : ordered(gx * gy, order)) {
    blockIdx = {block % gx, block / gx, 0};
    if (waits) {
      std::memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
      if (!run_waiting(threads, order, body)) return false;
      continue;
    }
    for (unsigned t : ordered(threads, order)) {
      threadIdx = {t, 0, 0};
      body();
    }
  }
  return true;
}

}  // namespace

// When copies happen is free, too: as late as can be where threads run in order, so that a
// missing wait shows; at once in reverse, so that memory which is still read shows.
void begin_copy(void *to, const void *from, int size) {
  const uintptr_t bits = reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from);
  if (bits % size) std::abort();
  if (order_now == REVERSE || (order_now == SHUFFLE && random_below(2)))
    std::memcpy(to, from, size);
  else
    threads[running].copies.back().push_back({to, from, size});
}
void end_copies() { threads[running].copies.push_back({}); }
void wait_copies_to(unsigned groups) {
  auto &copies = threads[running].copies;
  for (; copies.size() - 1 > groups; copies.pop_front())
    for (const Copy &c : copies.front()) std::memcpy(c.to, c.from, c.size);
}

void __syncthreads() {
  if (!_setjmp(threads[running].at)) _longjmp(scheduler, 1);
}
