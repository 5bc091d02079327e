// SPDX-License-Identifier: Apache-2.0
//
// Times the CPU kernels of one SIMD level alone, on one thread, without PyTorch: for comparisons of
// two states of csrc/ (bench/compare_commits.py). One line per case: its name and seconds per call.
//
//   times [BUDGET]       seconds for each case
//   times NAME CALLS     calls that case so often, and prints nothing: to be run by a tool that
//                        counts instructions (bench/instructions.py)
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/kernels.h"

#define DG_CONCAT_(a, b) a##b
#define DG_CONCAT(a, b) DG_CONCAT_(a, b)

namespace dg {
extern const Kernels<float> DG_CONCAT(kFloatKernels_, LEVEL);
}

namespace {

using namespace dg;
using Clock = std::chrono::steady_clock;

const Kernels<float>& table() { return DG_CONCAT(kFloatKernels_, LEVEL); }

void run_serially(int64_t count, void (*task)(void*, int64_t), void* context) {
  for (int64_t i = 0; i < count; ++i) task(context, i);
}

// The median of calls that together take `budget` seconds, at least five.
template <class Call>
double seconds_of(Call&& call, double budget) {
  call();
  std::vector<double> times;
  for (double spent = 0.0; spent < budget || times.size() < 5; spent += times.back()) {
    const auto start = Clock::now();
    call();
    times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

struct Case {
  int64_t rows, n, k, samples;
  bool linear;  // by the linear recursion; else by the contour
};

constexpr Case kCases[] = {
    {16384, 4, 2, 1, true},    {2000, 20, 10, 1, true},    {1024, 64, 8, 1, true},
    {64, 256, 32, 1, false},   {64, 256, 32, 10, false},   {64, 1024, 64, 1, false},
    {1, 8192, 1000, 1, false}, {2, 65536, 4096, 1, false},
};

// How a case is run: timed, or called so often if it has this name.
struct Mode {
  double budget = 0.05;
  const char* name = nullptr;
  int64_t calls = 0;
};

class Bench {
 public:
  Bench(const Case& c, const Mode& mode)
      : case_(c),
        mode_(mode),
        logits_(c.rows * c.n),
        grad_(c.rows * c.n),
        out_(c.samples * c.rows * c.n),
        scalars_(c.rows),
        state_(c.rows * contour_state_width<float>()) {
    std::mt19937_64 generator(static_cast<uint64_t>(c.rows * 7 + c.n * 3 + c.k));
    std::normal_distribution<double> normal;
    for (float& value : logits_) value = static_cast<float>(normal(generator));
    for (float& value : grad_) value = static_cast<float>(std::tanh(normal(generator)));
  }

  void run() {
    const Rows<float> rows{logits_.data(), nullptr, case_.k, case_.rows, case_.n};
    const Executor executor{run_serially};
    // The backward pass of the contour starts from what the forward pass left.
    table().contour_forward(rows, 0, case_.rows, out_.data(), scalars_.data(), state_.data(),
                            executor);
    report("forward", [&] {
      if (case_.linear) {
        table().tree_forward(rows, TreeAlgebra::kLinear, 0, case_.rows, out_.data(),
                             scalars_.data());
      } else {
        table().contour_forward(rows, 0, case_.rows, out_.data(), scalars_.data(), state_.data(),
                                executor);
      }
    });
    report("vjp", [&] {
      if (case_.linear) {
        table().linear_vjp(rows, 0, case_.rows, grad_.data(), nullptr, out_.data());
      } else {
        table().contour_vjp(rows, 0, case_.rows, state_.data(), grad_.data(), nullptr, out_.data(),
                            executor);
      }
    });
    report("sample", [&] { sample(rows, executor); });
  }

 private:
  template <class Call>
  void report(const char* op, Call&& call) {
    char name[80];
    std::snprintf(name, sizeof(name), "%s-%ldx%ld-k%ld-s%ld", op, static_cast<long>(case_.rows),
                  static_cast<long>(case_.n), static_cast<long>(case_.k),
                  static_cast<long>(case_.samples));
    if (mode_.name == nullptr) {
      std::printf("%s %.6g\n", name, seconds_of(call, mode_.budget));
    } else if (std::strcmp(name, mode_.name) == 0) {
      for (int64_t i = 0; i < mode_.calls; ++i) call();
    }
  }

#if __has_include("cpu/outputs.h")
  void sample(const Rows<float>& rows, const Executor& executor) {
    const float one = 1.0f, invalid = NAN;
    uint32_t bits_of_one, bits_of_invalid;
    std::memcpy(&bits_of_one, &one, sizeof(one));
    std::memcpy(&bits_of_invalid, &invalid, sizeof(invalid));
    const SubsetOutput to{SubsetOutput::Form::kHot, out_.data(), sizeof(float), bits_of_one,
                          bits_of_invalid};
    table().sample(rows, 0, case_.rows, case_.samples, /*seed=*/12345, to, executor);
  }
#else
  // Before that header a drawn row was handed to a callback.
  void sample(const Rows<float>& rows, const Executor& executor) {
    const SampleSink to{[](void* context, int64_t row, int64_t sample, const uint8_t* chosen) {
                          auto* bench = static_cast<Bench*>(context);
                          const int64_t n = bench->case_.n;
                          float* out = bench->out_.data() + (sample * bench->case_.rows + row) * n;
                          for (int64_t i = 0; i < n; ++i) {
                            out[i] = chosen == nullptr ? NAN : static_cast<float>(chosen[i]);
                          }
                        },
                        this};
    table().sample(rows, 0, case_.rows, case_.samples, /*seed=*/12345, to, executor);
  }
#endif

  Case case_;
  Mode mode_;
  std::vector<float> logits_, grad_, out_, scalars_, state_;
};

}  // namespace

int main(int argc, char** argv) {
  Mode mode;
  if (argc == 3) {
    mode.name = argv[1];
    mode.calls = std::atoll(argv[2]);
  } else if (argc == 2) {
    mode.budget = std::atof(argv[1]);
  }
  for (const Case& c : kCases) Bench(c, mode).run();
  return 0;
}
