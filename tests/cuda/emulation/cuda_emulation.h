// SPDX-License-Identifier: Apache-2.0
//
// Runs CUDA kernels on a CPU, for tests: g++ -x c++ -DDG_CUDA_EMULATION compiles a .cu file against
// this header instead of cuda_runtime.h.
//
// Blocks run one after the other. The threads of a block are fibers on one thread of the operating
// system; a fiber runs until it reaches a barrier or a warp collective, and a warp until it waits
// for others. So every schedule is deterministic, and tests run several (cuda_emulation_schedule).
// What a GPU would leave undefined is an error here, or visible:
//
//   - a barrier or a collective that not all of its threads reach, or that they reach at different
//     places of the source, ends the launch with an error (cuda_emulation_error has the words);
//   - shared memory is filled with NaN (0xFF bytes) before every block. It is the thread-local
//     storage of the shared library that the kernel is in, so kernels are built into a library
//     without other thread-local variables.
//
// Not here: inter-block communication, textures, dimensions other than x, and anything approximate:
// intrinsics are computed in full precision.
#pragma once

#include <link.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __shared__ static thread_local
#define __constant__ static const
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

namespace cuda_emulation {

constexpr unsigned kMostThreads = 1024;
constexpr size_t kStackBytes = size_t{256} << 10;
constexpr int kLaunchFailure = 719;  // cudaErrorLaunchFailure
constexpr int kInvalidConfiguration = 9;
constexpr size_t kStaticSharedLimit = size_t{48} << 10;

enum class Wait { kNone, kBlock, kWarp, kDone };

// What a lane brings to a collective of its warp, and what it takes away.
struct Exchange {
  unsigned mask = 0;
  int source = 0;  // lane whose value is wanted
  uint64_t value = 0;
  uint64_t result = 0;
  unsigned ballot = 0;
};

struct Fiber {
  jmp_buf here;
  ucontext_t entry;
  char* stack = nullptr;
  bool started = false;
  Wait wait = Wait::kDone;
  const char* file = "";
  int line = 0;
  Exchange exchange;
};

struct Machine {
  Fiber fibers[kMostThreads];
  jmp_buf scheduler;
  ucontext_t scheduler_entry;
  unsigned current = 0;
  unsigned threads = 0;
  unsigned at_collective[kMostThreads / 32] = {};  // lanes of each warp
  void (*body)(void*) = nullptr;
  void* context = nullptr;
  uint64_t schedule = 0;
  uint64_t random = 0;
  unsigned char* dynamic_shared = nullptr;
  std::string error;
};

inline Machine& machine() {
  static Machine* instance = new Machine();
  return *instance;
}

inline Fiber& fiber() { return machine().fibers[machine().current]; }

// Back to the scheduler, until it comes here again.
__attribute__((noinline)) inline void yield() {
  Machine& m = machine();
  if (_setjmp(m.fibers[m.current].here) == 0) _longjmp(m.scheduler, 1);
}

// A fiber is made once and serves one thread of each block after the other.
inline void run_fiber() {
  for (;;) {
    Machine& m = machine();
    m.body(m.context);
    m.fibers[machine().current].wait = Wait::kDone;
    yield();
  }
}

__attribute__((noinline)) inline void resume(unsigned thread) {
  Machine& m = machine();
  m.current = thread;
  threadIdx = dim3(thread, 0, 0);
  Fiber& f = m.fibers[thread];
  if (_setjmp(m.scheduler) != 0) return;
  if (f.started) _longjmp(f.here, 1);
  f.started = true;
  if (f.stack == nullptr) {
    f.stack = static_cast<char*>(mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (f.stack == MAP_FAILED) std::abort();
  }
  getcontext(&f.entry);
  f.entry.uc_stack.ss_sp = f.stack;
  f.entry.uc_stack.ss_size = kStackBytes;
  f.entry.uc_link = nullptr;
  makecontext(&f.entry, run_fiber, 0);
  setcontext(&f.entry);
}

inline void wait_at(Wait wait, const char* file, int line) {
  Fiber& f = fiber();
  f.wait = wait;
  f.file = file;
  f.line = line;
  yield();
}

inline std::string place(const Fiber& f) {
  if (f.wait == Wait::kDone) return "has returned";
  const char* name = std::strrchr(f.file, '/');
  return std::string("is at ") + (name == nullptr ? f.file : name + 1) + ":" +
         std::to_string(f.line);
}

inline bool fail(const std::string& what, unsigned a, unsigned b) {
  Machine& m = machine();
  m.error = what + " in block " + std::to_string(blockIdx.x) + ": thread " + std::to_string(a) +
            " " + place(m.fibers[a]) + ", thread " + std::to_string(b) + " " + place(m.fibers[b]);
  return false;
}

// Lets the block pass the barrier where all of its threads have come to it; `moved`: they have.
inline bool release_block(bool* moved) {
  Machine& m = machine();
  for (unsigned t = 0; t < m.threads; ++t) {
    const Fiber& f = m.fibers[t];
    if (f.wait != Wait::kBlock) return true;
    if (f.line != m.fibers[0].line || std::strcmp(f.file, m.fibers[0].file) != 0) {
      return fail("threads at different barriers", 0, t);
    }
  }
  for (unsigned t = 0; t < m.threads; ++t) m.fibers[t].wait = Wait::kNone;
  *moved = true;
  return true;
}

// Completes a collective of the warp of `thread`, where all lanes of its mask have come to it.
inline bool release_warp(unsigned thread, bool* moved) {
  Machine& m = machine();
  const unsigned first = thread & ~31u;
  Fiber* lanes = m.fibers + first;
  const Fiber& f = m.fibers[thread];
  const unsigned mask = f.exchange.mask;
  if ((mask >> (thread - first) & 1u) == 0) {
    return fail("a lane is not in the mask of its own collective", thread, thread);
  }
  if (first + 32 > m.threads && mask >> (m.threads - first) != 0) {
    return fail("a mask beyond the block", thread, thread);
  }
  unsigned& waiting = m.at_collective[first / 32];
  if ((waiting & mask) != mask) return true;
  unsigned ballot = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1u) == 0) continue;
    if (lanes[lane].exchange.mask != mask || lanes[lane].line != f.line ||
        std::strcmp(lanes[lane].file, f.file) != 0) {
      return fail("lanes of one mask at different collectives", thread, first + lane);
    }
    if (lanes[lane].exchange.value != 0) ballot |= 1u << lane;
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1u) == 0) continue;
    Exchange& exchange = lanes[lane].exchange;
    if ((mask >> exchange.source & 1u) == 0) {
      return fail("a shuffle from a lane outside its mask", first + lane, first + lane);
    }
    exchange.result = lanes[exchange.source].exchange.value;
    exchange.ballot = ballot;
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1u) lanes[lane].wait = Wait::kNone;
  }
  waiting &= ~mask;
  *moved = true;
  return true;
}

