// A stand-in for NVIDIA's libcuda.so.1 and libnvidia-ml.so.1 on a machine without a GPU:
// the functions that drover calls, over memory of the host. Copies and kernels are queued.
// Each stream runs in order, but streams wait for each other at events only, and what runs
// when, as far as they allow it, is what is worst for a caller that forgot one: as late as
// can be, when a stream is waited for, unless STANDIN says early or random.
//
// It takes machine code and PTX for what they are by their first bytes only, and runs the
// kernels that were compiled into it.
//
// STANDIN names what goes wrong, as words: none (no device), small (64 KiB of memory, and as much
// pinned), lost (kernels fail, and all after them), blind (NVML says no), old (a driver of CUDA
// 11), sm_75 (an older device), damaged (images are), reverse or shuffle (threads run in another
// order, see threads.h), nographs (none can be made), nolaunch (none can be launched), early
// (copies run as soon as their stream's earlier work lets them, kernels as late as can be),
// random (streams go on at any moment), leaky, coarse, newer and apart (what tensor cores make of
// bfloat16, see threads.h), sm_80 (no Hopper), unshared (kernels get no more shared memory than all
// do). STANDIN_WRONG names kernels, with spaces around them, that change the lowest bit of
// their first result. STANDIN_LOST, a number, lets so many kernels run before they fail, those of
// a device's self-test among them, with the error STANDIN_ERROR; STANDIN_MEMORY is the memory in
// bytes, STANDIN_CLAIM what is told of it.
//
// standin_count tells how often a function was called, or a kernel queued; standin_lose is
// STANDIN_LOST from now on.

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "../src/attend.cu"
#include "../src/attend_tensor.cu"
#include "../src/choose.cu"
#include "../src/integer.cu"
#include "../src/measure.cu"
#include "../src/mul.cu"
#include "../src/mul_few.cu"
#include "../src/mul_fp8.cu"
#include "../src/mul_grouped.cu"
#include "../src/mul_hopper.cu"
#include "../src/mul_tensor.cu"
#include "../src/mul_tensor_fp8.cu"
#include "../src/norm.cu"
#include "../src/rows.cu"

thread_local Index blockIdx, threadIdx, blockDim, gridDim;
alignas(1024) unsigned char dynamic_shared[most_dynamic_shared];

static bool told(const char *word) {
  const char *s = std::getenv("STANDIN");
  return s && std::string(s).find(word) != std::string::npos;
}

#include "threads.h"

namespace {

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, UNAVAILABLE = 46, NO_DEVICE = 100, BAD_DEVICE = 101,
       BAD_IMAGE = 200, NO_CONTEXT = 201, ECC = 214, NOT_FOUND = 500, NOT_READY = 600,
       ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, NOT_SUPPORTED = 801 };

typedef std::function<void(void **)> Body;

template <typename T> T argument(void **a, int i) { return *static_cast<T *>(a[i]); }

template <typename... A, size_t... I>
Body body(void (*f)(A...), std::index_sequence<I...>) {
  return [f](void **a) { f(argument<A>(a, I)...); };
}
// shared is the memory that launches may ask for.
struct Known {
  std::string name;
  int arguments;
  Body run;
  bool waits;
  unsigned shared;
  bool hopper() const { return name.find("_hopper_") != std::string::npos; }
};
template <typename... A> Known known(const char *name, void (*f)(A...)) {
  return Known{name, (int)sizeof...(A), body(f, std::index_sequence_for<A...>()), false,
               48 << 10};
}
// A kernel whose threads wait for each other.
template <typename... A> Known waiting(const char *name, void (*f)(A...)) {
  Known k = known(name, f);
  k.waits = true;
  return k;
}

