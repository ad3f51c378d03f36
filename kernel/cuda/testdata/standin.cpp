// A stand-in for NVIDIA's libcuda.so.1 and libnvidia-ml.so.1 on a machine without a GPU:
// the functions that drover calls, over memory of the host. Copies and kernels are queued
// and run when their stream is waited for, so a caller that does not wait reads old bytes.
//
// It takes machine code and PTX for what they are by their first bytes only, and runs the
// kernels that were compiled into it.
//
// STANDIN names what goes wrong, as words: none (no device), small (64 KiB of memory),
// lost (kernels fail, and all after them), blind (NVML says no), old (a driver of CUDA 11),
// sm_75 (an older device), damaged (images are), reverse or shuffle (threads run in another
// order, see threads.h). STANDIN_LOST, a number, lets so many kernels run before they fail;
// STANDIN_MEMORY is the memory in bytes.

#include <cstdint>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "../src/attend.cu"
#include "../src/choose.cu"
#include "../src/integer.cu"
#include "../src/mul.cu"
#include "../src/mul_few.cu"
#include "../src/mul_grouped.cu"
#include "../src/norm.cu"
#include "../src/rows.cu"

thread_local Index blockIdx, threadIdx, blockDim, gridDim;

#include "threads.h"

namespace {

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NO_DEVICE = 100, BAD_DEVICE = 101, BAD_IMAGE = 200,
       NO_CONTEXT = 201, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719 };

typedef std::function<void(void **)> Body;

template <typename T> T argument(void **a, int i) { return *static_cast<T *>(a[i]); }

template <typename... A, size_t... I>
Body body(void (*f)(A...), std::index_sequence<I...>) {
  return [f](void **a) { f(argument<A>(a, I)...); };
}
struct Known { std::string name; int arguments; Body run; bool waits; };
template <typename... A> Known known(const char *name, void (*f)(A...)) {
  return Known{name, (int)sizeof...(A), body(f, std::index_sequence_for<A...>()), false};
}
// A kernel whose threads wait for each other.
template <typename... A> Known waiting(const char *name, void (*f)(A...)) {
  Known k = known(name, f);
  k.waits = true;
  return k;
}

std::vector<Known> kernels = {
    known("mul_f32", mul_f32), known("mul_bf16", mul_bf16), known("add_rows", add_rows),
    known("scale_rows", scale_rows), known("rotate_rows", rotate_rows),
    known("quantise_rows", quantise_rows), known("mul_int8", mul_int8),
    known("mul_int4", mul_int4), known("norm_sums", norm_sums),
    known("norm_factors", norm_factors), known("norm_apply", norm_apply),
    known("swiglu_rows", swiglu_rows), known("embed_rows", embed_rows),
    known("gather_rows", gather_rows), known("scatter_rows", scatter_rows),
    known("attend_store_f32", attend_store_f32), known("attend_store_bf16", attend_store_bf16),
    known("attend_store_int8", attend_store_int8), waiting("attend_f32", attend_f32),
    waiting("attend_bf16", attend_bf16), waiting("attend_int8", attend_int8),
    known("attend_merge", attend_merge), known("mul_grouped_f32", mul_grouped_f32),
    known("mul_grouped_bf16", mul_grouped_bf16), known("mul_grouped_int8", mul_grouped_int8),
    known("mul_grouped_int4", mul_grouped_int4), known("gate_topk", gate_topk),
    waiting("sample_topk", sample_topk), waiting("sample_merge", sample_merge),
    known("sample_read", sample_read), waiting("mul_few_f32", mul_few_f32),
    waiting("mul_few_bf16", mul_few_bf16), waiting("mul_few_int8", mul_few_int8),
    waiting("mul_few_int4", mul_few_int4)};

std::mutex guard;
std::map<uintptr_t, size_t> memory, pinned;
// A stream is work that runs in order, up to a number of pieces of it.
struct Stream {
  std::deque<std::function<int()>> queued;
  size_t done = 0;  // pieces that ran, ever
  size_t end() { return done + queued.size(); }
};
std::set<Stream *> streams;
struct Event { Stream *stream; size_t point; };
size_t used = 0, launched = 0;
int broken = OK, contexts = 0;
thread_local void *current = nullptr;
int context_object, module_object;

bool told(const char *word) {
  const char *s = std::getenv("STANDIN");
  return s && std::string(s).find(word) != std::string::npos;
}

bool is_lost() {
  const char *after = std::getenv("STANDIN_LOST");
  return told("lost") || (after && launched >= (size_t)std::atol(after));
}

bool is_stream(void *s) { return streams.count(static_cast<Stream *>(s)) > 0; }

bool inside(const std::map<uintptr_t, size_t> &m, uintptr_t at, size_t n) {
  auto i = m.upper_bound(at);
  if (i == m.begin()) return false;
  --i;
  return at - i->first <= i->second && n <= i->second - (at - i->first);
}