// The warps of the block, or the lanes of a warp, in the order of the schedule.
inline void draw_order(unsigned count, unsigned* order) {
  Machine& m = machine();
  for (unsigned i = 0; i < count; ++i) order[i] = m.schedule == 1 ? count - 1 - i : i;
  for (unsigned i = count; m.schedule > 1 && i > 1; --i) {
    m.random = m.random * 6364136223846793005u + 1442695040888963407u;
    std::swap(order[i - 1], order[(m.random >> 33) % i]);
  }
}

// A warp, until all of its threads have returned or wait for others; `left`: those that wait.
inline bool run_warp(unsigned warp, bool* moved, unsigned* left) {
  Machine& m = machine();
  const unsigned first = 32 * warp;
  const unsigned lanes = m.threads - first < 32 ? m.threads - first : 32;
  unsigned order[32];
  for (bool again = true; again;) {
    again = false;
    *left = 0;
    draw_order(lanes, order);
    for (unsigned i = 0; i < lanes; ++i) {
      const unsigned t = first + order[i];
      if (m.fibers[t].wait == Wait::kNone) {
        resume(t);
        again = true;
      }
      if (m.fibers[t].wait == Wait::kWarp && !release_warp(t, &again)) return false;
      if (m.fibers[t].wait != Wait::kDone) ++*left;
    }
    *moved = *moved || again;
  }
  return true;
}

// One block, to its end or its first error. A warp goes on until it waits for others: what it may
// not run ahead of, it does run ahead of.
inline bool run_block() {
  Machine& m = machine();
  for (unsigned t = 0; t < m.threads; ++t) m.fibers[t].wait = Wait::kNone;
  for (unsigned& lanes : m.at_collective) lanes = 0;
  const unsigned warps = (m.threads + 31) / 32;
  unsigned order[kMostThreads / 32];
  for (;;) {
    bool moved = false;
    unsigned left = 0;
    draw_order(warps, order);
    for (unsigned i = 0; i < warps; ++i) {
      unsigned of_warp = 0;
      if (!run_warp(order[i], &moved, &of_warp)) return false;
      left += of_warp;
    }
    if (left == 0) return true;
    if (!release_block(&moved)) return false;
    if (moved) continue;
    // Nobody can go on: somebody waits for one who has returned or waits for something else.
    unsigned waiting = 0, other = 0;
    while (m.fibers[waiting].wait == Wait::kDone) ++waiting;
    for (unsigned t = 0; t < m.threads; ++t) {
      if (m.fibers[t].wait != m.fibers[waiting].wait) other = t;
    }
    return fail("a barrier that not all threads reach", waiting, other);
  }
}