std::vector<Known> kernels = {
    known("mul_f32", mul_f32), known("mul_bf16", mul_bf16), known("add_rows", add_rows),
    known("mul_fp8", mul_fp8), known("mul_grouped_fp8", mul_grouped_fp8),
    waiting("mul_few_fp8", mul_few_fp8), waiting("mul_tensor_fp8", mul_tensor_fp8),
    waiting("mul_narrow_fp8", mul_narrow_fp8),
    known("scale_rows", scale_rows), known("rotate_rows", rotate_rows),
    waiting("quantise_rows", quantise_rows), known("norm_sums", norm_sums),
    known("norm_factors", norm_factors), known("norm_apply", norm_apply),
    known("swiglu_rows", swiglu_rows), known("embed_rows", embed_rows),
    known("gather_rows", gather_rows), known("scatter_rows", scatter_rows),
    known("attend_store_f32", attend_store_f32), known("attend_store_bf16", attend_store_bf16),
    known("attend_store_int8", attend_store_int8), waiting("attend_f32", attend_f32),
    waiting("attend_bf16", attend_bf16), waiting("attend_int8", attend_int8),
    waiting("attend_tensor_bf16", attend_tensor_bf16),
    known("attend_merge", attend_merge), known("mul_grouped_f32", mul_grouped_f32),
    known("mul_grouped_bf16", mul_grouped_bf16), known("gate_topk", gate_topk),
    waiting("sample_topk", sample_topk), waiting("sample_merge", sample_merge),
    known("sample_read", sample_read), waiting("mul_few_f32", mul_few_f32),
    waiting("mul_few_bf16", mul_few_bf16), waiting("mul_few_int8", mul_few_int8),
    waiting("mul_few_int4", mul_few_int4), waiting("mul_tensor_int8", mul_tensor_int8),
    waiting("mul_tensor_int4", mul_tensor_int4), waiting("mul_narrow_int8", mul_narrow_int8),
    waiting("mul_narrow_int4", mul_narrow_int4), waiting("mul_tensor_bf16", mul_tensor_bf16),
    waiting("mul_wide_int8", mul_wide_int8), waiting("mul_hopper_int8", mul_hopper_int8),
    waiting("mul_hopper_int4", mul_hopper_int4), waiting("mul_hopper_bf16", mul_hopper_bf16),
    waiting("mul_hopper_fp8", mul_hopper_fp8),
    waiting("mul_narrow_bf16", mul_narrow_bf16), known("split_rows", split_rows), known("measure_read", measure_read),
    known("measure_fma", measure_fma), known("measure_int8", measure_int8),
    waiting("measure_bf16", measure_bf16), waiting("measure_tensor_int8", measure_tensor_int8),
    waiting("measure_hopper_bf16", measure_hopper_bf16),
    waiting("measure_hopper_int8", measure_hopper_int8)};

std::mutex guard;
std::map<uintptr_t, size_t> memory, pinned;
struct Stream;
struct Event {
  Stream *stream;
  size_t point;
  bool timed;
  std::shared_ptr<double> milliseconds;  // when a timed one was reached
};
// A piece of work, or a wait for an event of another stream.
struct Piece {
  enum Kind { COPY, KERNEL, WAIT } kind;
  std::function<int()> run;
  Event event;
};
// A stream is work that runs in order, up to a number of pieces of it.
struct Stream {
  std::deque<Piece> queued;
  size_t done = 0;  // pieces that ran, ever
  size_t end() { return done + queued.size(); }
};
std::set<Stream *> streams;
std::map<std::string, size_t> counts;
size_t used = 0, used_pinned = 0, launched = 0, last_kernel = SIZE_MAX;
int broken = OK, contexts = 0;
thread_local void *current = nullptr;
int context_object, module_object;

bool is_lost() {
  const char *after = std::getenv("STANDIN_LOST");
  return told("lost") || launched >= last_kernel || (after && launched >= (size_t)std::atol(after));
}

int lost_error() {
  const char *code = std::getenv("STANDIN_ERROR");
  return code ? std::atoi(code) : ILLEGAL_ADDRESS;
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

int begin(const char *function) {
  counts[function]++;
  return broken ? broken : current && contexts > 0 ? OK : NO_CONTEXT;
}

}  // namespace

#define API(name, ...) extern "C" int name(__VA_ARGS__)
#define BEGIN std::lock_guard<std::mutex> hold(guard); if (int e = begin(__func__)) return e

// How often a function was called, or a kernel queued; of "cu", all functions but
// cuCtxSetCurrent, which is called before each of the others.
API(standin_count, const char *name, size_t *n) {
  std::lock_guard<std::mutex> hold(guard);
  *n = counts[name];
  if (std::strcmp(name, "cu")) return OK;
  for (auto &c : counts)
    if (c.first.compare(0, 2, "cu") == 0) *n += c.second;
  return OK;
}

