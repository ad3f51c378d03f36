// The grid of a launch on one CPU thread. Threads of a block that wait for each other have a
// stack each and take turns at barriers, and at products of a warp, which are computed when all
// of it have come to the same one. Which goes first is free on a GPU, so here it is
// what STANDIN says: in order, reverse, or shuffle, which is another order at each barrier.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
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
struct Copy { void *to; const void *from; int size; bool done; };
// What a thread brings to a warp's product, see src/tensor.h, or to a warpgroup's, see
// src/hopper.h, or where its number is of which a warp wants the largest. NONE if it waits for none.
struct Operands {
  enum { NONE, INT8, BF16, MAX, GROUP_INT8, GROUP_BF16 } kind;
  void *c;
  const unsigned *a;
  unsigned b[2];
  int tiles;
  bool add;
  unsigned long long columns;
  bool group() const { return kind == GROUP_INT8 || kind == GROUP_BF16; }
};
struct Thread {
  ucontext_t context;
  jmp_buf at;
  std::vector<char> stack;
  bool begun, ended;
  std::deque<std::vector<Copy>> copies;  // groups, the last of which has no end yet
  std::vector<Copy> unseen;              // copies that products of warpgroups may not read yet
  Operands operands;
  bool ready;                   // registers of products, since the last group's end
  size_t begun_products;        // of its warpgroup, ever
  std::deque<size_t> products;  // what it was at the end of groups
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

// broken_rule is a rule of a GPU that a thread broke, and which fails the launch.
const char *broken_rule;
void break_rule(const char *rule) {
  if (!broken_rule) std::fprintf(stderr, "stand-in: thread %u: %s\n", running, rule);
  broken_rule = rule;
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

// Elements of A and B as the threads of a warp have them, and sums that they are added to.
void multiply_int8(const Thread *warp) {
  int8_t a[16][32], b[32][8];
  for (int t = 0; t < 32; t++)
    for (int j = 0; j < 4; j++) {
      const Operands &o = warp[t].operands;
      for (int r = 0; r < 4; r++)
        a[t / 4 + r % 2 * 8][t % 4 * 4 + j + r / 2 * 16] = (int8_t)(o.a[r] >> 8 * j);
      for (int r = 0; r < 2; r++) b[t % 4 * 4 + j + r * 16][t / 4] = (int8_t)(o.b[r] >> 8 * j);
    }
  for (int t = 0; t < 32; t++)
    for (int i = 0; i < 4; i++) {
      int &c = static_cast<int *>(warp[t].operands.c)[i];
      for (int k = 0; k < 32; k++) c += a[t / 4 + i / 2 * 8][k] * b[k][t % 4 * 2 + i % 2];
    }
}

// A sum of 16 products. The order is a choice of this stand-in: ascending, in float64, rounded
// once. GPUs do it otherwise, and round otherwise, too. Of sums that are no whole numbers the
// stand-in spoils some if it is told to: leaky ones depend on what the column beside them has,
// coarse ones lose a bit in 256. Newer ones are rounded after each product; so are those of
// warpgroups, if they are told to be apart.
float sum_bf16(float c, const float *a, const float *b, bool beside, bool apart) {
  static const bool leaky = told("leaky"), coarse = told("coarse"), newer = told("newer");
  double sum = c;
  for (int k = 0; k < 16; k++)
    if (sum += (double)a[k] * b[k]; newer || apart) sum = (float)sum;
  c = (float)sum;
  if (c == std::trunc(c)) return c;
  if (leaky && beside) c = __uint_as_float(__float_as_uint(c) ^ 1);
  return coarse ? c * (1 + 0x1p-8f) : c;
}

void multiply_bf16(const Thread *warp) {
  float a[16][16], b[8][16];
  for (int t = 0; t < 32; t++)
    for (int j = 0; j < 2; j++) {
      const Operands &o = warp[t].operands;
      for (int r = 0; r < 4; r++)
        a[t / 4 + r % 2 * 8][t % 4 * 2 + j + r / 2 * 8] =
            __uint_as_float(o.a[r] >> 16 * j << 16);
      for (int r = 0; r < 2; r++)
        b[t / 4][t % 4 * 2 + j + r * 8] = __uint_as_float(o.b[r] >> 16 * j << 16);
    }
  for (int t = 0; t < 32; t++)
    for (int i = 0; i < 4; i++) {
      float &c = static_cast<float *>(warp[t].operands.c)[i];
      const int column = t % 4 * 2 + i % 2;
      const bool beside = __float_as_uint(b[(column + 1) % 8][0]) & 0x10000u;
      c = sum_bf16(c, a[t / 4 + i / 2 * 8], b[column], beside, false);
    }
}

// The largest number of a warp's, for each of its threads.
void find_max(const Thread *warp) {
  unsigned largest = 0;
  for (int t = 0; t < 32; t++)
    largest = std::max(largest, *static_cast<unsigned *>(warp[t].operands.c));
  for (int t = 0; t < 32; t++) *static_cast<unsigned *>(warp[t].operands.c) = largest;
}

#include "groups.h"

// Computes the products of n threads from the first on, as long as they come to some of a warp,
// one after the other. False if some of a warp come to one and others do not, or to another one.
bool run_products(unsigned first, unsigned n, Order order) {
  for (;;) {
    Thread *warp = &threads[first];
    const auto kind = warp[0].operands.kind;
    for (unsigned i = 0; i < n; i++)
      if (warp[i].operands.kind != kind) return false;
    if (kind == Operands::NONE || warp[0].operands.group()) return true;
    if (n != 32) return false;
    if (kind == Operands::MAX)
      find_max(warp);
    else
      kind == Operands::INT8 ? multiply_int8(warp) : multiply_bf16(warp);
    for (unsigned i : ordered(n, order)) {
      warp[i].operands.kind = Operands::NONE;
      resume(first + i);
    }
  }
}

// Runs a block's threads from barrier to barrier. False if some wait for others that ended.
bool run_waiting(unsigned n, Order order, const std::function<void()> &body) {
  if (threads.size() < n) threads.resize(n);
  thread_body = &body, order_now = order, broken_rule = nullptr;
  groups.assign((n + 127) / 128, {});
  for (unsigned i = 0; i < n; i++) {
    Thread &t = threads[i];
    t.stack.resize(stack_bytes);
    t.begun = t.ended = false;
    t.copies.assign(1, {});
    t.unseen.clear();
    t.operands.kind = Operands::NONE;
    t.ready = false, t.begun_products = 0;
    t.products.clear();
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = t.stack.data(), t.context.uc_stack.ss_size = stack_bytes;
    t.context.uc_link = nullptr;
    makecontext(&t.context, thread_main, 0);
  }
  for (;;) {
    for (unsigned i : ordered(n, order)) resume(i);
    for (bool again = true; again;) {
      again = false;
      for (unsigned w : ordered((n + 31) / 32, order))
        if (!run_products(32 * w, n - 32 * w < 32 ? n - 32 * w : 32, order)) return false;
      for (unsigned g : ordered(n / 128, order)) again |= run_group(g, order);
      if (broken_rule) return false;
    }
    unsigned waiting = 0;
    for (unsigned i = 0; i < n; i++) {
      waiting += !threads[i].ended;
      if (threads[i].operands.kind != Operands::NONE) return false;
    }
    if (waiting != 0 && waiting != n) return false;
    if (waiting == 0) return products_ended();
  }
}

// Whether a block left the shared memory alone that it did not ask for.
bool kept_off(unsigned shared) {
  for (unsigned i = shared; i < most_dynamic_shared; i++)
    if (dynamic_shared[i] != 0xff) return false;
  return true;
}

// Runs all threads of a launch. Shared memory holds NaNs before each block.
bool run_grid(unsigned gx, unsigned gy, unsigned threads, unsigned shared, bool waits, Order order,
              const std::function<void()> &body) {
  gridDim = {gx, gy, 1}, blockDim = {threads, 1, 1};
  for (unsigned block : ordered(gx * gy, order)) {
    blockIdx = {block % gx, block / gx, 0};
    if (waits) {
      std::memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
      if (shared) std::memset(dynamic_shared, 0xff, most_dynamic_shared);
      if (shared) std::memset(shown, 0xff, most_dynamic_shared);
      if (!run_waiting(threads, order, body) || (shared && !kept_off(shared)))
        return false;
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
  const bool now = order_now == REVERSE || (order_now == SHUFFLE && random_below(2));
  if (now) std::memcpy(to, from, size);
  threads[running].copies.back().push_back({to, from, size, now});
}
void end_copies() { threads[running].copies.push_back({}); }
void wait_copies_to(unsigned groups) {
  Thread &t = threads[running];
  for (; t.copies.size() - 1 > groups; t.copies.pop_front())
    for (const Copy &c : t.copies.front()) {
      if (!c.done) std::memcpy(c.to, c.from, c.size);
      t.unseen.push_back(c);
    }
}

// Lets others run.
void pause_thread() {
  if (!_setjmp(threads[running].at)) _longjmp(scheduler, 1);
}
void __syncthreads() { pause_thread(); }
void mma_int8(int (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  threads[running].operands = {Operands::INT8, c, a, {b0, b1}, 0, false, 0};
  pause_thread();
}
void mma_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  threads[running].operands = {Operands::BF16, c, a, {b0, b1}, 0, false, 0};
  pause_thread();
}
unsigned warp_max(unsigned mine) {
  threads[running].operands = {Operands::MAX, &mine, nullptr, {}, 0, false, 0};
  pause_thread();
  return mine;
}

// Of products of warpgroups, see groups.h.
void begin_products() { threads[running].ready = true; }
void end_products() {
  Thread &t = threads[running];
  t.ready = false;
  t.products.push_back(t.begun_products);
}
void wait_products_to(unsigned groups_left) {
  Thread &t = threads[running];
  for (; t.products.size() > groups_left; t.products.pop_front())
    finish_products(groups[running / 128], t.products.front());
}
void show_copies() {
  for (const Copy &c : threads[running].unseen)
    if (const unsigned long long at = shared_address(c.to); at < most_dynamic_shared)
      std::memcpy(shown + at, c.to, c.size);
  threads[running].unseen.clear();
}
void group_int8_to(void *c, int tiles, const unsigned *a, unsigned long long b, bool add) {
  threads[running].operands = {Operands::GROUP_INT8, c, a, {}, tiles, add, b};
  pause_thread();
}
void group_bf16_to(void *c, int tiles, const unsigned *a, unsigned long long b, bool add) {
  threads[running].operands = {Operands::GROUP_BF16, c, a, {}, tiles, add, b};
  pause_thread();
}