// Fills the shared memory of this library: the thread-local storage of the calling thread.
inline void poison_shared() {
  static thread_local char anchor;
  struct Search {
    const char* address;
    void* begin;
    size_t size;
  } search{nullptr, nullptr, 0};
  asm volatile("" : : "r"(&anchor) : "memory");
  search.address = &anchor;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* opaque) {
        auto* s = static_cast<Search*>(opaque);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          if (info->dlpi_phdr[i].p_type != PT_TLS || info->dlpi_tls_data == nullptr) continue;
          auto* begin = static_cast<char*>(info->dlpi_tls_data);
          if (s->address >= begin && s->address < begin + info->dlpi_phdr[i].p_memsz) {
            s->begin = begin;
            s->size = info->dlpi_phdr[i].p_memsz;
            return 1;
          }
        }
        return 0;
      },
      &search);
  if (search.begin != nullptr) std::memset(search.begin, 0xFF, search.size);
}

template <class Body>
int launch(dim3 grid, dim3 block, size_t dynamic_bytes, Body&& body) {
  Machine& m = machine();
  if (block.x == 0 || block.x > kMostThreads || grid.x == 0 || dynamic_bytes > kStaticSharedLimit) {
    m.error = "a launch of " + std::to_string(grid.x) + " blocks of " + std::to_string(block.x) +
              " threads with " + std::to_string(dynamic_bytes) + " bytes of shared memory";
    return kInvalidConfiguration;
  }
  m.error.clear();
  m.threads = block.x;
  m.body = [](void* context) { (*static_cast<std::remove_reference_t<Body>*>(context))(); };
  m.context = &body;
  m.random = m.schedule;
  blockDim = block;
  gridDim = grid;
  m.dynamic_shared = static_cast<unsigned char*>(std::malloc(dynamic_bytes + 1));
  bool ok = true;
  for (unsigned b = 0; ok && b < grid.x; ++b) {
    blockIdx = dim3(b, 0, 0);
    poison_shared();
    std::memset(m.dynamic_shared, 0xFF, dynamic_bytes);
    ok = run_block();
  }
  // Fibers that are left in the middle of a kernel start anew.
  if (!ok) {
    for (Fiber& f : m.fibers) f.started = false;
  }
  std::free(m.dynamic_shared);
  return ok ? 0 : kLaunchFailure;
}

inline unsigned char* dynamic_shared() { return machine().dynamic_shared; }

template <class T>
T collective(unsigned mask, T value, int source, unsigned* ballot, const char* file, int line) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "values of up to 8 bytes are exchanged");
  Exchange& exchange = fiber().exchange;
  exchange.mask = mask;
  exchange.source = source;
  exchange.value = 0;
  std::memcpy(&exchange.value, &value, sizeof(T));
  machine().at_collective[threadIdx.x / 32] |= 1u << (threadIdx.x % 32);
  wait_at(Wait::kWarp, file, line);
  if (ballot != nullptr) *ballot = exchange.ballot;
  T result;
  std::memcpy(&result, &exchange.result, sizeof(T));
  return result;
}

inline int lane() { return static_cast<int>(threadIdx.x & 31u); }

// Where a shuffle within segments of `width` lanes reads; out of the segment, from itself.
inline int source_lane(int target, int width, bool inside) {
  return inside ? (lane() & ~(width - 1)) + target : lane();
}

inline unsigned ballot_of(unsigned mask, bool predicate, const char* file, int line) {
  unsigned ballot = 0;
  collective<uint32_t>(mask, predicate ? 1u : 0u, lane(), &ballot, file, line);
  return ballot;
}

inline int position(int lane_in_segment, int width) { return lane_in_segment & (width - 1); }