size_t limit() {
  const char *bytes = std::getenv("STANDIN_MEMORY");
  return bytes ? std::atol(bytes) : told("small") ? 64 << 10 : 1 << 30;
}

int begin() { return broken ? broken : current && contexts > 0 ? OK : NO_CONTEXT; }

}  // namespace

#define API(name, ...) extern "C" int name(__VA_ARGS__)
#define BEGIN std::lock_guard<std::mutex> hold(guard); if (int e = begin()) return e

API(cuInit, unsigned) { return told("none") ? NO_DEVICE : OK; }
API(cuDriverGetVersion, int *v) { *v = told("old") ? 11080 : 12090; return OK; }
API(cuDeviceGetCount, int *n) { *n = 2; return OK; }
API(cuDeviceGet, int *d, int i) { *d = i; return i < 0 || i > 1 ? BAD_DEVICE : OK; }
API(cuDeviceGetName, char *s, int n, int d) {
  std::strncpy(s, d ? "Stand-in B" : "Stand-in A", n);
  return OK;
}
API(cuDeviceGetPCIBusId, char *s, int n, int d) {
  std::strncpy(s, d ? "0000:41:00.0" : "0000:0A:00.0", n);
  return OK;
}
API(cuDeviceGetAttribute, int *v, int what, int) {
  *v = what == 16 ? 132 : what == 75 ? (told("sm_75") ? 7 : 9) : told("sm_75") ? 5 : 0;
  return OK;
}
API(cuDeviceTotalMem_v2, size_t *n, int) { *n = limit(); return OK; }
API(cuDevicePrimaryCtxRetain, void **c, int) {
  std::lock_guard<std::mutex> hold(guard);
  contexts++;
  *c = &context_object;
  return OK;
}
API(cuDevicePrimaryCtxRelease_v2, int) {
  std::lock_guard<std::mutex> hold(guard);
  if (--contexts == 0) broken = OK;
  return OK;
}
API(cuCtxSetCurrent, void *c) { current = c; return c == &context_object ? OK : INVALID; }
API(cuGetErrorName, int e, const char **s) {
  static const std::map<int, const char *> names = {
      {INVALID, "CUDA_ERROR_INVALID_VALUE"}, {NO_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
      {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"}, {BAD_IMAGE, "CUDA_ERROR_INVALID_IMAGE"},
      {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"}, {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"}};
  auto i = names.find(e);
  if (i == names.end()) return INVALID;
  *s = i->second;
  return OK;
}

static int allocate(std::map<uintptr_t, size_t> &m, uintptr_t *p, size_t n) {
  if (n == 0) return INVALID;
  if (n > limit() - used) return NO_MEMORY;
  *p = reinterpret_cast<uintptr_t>(std::malloc(n));
  std::memset(reinterpret_cast<void *>(*p), 0xa5, n);
  m[*p] = n;
  used += n;
  return OK;
}
static int run_to(Stream *s, size_t point) {
  while (s->done < point && !s->queued.empty()) {
    std::function<int()> f = std::move(s->queued.front());
    s->queued.pop_front();
    s->done++;
    if (!broken)
      if (int e = f()) broken = e;
  }
  return broken;
}
static int run_queue(void *s) {
  Stream *stream = static_cast<Stream *>(s);
  return run_to(stream, stream->end());
}
static int run_all() {
  for (Stream *s : streams) run_queue(s);
  return broken;
}
static int release(std::map<uintptr_t, size_t> &m, uintptr_t p) {
  auto i = m.find(p);
  if (i == m.end()) return INVALID;
  if (int e = run_all()) return e;
  used -= i->second;
  std::free(reinterpret_cast<void *>(p));
  m.erase(i);
  return OK;
}
API(cuMemAlloc_v2, uintptr_t *p, size_t n) { BEGIN; return allocate(memory, p, n); }
API(cuMemFree_v2, uintptr_t p) { BEGIN; return release(memory, p); }
API(cuMemHostAlloc, uintptr_t *p, size_t n, unsigned) { BEGIN; return allocate(pinned, p, n); }
API(cuMemFreeHost, uintptr_t p) { BEGIN; return release(pinned, p); }

static int copy(uintptr_t to, uintptr_t from, size_t n, void *s) {
  static_cast<Stream *>(s)->queued.push_back([=] {
    std::memcpy(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), n);
    return OK;
  });
  return OK;
}
API(cuMemcpyHtoDAsync_v2, uintptr_t to, uintptr_t from, size_t n, void *s) {
  BEGIN;
  if (!is_stream(s) || !inside(memory, to, n) || !inside(pinned, from, n)) return INVALID;
  return copy(to, from, n, s);
}
API(cuMemcpyDtoHAsync_v2, uintptr_t to, uintptr_t from, size_t n, void *s) {
  BEGIN;
  if (!is_stream(s) || !inside(pinned, to, n) || !inside(memory, from, n)) return INVALID;
  return copy(to, from, n, s);
}
API(cuMemsetD8Async, uintptr_t to, unsigned char v, size_t n, void *s) {
  BEGIN;
  if (!is_stream(s) || !inside(memory, to, n)) return INVALID;
  static_cast<Stream *>(s)->queued.push_back(
      [=] { std::memset(reinterpret_cast<void *>(to), v, n); return OK; });
  return OK;
}
API(cuMemGetInfo_v2, size_t *free, size_t *total) {
  BEGIN;
  *free = limit() - used, *total = limit();
  return OK;
}
API(cuStreamCreate, void **s, unsigned) {
  BEGIN;
  Stream *stream = new Stream;
  streams.insert(stream);
  *s = stream;
  return OK;
}
API(cuStreamDestroy_v2, void *s) {
  std::lock_guard<std::mutex> hold(guard);
  if (!is_stream(s)) return INVALID;
  int e = run_queue(s);
  streams.erase(static_cast<Stream *>(s));
  delete static_cast<Stream *>(s);
  return e;
}
API(cuStreamSynchronize, void *s) { BEGIN; return is_stream(s) ? run_queue(s) : INVALID; }
API(cuEventCreate, void **e, unsigned) { BEGIN; *e = new Event{nullptr, 0}; return OK; }
API(cuEventDestroy_v2, void *e) { delete static_cast<Event *>(e); return OK; }
API(cuEventRecord, void *e, void *s) {
  BEGIN;
  if (!is_stream(s)) return INVALID;
  *static_cast<Event *>(e) = Event{static_cast<Stream *>(s), static_cast<Stream *>(s)->end()};
  return OK;
}
static int run_event(Event e) { return is_stream(e.stream) ? run_to(e.stream, e.point) : broken; }
API(cuEventSynchronize, void *e) { BEGIN; return run_event(*static_cast<Event *>(e)); }
API(cuEventElapsedTime, float *milliseconds, void *, void *) {
  BEGIN;
  *milliseconds = 1;
  return OK;
}
API(cuStreamWaitEvent, void *s, void *e, unsigned) {
  BEGIN;
  if (!is_stream(s)) return INVALID;
  static_cast<Stream *>(s)->queued.push_back(
      [event = *static_cast<Event *>(e)] { return run_event(event); });
  return OK;
}
API(cuModuleLoadData, void **m, const void *bytes) {
  BEGIN;
  const char *image = static_cast<const char *>(bytes);
  if (told("damaged")) return BAD_IMAGE;
  if (std::strncmp(image, "\x7f" "ELF", 4) && std::strncmp(image, "//", 2)) return BAD_IMAGE;
  *m = &module_object;
  return OK;
}
API(cuModuleUnload, void *m) { BEGIN; return m == &module_object ? OK : INVALID; }
API(cuModuleGetFunction, void **f, void *m, const char *name) {
  BEGIN;
  if (m != &module_object) return INVALID;
  for (auto &k : kernels)
    if (k.name == name) { *f = &k; return OK; }
  return NOT_FOUND;
}
API(cuLaunchKernel, void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
    unsigned bz, unsigned shared, void *s, void **arguments, void **extra) {
  BEGIN;
  if (!is_stream(s) || gz != 1 || by != 1 || bz != 1 || shared || extra || !gx || !gy ||
      !bx || gy > 65535 || bx > 1024)
    return INVALID;
  const Known *k = static_cast<const Known *>(f);
  std::vector<uint64_t> values(k->arguments);
  for (int i = 0; i < k->arguments; i++) values[i] = *static_cast<uint64_t *>(arguments[i]);
  static_cast<Stream *>(s)->queued.push_back([=]() mutable -> int {
    if (is_lost()) return ILLEGAL_ADDRESS;
    launched++;
    std::vector<void *> a;
    for (auto &v : values) a.push_back(&v);
    const Order order = told("reverse") ? REVERSE : told("shuffle") ? SHUFFLE : FORWARD;
    if (!run_grid(gx, gy, bx, k->waits, order, [&] { k->run(a.data()); })) return LAUNCH_FAILED;
    return OK;
  });
  return OK;
}

API(nvmlInit_v2) { return told("blind") ? 9 : OK; }
API(nvmlShutdown) { return OK; }
API(nvmlSystemGetDriverVersion, char *s, unsigned n) { std::strncpy(s, "575.0", n); return OK; }
API(nvmlDeviceGetHandleByPciBusId_v2, const char *bus, void **h) {
  static int devices[2];
  if (!std::strcmp(bus, "0000:0A:00.0")) *h = &devices[0];
  else if (!std::strcmp(bus, "0000:41:00.0")) *h = &devices[1];
  else return 6;
  return OK;
}
API(nvmlDeviceGetMemoryInfo, void *, uint64_t *m) {
  m[0] = limit(), m[1] = limit() / 2, m[2] = limit() / 2;
  return OK;
}
API(nvmlDeviceGetTemperature, void *, int, unsigned *t) { *t = 41; return OK; }
API(nvmlDeviceGetPowerUsage, void *, unsigned *p) { *p = 70500; return OK; }