// How many more kernels run before the device is lost.
API(standin_lose, size_t after) {
  std::lock_guard<std::mutex> hold(guard);
  last_kernel = launched + after;
  return OK;
}

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
  const int major = told("sm_75") ? 7 : told("sm_80") ? 8 : 9;
  *v = what == 16 ? 132 : what == 75 ? major : told("sm_75") ? 5 : 0;
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
  if (--contexts == 0) broken = OK, last_kernel = SIZE_MAX;
  return OK;
}
API(cuCtxSetCurrent, void *c) { current = c; return c == &context_object ? OK : INVALID; }
API(cuGetErrorName, int e, const char **s) {
  static const std::map<int, const char *> names = {
      {INVALID, "CUDA_ERROR_INVALID_VALUE"}, {NO_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
      {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"}, {BAD_IMAGE, "CUDA_ERROR_INVALID_IMAGE"},
      {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"}, {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
      {UNAVAILABLE, "CUDA_ERROR_DEVICE_UNAVAILABLE"}, {ECC, "CUDA_ERROR_ECC_UNCORRECTABLE"},
      {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"}, {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"}};
  auto i = names.find(e);
  if (i == names.end()) return INVALID;
  *s = i->second;
  return OK;
}

static int allocate(std::map<uintptr_t, size_t> &m, uintptr_t *p, size_t n) {
  if (n == 0) return INVALID;
  if (&m == &memory && n > limit() - used) return NO_MEMORY;
  if (&m == &pinned && n > (told("small") ? 64 << 10 : 1 << 30) - used_pinned) return NO_MEMORY;
  *p = reinterpret_cast<uintptr_t>(std::malloc(n));
  std::memset(reinterpret_cast<void *>(*p), 0xa5, n);
  m[*p] = n;
  (&m == &memory ? used : used_pinned) += n;
  return OK;
}
static int run_to(Stream *s, size_t point);
static int run_event(Event e) {
  return streams.count(e.stream) ? run_to(e.stream, e.point) : broken;
}
static bool reached(Event e) { return !streams.count(e.stream) || e.stream->done >= e.point; }
static void run_next(Stream *s) {
  Piece p = std::move(s->queued.front());
  s->queued.pop_front();
  s->done++;
  if (p.kind == Piece::WAIT) run_event(p.event);
  if (broken || p.kind == Piece::WAIT) return;
  if (int e = p.run()) broken = e;
}
static int run_to(Stream *s, size_t point) {
  while (s->done < point && !s->queued.empty()) run_next(s);
  return broken;
}
// Runs what may run already, of streams that are not waited for.
static void go_on() {
  const bool early = told("early"), random = told("random");
  for (bool again = early || random; again;) {
    again = false;
    for (Stream *s : streams) {
      if (s->queued.empty() || (random && random_below(3) == 0)) continue;
      const Piece &p = s->queued.front();
      if (p.kind == Piece::WAIT ? !reached(p.event) : early && p.kind == Piece::KERNEL) continue;
      run_next(s);
      again = true;
    }
  }
}
static int queue(void *s, Piece::Kind kind, std::function<int()> run, Event e = {}) {
  static_cast<Stream *>(s)->queued.push_back({kind, std::move(run), e});
  go_on();
  return OK;
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
  (&m == &memory ? used : used_pinned) -= i->second;
  std::free(reinterpret_cast<void *>(p));
  m.erase(i);
  return OK;
}
API(cuMemAlloc_v2, uintptr_t *p, size_t n) { BEGIN; return allocate(memory, p, n); }
API(cuMemFree_v2, uintptr_t p) { BEGIN; return release(memory, p); }
API(cuMemHostAlloc, uintptr_t *p, size_t n, unsigned) { BEGIN; return allocate(pinned, p, n); }
API(cuMemFreeHost, uintptr_t p) { BEGIN; return release(pinned, p); }

static int copy(uintptr_t to, uintptr_t from, size_t n, void *s) {
  return queue(s, Piece::COPY, [=] {
    std::memcpy(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), n);
    return OK;
  });
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
  return queue(s, Piece::COPY,
               [=] { std::memset(reinterpret_cast<void *>(to), v, n); return OK; });
}
API(cuMemGetInfo_v2, size_t *free, size_t *total) {
  BEGIN;
  const char *claim = std::getenv("STANDIN_CLAIM");
  *free = limit() - used, *total = limit();
  if (claim) *free = *total = std::atol(claim);
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
API(cuEventCreate, void **e, unsigned flags) {
  BEGIN;
  *e = new Event{nullptr, 0, !(flags & 2), nullptr};
  return OK;
}
API(cuEventDestroy_v2, void *e) { delete static_cast<Event *>(e); return OK; }
API(cuEventRecord, void *e, void *s) {
  BEGIN;
  if (!is_stream(s)) return INVALID;
  Event *event = static_cast<Event *>(e);
  std::shared_ptr<double> at;
  if (event->timed) {
    at = std::make_shared<double>(-1);
    const int error = queue(s, Piece::KERNEL, [at] {
      *at = std::chrono::duration<double, std::milli>(
                std::chrono::steady_clock::now().time_since_epoch()).count();
      return OK;
    });
    if (error) return error;
  }
  Stream *stream = static_cast<Stream *>(s);
  *event = Event{stream, stream->end(), event->timed, at};
  return OK;
}
API(cuEventSynchronize, void *e) { BEGIN; return run_event(*static_cast<Event *>(e)); }
API(cuEventElapsedTime, float *milliseconds, void *from, void *to) {
  BEGIN;
  const Event *a = static_cast<Event *>(from), *b = static_cast<Event *>(to);
  if (!a->milliseconds || !b->milliseconds) return INVALID;
  if (*a->milliseconds < 0 || *b->milliseconds < 0) return NOT_READY;
  *milliseconds = (float)(*b->milliseconds - *a->milliseconds);
  return OK;
}
API(cuStreamWaitEvent, void *s, void *e, unsigned) {
  BEGIN;
  return is_stream(s) ? queue(s, Piece::WAIT, nullptr, *static_cast<Event *>(e)) : INVALID;
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
    if (k.name == name && !(k.hopper() && told("sm_80"))) { *f = &k; return OK; }
  return NOT_FOUND;
}
API(cuFuncSetAttribute, void *f, int what, int value) {
  BEGIN;
  if (what != 8 || value < 0 || value > (int)most_dynamic_shared || told("unshared")) return INVALID;
  static_cast<Known *>(f)->shared = value;
  return OK;
}
// A launch, with the arguments that it was given.
struct Launch {
  const Known *kernel;
  unsigned gx, gy, threads, shared;
  std::vector<uint64_t> values;

  int run() {
    if (is_lost()) return lost_error();
    launched++;
    std::vector<void *> a;
    for (auto &v : values) a.push_back(&v);
    const Order order = told("reverse") ? REVERSE : told("shuffle") ? SHUFFLE : FORWARD;
    const bool whole =
        run_grid(gx, gy, threads, shared, kernel->waits, order,
                 [&] { kernel->run(a.data()); });
    const char *wrong = std::getenv("STANDIN_WRONG");
    if (wrong && std::string(wrong).find(' ' + kernel->name + ' ') != std::string::npos)
      *reinterpret_cast<unsigned *>(values[0]) ^= 1;
    return whole ? OK : LAUNCH_FAILED;
  }
};
// The driver's CUDA_KERNEL_NODE_PARAMS_v2.
struct NodeParams {
  void *function;
  unsigned gx, gy, gz, bx, by, bz, shared;
  void **arguments, **extra;
  void *kernel, *context;
};
static int make_launch(const NodeParams &p, Launch *l) {
  if (p.gz != 1 || p.by != 1 || p.bz != 1 || p.extra || !p.gx || !p.gy || !p.bx ||
      p.gy > 65535 || p.bx > 1024 || p.kernel || !p.function)
    return INVALID;
  const Known *k = static_cast<const Known *>(p.function);
  if (p.shared > k->shared) return INVALID;
  *l = Launch{k, p.gx, p.gy, p.bx, p.shared, {}};
  for (int i = 0; i < k->arguments; i++)
    l->values.push_back(*static_cast<uint64_t *>(p.arguments[i]));
  return OK;
}
static int queue_launch(void *s, Launch l) {
  counts[l.kernel->name]++;
  return queue(s, Piece::KERNEL, [l]() mutable { return l.run(); });
}
API(cuLaunchKernel, void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
    unsigned bz, unsigned shared, void *s, void **arguments, void **extra) {
  BEGIN;
  Launch l;
  if (!is_stream(s) ||
      make_launch({f, gx, gy, gz, bx, by, bz, shared, arguments, extra, nullptr, nullptr}, &l))
    return INVALID;
  return queue_launch(s, l);
}

// A node of a graph runs after those that it depends on, and else as early as it can.
struct Node { Launch launch; std::vector<Node *> after; };
struct Graph { std::deque<Node> nodes; };
struct Exec { std::vector<Node *> order; std::map<Node *, Launch> launches; };
static std::map<void *, Graph> graphs;  // by handle
static std::map<void *, Exec> execs;
static std::set<Node *> graph_nodes;
static int next_handle[1 << 16], handles = 0;

API(cuGraphCreate, void **g, unsigned flags) {
  BEGIN;
  if (flags || handles == 1 << 16) return INVALID;
  graphs[*g = &next_handle[handles++]];
  return OK;
}
API(cuGraphDestroy, void *g) {
  std::lock_guard<std::mutex> hold(guard);
  auto i = graphs.find(g);
  if (i == graphs.end()) return INVALID;
  for (Node &n : i->second.nodes) graph_nodes.erase(&n);
  graphs.erase(i);
  return OK;
}
API(cuGraphAddKernelNode_v2, void **node, void *g, void *const *after, size_t n,
    const NodeParams *p) {
  BEGIN;
  auto i = graphs.find(g);
  Launch l;
  if (i == graphs.end() || make_launch(*p, &l)) return INVALID;
  Node fresh{l, {}};
  for (size_t j = 0; j < n; j++) {
    if (!graph_nodes.count(static_cast<Node *>(after[j]))) return INVALID;
    fresh.after.push_back(static_cast<Node *>(after[j]));
  }
  i->second.nodes.push_back(fresh);
  graph_nodes.insert(&i->second.nodes.back());
  *node = &i->second.nodes.back();
  return OK;
}
API(cuGraphInstantiateWithFlags, void **e, void *g, unsigned long long flags) {
  BEGIN;
  auto i = graphs.find(g);
  if (told("nographs")) return NOT_SUPPORTED;
  if (i == graphs.end() || flags || handles == 1 << 16) return INVALID;
  Exec exec;
  std::deque<Node> &nodes = i->second.nodes;
  while (exec.order.size() < nodes.size()) {
    for (size_t j = nodes.size(); j-- > 0;) {  // the last one that may run
      Node *n = &nodes[j];
      bool ready = !exec.launches.count(n);
      for (Node *a : n->after) ready = ready && exec.launches.count(a);
      if (!ready) continue;
      exec.order.push_back(n);
      exec.launches[n] = n->launch;
      break;
    }
  }
  execs[*e = &next_handle[handles++]] = exec;
  return OK;
}
API(cuGraphExecDestroy, void *e) {
  std::lock_guard<std::mutex> hold(guard);
  return execs.erase(e) ? OK : INVALID;
}
API(cuGraphExecKernelNodeSetParams_v2, void *e, void *node, const NodeParams *p) {
  BEGIN;
  auto i = execs.find(e);
  if (i == execs.end()) return INVALID;
  auto at = i->second.launches.find(static_cast<Node *>(node));
  Launch l;
  if (at == i->second.launches.end() || make_launch(*p, &l) || l.kernel != at->second.kernel)
    return INVALID;
  at->second = l;
  return OK;
}
API(cuGraphLaunch, void *e, void *s) {
  BEGIN;
  auto i = execs.find(e);
  if (told("nolaunch")) return NOT_SUPPORTED;
  if (i == execs.end() || !is_stream(s)) return INVALID;
  for (Node *n : i->second.order) queue_launch(s, i->second.launches[n]);
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