template <class T>
T shuffle(const char* file, int line, unsigned mask, T value, int from, int width = 32) {
  return collective(mask, value, source_lane(from & (width - 1), width, true), nullptr, file, line);
}
template <class T>
T shuffle_xor(const char* file, int line, unsigned mask, T value, int flip, int width = 32) {
  const int to = position(lane(), width) ^ flip;
  return collective(mask, value, source_lane(to, width, to < width), nullptr, file, line);
}
template <class T>
T shuffle_down(const char* file, int line, unsigned mask, T value, unsigned by, int width = 32) {
  const int to = position(lane(), width) + static_cast<int>(by);
  return collective(mask, value, source_lane(to, width, to < width), nullptr, file, line);
}
template <class T>
T shuffle_up(const char* file, int line, unsigned mask, T value, unsigned by, int width = 32) {
  const int to = position(lane(), width) - static_cast<int>(by);
  return collective(mask, value, source_lane(to, width, to >= 0), nullptr, file, line);
}

template <class To, class From>
To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "a change of type, not of size");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

}  // namespace cuda_emulation

#define __syncthreads() \
  ::cuda_emulation::wait_at(::cuda_emulation::Wait::kBlock, __FILE__, __LINE__)
#define __syncwarp(...)                                                                      \
  (void)::cuda_emulation::ballot_of(::cuda_emulation::mask_of(__VA_ARGS__), false, __FILE__, \
                                    __LINE__)
#define __ballot_sync(mask, predicate) \
  ::cuda_emulation::ballot_of(mask, predicate, __FILE__, __LINE__)
#define __any_sync(mask, predicate) \
  (::cuda_emulation::ballot_of(mask, predicate, __FILE__, __LINE__) != 0)
#define __all_sync(mask, predicate) \
  (::cuda_emulation::ballot_of(mask, !(predicate), __FILE__, __LINE__) == 0)
#define __shfl_sync(...) ::cuda_emulation::shuffle(__FILE__, __LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) ::cuda_emulation::shuffle_xor(__FILE__, __LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) ::cuda_emulation::shuffle_down(__FILE__, __LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) ::cuda_emulation::shuffle_up(__FILE__, __LINE__, __VA_ARGS__)

namespace cuda_emulation {
inline unsigned mask_of(unsigned mask = 0xFFFFFFFFu) { return mask; }
}  // namespace cuda_emulation

inline void __threadfence() {}
inline void __threadfence_block() {}
template <class T>
T __ldg(const T* address) {
  return *address;
}

// Fibers change places at barriers only, so these are atomic.
template <class T, class U>
T atomicAdd(T* address, U value) {
  static_assert(std::is_integral<T>::value, "float atomics are not deterministic");
  const T before = *address;
  *address = static_cast<T>(before + static_cast<T>(value));
  return before;
}
template <class T, class U>
T atomicMax(T* address, U value) {
  const T before = *address;
  if (static_cast<T>(value) > before) *address = static_cast<T>(value);
  return before;
}
template <class T, class U>
T atomicMin(T* address, U value) {
  const T before = *address;
  if (static_cast<T>(value) < before) *address = static_cast<T>(value);
  return before;
}
template <class T, class U>
T atomicOr(T* address, U value) {
  const T before = *address;
  *address = before | static_cast<T>(value);
  return before;
}
template <class T, class U>
T atomicExch(T* address, U value) {
  const T before = *address;
  *address = static_cast<T>(value);
  return before;
}
template <class T, class U, class V>
T atomicCAS(T* address, U expected, V value) {
  const T before = *address;
  if (before == static_cast<T>(expected)) *address = static_cast<T>(value);
  return before;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) {
  return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}
inline int __float_as_int(float x) { return cuda_emulation::bits<int>(x); }
inline unsigned __float_as_uint(float x) { return cuda_emulation::bits<unsigned>(x); }
inline float __int_as_float(int x) { return cuda_emulation::bits<float>(x); }
inline float __uint_as_float(unsigned x) { return cuda_emulation::bits<float>(x); }
inline long long __double_as_longlong(double x) { return cuda_emulation::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return cuda_emulation::bits<double>(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float sinpif(float x) { return static_cast<float>(std::sin(3.14159265358979323846 * x)); }
inline float cospif(float x) { return static_cast<float>(std::cos(3.14159265358979323846 * x)); }
inline double sinpi(double x) { return std::sin(3.14159265358979323846 * x); }
inline double cospi(double x) { return std::cos(3.14159265358979323846 * x); }

// Called by tests. The default visibility makes them symbols of the test library.
extern "C" {
// 0: warps and their lanes in order; 1: in reverse; another number: in orders drawn from it.
__attribute__((visibility("default"), used)) inline void cuda_emulation_schedule(uint64_t number) {
  cuda_emulation::machine().schedule = number;
}
// What was wrong with the last launch that failed.
__attribute__((visibility("default"), used)) inline const char* cuda_emulation_error() {
  return cuda_emulation::machine().error.c_str();
}
}
